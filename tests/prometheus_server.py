"""A real Prometheus in a temporary directory, if the machine has one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from shepherd_cli.process import ChildProcess
from shepherd_cli.stack import free_port

MISSING = "needs Prometheus (Debian: apt-get install prometheus)"


def is_installed() -> bool:
    return bool(shutil.which("prometheus") and shutil.which("promtool"))


class PrometheusServer:
    """Scrapes targets every half second; `query` as its HTTP API has it."""

    def __init__(self, directory: Path, http: aiohttp.ClientSession) -> None:
        self._directory = directory
        self._http = http
        self.url = f"http://127.0.0.1:{free_port()}"

    async def start(self, targets: Mapping[str, list[str]], rules: Path) -> ChildProcess:
        """`targets` are HOST:PORT by job."""
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": each}]}
                for job, each in targets.items()
            ],
        }
        path = self._directory / "prometheus.yaml"
        path.write_text(yaml.safe_dump(config))
        argv = [
            "prometheus",
            f"--config.file={path}",
            f"--storage.tsdb.path={self._directory / 'tsdb'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]
        log = self._directory / "prometheus.log"
        process = await ChildProcess.start(
            "prometheus", argv, {"PATH": "/usr/bin:/usr/local/bin"}, log
        )
        await process.until(self._ready, timeout_s=20)
        return process

    async def values(self, expr: str) -> list[float]:
        """What an expression is now, one number a series; NaN left out."""
        found = await self._get("/api/v1/query", query=expr)
        numbers = [float(each["value"][1]) for each in found["data"]["result"]]
        return [number for number in numbers if not math.isnan(number)]

    async def health_of_targets(self) -> dict[str, str]:
        found = await self._get("/api/v1/targets")
        return {each["scrapeUrl"]: each["health"] for each in found["data"]["activeTargets"]}

    async def _ready(self) -> bool:
        try:
            async with self._http.get(self.url + "/-/ready") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def _get(self, path: str, **params: str) -> dict[str, Any]:
        async with self._http.get(self.url + path, params=params) as answer:
            document: dict[str, Any] = await answer.json()

            assert answer.status == 200, document
            return document
