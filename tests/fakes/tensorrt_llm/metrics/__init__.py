"""The engine's own Prometheus metrics, in the default registry."""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Gauge
from trtllm_backend.variants import VARIANT


class MetricsCollector:
    """One per process."""

    def __init__(self, labels: dict[str, str], **buckets: Any) -> None:
        del buckets
        self._labels = dict(labels)
        names = [*self._labels, "finished_reason"]
        prefix = VARIANT.metric_prefix
        self._success = Counter(prefix + "request_success_total", "Requests.", names)
        self._used = Gauge(prefix + "kv_cache_utilization", "Blocks in use.", list(self._labels))

    def _log(self, metrics_dict: dict[str, Any]) -> None:
        self._success.labels(**self._labels, finished_reason="all").inc()

    if VARIANT.snapshot == "1.2":
        log_metrics_dict = _log
    else:
        log_request_metrics_dict = _log

        def log_iteration_stats(self, iteration_stats: dict[str, Any]) -> None:
            kv = iteration_stats["kvCacheStats"]
            used = kv["usedNumBlocks"] / kv["maxNumBlocks"]
            self._used.labels(**self._labels).set(used)

        def log_config_info(self) -> None:
            pass
