"""The workers' dashboard."""

from __future__ import annotations

from shepherd_cli.observability.dashboards import Board, Panel
from shepherd_cli.observability.queries import now, quantiles, rate, rates, share
from shepherd_cli.observability.shared_panels import (
    FIRST_TOKEN,
    PROMPT_TOKENS,
    REQUESTS,
)

_W = "shepherd_worker"

WORKER = Board(
    "shepherd-worker",
    "Shepherd: workers",
    "Requests, the paged KV cache and its transfer.",
    (
        REQUESTS,
        FIRST_TOKEN,
        Panel(
            "Between chunks",
            "Seconds between the chunks of one request.",
            quantiles(f"{_W}_inter_chunk_seconds"),
            "s",
        ),
        Panel(
            "Request duration",
            "From arrival to the last token.",
            quantiles(f"{_W}_request_duration_seconds"),
            "s",
        ),
        Panel(
            "In the batch",
            "Sequences that are computed; by worker.",
            (now(f"{_W}_requests_running"),),
        ),
        Panel(
            "Waiting",
            "Sequences without a place, and requests that found the queue full.",
            (now(f"{_W}_requests_waiting"), rate(f"{_W}_requests_refused_total")),
        ),
        Panel(
            "Time in the queue",
            "Until a pass computed for a sequence; not with TensorRT-LLM, which measures it itself.",
            quantiles(f"{_W}_queue_wait_seconds"),
            "s",
        ),
        Panel(
            "Time to cancel",
            "From a client's leaving until its blocks were free.",
            quantiles(f"{_W}_cancel_latency_seconds"),
            "s",
        ),
        PROMPT_TOKENS,
        Panel(
            "Device blocks",
            "By what they are used for; referenced ones cannot be evicted.",
            (now(f"{_W}_kv_blocks", by="state"),),
        ),
        Panel(
            "Host blocks",
            "The tier that device blocks move to; empty without --host-cache-size.",
            (now(f"{_W}_kv_host_blocks", by="state"),),
        ),
        Panel(
            "Blocks stored and evicted",
            "Evicted blocks are on no tier any more.",
            rates(f"{_W}_kv_blocks_stored_total", f"{_W}_kv_blocks_evicted_total"),
        ),
        Panel(
            "Between device and host",
            "Blocks a second.",
            rates(f"{_W}_kv_blocks_offloaded_total", f"{_W}_kv_blocks_onboarded_total"),
        ),
        Panel(
            "Preemptions",
            "Sequences put back for want of blocks: the cache is too small for the batch.",
            (rate(f"{_W}_preemptions_total"),),
        ),
        Panel(
            "KV moved",
            "Bytes a second fetched from, or handed out by, another worker.",
            (rate(f"{_W}_kv_transfer_bytes_total"),),
            "Bps",
        ),
        Panel(
            "Transfers",
            "Handoffs fetched, by transport.",
            (rate(f"{_W}_kv_transfers_total", by="transport"),),
        ),
        Panel(
            "Transfer time",
            "Until a handoff's KV had been fetched.",
            quantiles(f"{_W}_kv_transfer_duration_seconds"),
            "s",
        ),
        Panel(
            "Transfers that failed",
            "Failed handoffs are computed again; nothing is lost but time.",
            rates(
                f"{_W}_kv_transfer_failures_total",
                f"{_W}_kv_transfers_broken_off_total",
                f"{_W}_kv_leases_expired_total",
            ),
        ),
        Panel(
            "Guessed tokens that were right",
            "Of the tokens that speculation guessed; 0 without speculation.",
            (share(f"{_W}_accepted_tokens_total", f"{_W}_drafted_tokens_total", "accepted"),),
            "percentunit",
        ),
        Panel(
            "KV store",
            "Blocks found in and written past the KV store; needs --kv-connector.",
            rates(f"{_W}_kv_store_hits_total", f"{_W}_kv_store_misses_total"),
        ),
        Panel(
            "Phase",
            "Workers by the phase that they are in.",
            (now(f"{_W}_phase", by="phase"),),
        ),
        Panel(
            "Drain time",
            "Seconds since a worker was told to end; 0 before.",
            (now(f"{_W}_drain_duration_seconds"),),
            "s",
        ),
        Panel(
            "Canaries",
            "Dynamo's probes of a worker, by how they ended; needs --health-probe.",
            (rate(f"{_W}_canaries_total", by="outcome"),),
        ),
        Panel(
            "Model load time",
            "From the engine's start until it could compute.",
            (now(f"{_W}_model_load_seconds"),),
            "s",
        ),
    ),
)
