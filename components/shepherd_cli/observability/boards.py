"""The dashboards: what an operator asks first, then each part."""

from __future__ import annotations

from shepherd_cli.observability.dashboards import Board, Panel, Query
from shepherd_cli.observability.gateway_board import GATEWAY
from shepherd_cli.observability.queries import now, quantiles, rate, rates, share

_W, _S, _R, _M = "shepherd_worker", "shepherd_stream", "shepherd_stream_reader", "shepherd_memory"
_IN_USE = (
    f'sum by (instance) ({_W}_kv_blocks{{instance=~"$instance", state!="empty"}})'
    f' / clamp_min(sum by (instance) ({_W}_kv_blocks{{instance=~"$instance"}}), 1)'
)
_UP = 'shepherd_ready{instance=~"$instance"} * on (instance, job) group_left (component) shepherd_build_info'
_LATE = 'histogram_quantile(0.99, sum by (le, instance) (rate(shepherd_event_loop_lag_seconds_bucket{instance=~"$instance"}[$__rate_interval])))'

REQUESTS = Panel(
    "Requests",
    "Requests a second by how they ended; migrated ones go on at another worker.",
    (rate(f"{_W}_requests_total", by="outcome"),),
    "reqps",
)
FIRST_TOKEN = Panel(
    "Time to first token",
    "From a request's arrival at a worker to its first token.",
    quantiles(f"{_W}_time_to_first_token_seconds"),
    "s",
)
PROMPT_TOKENS = Panel(
    "Prompt tokens by source",
    "Where the KV of prompt tokens came from: all but `computed` was saved work.",
    (rate(f"{_W}_prompt_tokens_total", by="source"),),
)
STREAM_LAG = Panel(
    "Event lag",
    "From a frame's publication until its effects are committed in memory.",
    quantiles(f"{_S}_consumer_lag_seconds"),
    "s",
)
ARCHIVED = Panel(
    "Turns",
    "Turns that were recorded, and those that left the cache and became searchable.",
    rates(f"{_M}_turns_recorded_total", f"{_M}_turns_archived_total"),
)

OVERVIEW = Board(
    "shepherd-overview",
    "Shepherd: overview",
    "Is it up, is it fast, is anything lost?",
    (
        Panel(
            "Ready",
            "1 for each process that wants work.",
            (Query(_UP, "{{component}} {{instance}}"),),
        ),
        REQUESTS,
        FIRST_TOKEN,
        Panel(
            "Generated tokens",
            "Tokens a second, by worker.",
            (rate(f"{_W}_generated_tokens_total"),),
        ),
        PROMPT_TOKENS,
        Panel(
            "KV cache in use",
            "Device blocks that hold something, of all; full is normal, as it is a cache.",
            (Query(_IN_USE, "{{instance}}"),),
            "percentunit",
        ),
        ARCHIVED,
        STREAM_LAG,
        Panel(
            "Lost",
            "Must be 0: events dropped, digests that differ, frames that were skipped, dead letters.",
            rates(
                f"{_S}_events_dropped_total",
                f"{_R}_digest_mismatches_total",
                f"{_M}_poison_frames_total",
                f"{_M}_dead_letters_total",
            ),
        ),
        Panel(
            "Warnings and errors",
            "Log messages a second; Dynamo's own are not counted.",
            (
                rate("shepherd_log_messages_total", level="warning"),
                rate("shepherd_log_messages_total", level="error"),
            ),
        ),
        Panel(
            "Event loop lag",
            "99th percentile of how late each process's event loop wakes up.",
            (Query(_LATE, "{{instance}}"),),
            "s",
        ),
        Panel(
            "Memory of processes",
            "Resident set of each process.",
            (now("process_resident_memory_bytes"),),
            "bytes",
        ),
    ),
)

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
            "Model load time",
            "From the engine's start until it could compute.",
            (now(f"{_W}_model_load_seconds"),),
            "s",
        ),
    ),
)

STREAM = Board(
    "shepherd-stream",
    "Shepherd: event stream",
    "What the caches tell, and what became of it at its readers.",
    (
        Panel("Frames published", "By worker.", (rate(f"{_S}_frames_published_total"),)),
        Panel(
            "Events published", "Block events and turns.", (rate(f"{_S}_events_published_total"),)
        ),
        Panel("Bytes published", "Of frames.", (rate(f"{_S}_published_bytes_total"),), "Bps"),
        Panel(
            "Lost at the publisher",
            "Events dropped from a full queue, gaps it declared, frames the transport refused.",
            rates(
                f"{_S}_events_dropped_total",
                f"{_S}_tombstones_total",
                f"{_S}_publish_failures_total",
            ),
        ),
        Panel(
            "Repairs served",
            "Replay pages and snapshots that publishers sent.",
            rates(f"{_S}_replays_total", f"{_S}_snapshots_total"),
        ),
        Panel(
            "Turned away",
            "Readers without the right key, control requests that made no sense.",
            rates(f"{_S}_readers_refused_total", f"{_S}_requests_refused_total"),
        ),
        Panel(
            "Frames received",
            "By kind of body.",
            (rate(f"{_S}_events_received_total", by="type"),),
        ),
        STREAM_LAG,
        Panel(
            "Waiting to be applied",
            "Frames received that memory has not committed yet.",
            (now(f"{_M}_backlog"),),
        ),
        Panel(
            "Gaps and what closed them",
            "Frames found missing; replay pages and snapshots that were received.",
            rates(f"{_R}_gaps_total", f"{_R}_replays_total", f"{_R}_snapshots_total"),
        ),
        Panel(
            "Duplicates",
            "Frames that came again and were dropped; a restart brings some.",
            (
                rate(f"{_R}_duplicates_total"),
                rate(f"{_S}_duplicates_total"),
            ),
        ),
        Panel(
            "Damaged and unreadable",
            "Payloads that were no frame, and those with a wrong checksum.",
            rates(
                f"{_R}_decode_errors_total", f"{_R}_corrupt_total", f"{_R}_failed_requests_total"
            ),
        ),
        Panel(
            "Digests compared",
            "Heartbeats checked against what is held, and those that differed.",
            rates(f"{_R}_digest_checks_total", f"{_R}_digest_mismatches_total"),
        ),
        Panel(
            "States replaced",
            "A stream's state replaced as a whole, by cause.",
            (rate(f"{_S}_resets_total", by="reason"),),
        ),
        Panel(
            "Reading begun again",
            "Times that reading a stream failed.",
            (rate(f"{_S}_failures_total"),),
        ),
        Panel(
            "In vLLM's form",
            "Block events for readers of vLLM's format; needs an endpoint in vLLM's form.",
            rates(f"{_S}_msgpack_events_total", f"{_S}_msgpack_events_dropped_total"),
        ),
    ),
)

MEMORY = Board(
    "shepherd-memory",
    "Shepherd: memory",
    "What was kept, who asked for it, and what is wrong.",
    (
        ARCHIVED,
        Panel(
            "Evicted, not archived yet",
            "Turns within their grace.",
            (now(f"{_M}_turns_in_grace"),),
        ),
        Panel(
            "Not kept",
            "Requests without a session, with hidden tokens, or that could not be rebuilt.",
            rates(
                f"{_M}_turns_anonymous_total",
                f"{_M}_turns_withheld_total",
                f"{_M}_turns_incomplete_total",
            ),
        ),
        Panel(
            "Commit",
            "Time to apply and commit a batch of frames.",
            quantiles(f"{_M}_commit_duration_seconds"),
            "s",
        ),
        STREAM_LAG,
        Panel(
            "Store",
            "1 while batches can be committed; failures a second.",
            (now(f"{_M}_store_up"), rate(f"{_M}_store_failures_total")),
        ),
        Panel(
            "Blocks known",
            "Different blocks resident somewhere.",
            (now(f"{_M}_blocks"),),
        ),
        Panel(
            "Set aside",
            "Frames skipped, and completed requests kept as dead letters: must be 0.",
            rates(f"{_M}_poison_frames_total", f"{_M}_dead_letters_total"),
        ),
        Panel(
            "Notices",
            "By what became of them.",
            (rate(f"{_M}_notifications_total", by="outcome"),),
        ),
        Panel(
            "Deliveries",
            "Notices handed to a sink, by outcome; needs a webhook or --notice-events.",
            (rate(f"{_M}_deliveries_total", by="outcome"),),
        ),
        Panel(
            "Searches",
            "A second, by outcome.",
            (rate(f"{_M}_search_requests_total", by="outcome"),),
            "reqps",
        ),
        Panel(
            "Search time",
            "Time to answer a search.",
            quantiles(f"{_M}_search_duration_seconds"),
            "s",
        ),
        Panel("Hits per search", "How many.", quantiles(f"{_M}_search_results")),
        Panel(
            "Tool calls",
            "Memory tools called over HTTP and MCP.",
            (rate(f"{_M}_tool_calls_total", by="tool"),),
        ),
        Panel(
            "Refused",
            "Without a valid credential, by reason.",
            (rate(f"{_M}_auth_failures_total", by="reason"),),
        ),
        Panel(
            "Not allowed",
            "With a credential that lacks something, by what it lacks.",
            (rate(f"{_M}_access_denied_total", by="reason"),),
        ),
        Panel(
            "Asked too often",
            "Requests refused because their tenant asks too often.",
            (rate(f"{_M}_rate_limited_total"),),
        ),
        Panel(
            "Vectors and models",
            "Turns given vectors, and times that a model could not answer.",
            rates(f"{_M}_turns_embedded_total", f"{_M}_model_failures_total"),
        ),
        Panel(
            "Housekeeping",
            "Turns pruned to keep within a quota, turns refused because they had been erased.",
            rates(f"{_M}_turns_pruned_total", f"{_M}_turns_erased_again_total"),
        ),
        Panel(
            "Background work that failed",
            "By work; it is begun again.",
            (rate(f"{_M}_background_failures_total", by="work"),),
        ),
    ),
)

BOARDS = (OVERVIEW, WORKER, STREAM, MEMORY, GATEWAY)
