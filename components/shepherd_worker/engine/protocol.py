"""What every engine promises, and how one is made.

Shaped after TensorRT-LLM's LLM API, so that handlers and tests serve every
engine alike.  The life of an engine:

    1. `create_engine(name, config)` checks what it can without loading a model.
    2. `await start()`: returns when `generate` is ready to be called.
    3. `generate` / `prefill`: any number at once, from the event loop's thread.
    4. `await drain()`: returns when no request is running; new ones are refused.
    5. `await close()`: frees everything; safe after a failed start, and twice.

Cache events come in the order in which the cache changed, one tuple per engine
step: a block is stored after its parent, one that changes its tier is stored on
the new one before it is removed from the old one, a sequence's `SequenceFinished` comes
after the last of its blocks is stored and before the first of them is removed.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from prometheus_client.core import Metric

from shepherd_events.events import (
    Attribution,
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    CacheContext,
    Tier,
)
from shepherd_worker.engine.trtllm.options import TrtllmOptions
from shepherd_worker.engine.vision import ImageCounts, ImageProcessor
from shepherd_worker.image import Array
from shepherd_worker.request import FinishReason, GenerateRequest, TokenChunk


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What an engine is built from; every limit is validated by `config.py`."""

    model: str
    """A directory in Hugging Face layout, or a hub id."""
    tokenizer: str = ""
    """Where the tokenizer is when it is not with the model."""
    block_size: int = 16
    """Tokens per KV block."""
    num_kv_blocks: int | None = None
    """Device blocks; None derives them from the memory that is free."""
    host_cache_size: int = 0
    """Bytes of host memory for blocks that leave the device; 0 is no host tier."""
    eviction_policy: str = "lru"
    """"lru" or "MODULE:FACTORY"; see `embedded/eviction.py`."""
    kv_cache_free_gpu_mem_fraction: float = 0.9
    """Share of the memory left after loading that the cache may take, when `num_kv_blocks` is None."""
    max_batch_size: int = 32
    """Sequences that run at once."""
    max_num_tokens: int = 512
    """Tokens that one forward pass computes at most."""
    max_seq_len: int | None = None
    """Prompt and output together; None takes the model's."""
    max_waiting: int = 1024
    """Requests that may wait; one more is refused with `OverloadedError`."""
    device: str = "auto"
    dtype: str = "auto"
    """Of weights and KV: auto, float32, bfloat16, float16; int8 is of the weights alone."""
    multimodal_embedding_cache_capacity_gb: float = 0.25
    """Gibibytes of image embeddings that are kept to be used again; the newest image always is."""
    cuda_graph_max_batch_size: int | None = None
    """Decodes that are replayed as one CUDA graph at most; None takes `max_batch_size`, 0 has none."""
    tensor_parallel_size: int = 1
    """Devices that hold a share of the model each; the others are processes of this one's."""
    torch_compile: bool = False
    """Fuse the layers' small operations on CUDA; costs time at the start."""
    kv_connector: str = ""
    """NAME:LOCATION of the store that keeps KV blocks beyond this process; empty for none."""
    kv_connector_size: int = 16 << 30
    """Bytes that the store may take."""
    kv_connector_buffer: int = 1 << 30
    """Bytes of host memory for blocks that are loaded, and as much again for those to be saved."""
    kv_connector_timeout_s: float = 5.0
    """How long a sequence waits for each of the store's answers before it is computed instead."""
    logits_processors: tuple[str, ...] = ()
    """What requests may name, each `NAME` of an entry point or `NAME=module:factory`."""
    logits_processor_timeout_s: float = 1.0
    """How long a request's processors may take for one token; the batch waits for them."""
    test_logits_processor: bool = False
    """Answer every request with Dynamo's "Hello world!"."""
    kv_transfer: Literal["auto", "shm", "tcp", "nixl"] = "auto"
    """How KV travels from prefill to decode workers; `auto` takes the best way that both have."""
    transfer_host: str = "127.0.0.1"
    """Where a prefill worker's KV can be fetched from."""
    speculative: Literal["none", "ngram"] = "none"
    """Where guesses at the next tokens come from; they change the speed and never the answer."""
    speculative_window: int = 4
    """Tokens of an answer's end that are looked up in the text before it, at most."""
    speculative_max_draft: int = 8
    """Tokens that are guessed at once, at most."""
    transfer_secret_file: str = ""
    """A file whose content both sides must know; without one `transfer_host` must be loopback."""
    transfer_lease_s: float = 60.0
    """How long the blocks of a handoff wait to be fetched."""
    disaggregated: bool = False
    """Whether other workers compute the prompts, or generate the answers."""
    trtllm: TrtllmOptions = field(default_factory=TrtllmOptions)
    """What only TensorRT-LLM understands."""

    @property
    def embedding_cache_bytes(self) -> int:
        """`multimodal_embedding_cache_capacity_gb` in bytes."""
        return int(self.multimodal_embedding_cache_capacity_gb * 2**30)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What a started engine is."""

    engine: str
    version: str
    model_directory: str
    """Where the model's files lie on this machine; a hub id has been resolved."""
    model_fingerprint: bytes
    """Equal for engines whose KV blocks are interchangeable: same weights, type and layout."""
    block_size: int
    num_blocks: dict[Tier, int]
    """Of the tiers that there are, over all ranks."""
    max_seq_len: int
    max_batch_size: int
    max_num_tokens: int
    vocab_size: int
    eos_token_ids: frozenset[int]
    root_hash: BlockHash
    """Parent of every first block without LoRA and salt."""
    num_ranks: int = 1
    """Attention-parallel ranks: parts of one engine that have requests and a cache of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvStoreStats:
    """What came of the KV store behind `EngineConfig.kv_connector`; totals count from the start."""

    blocks_hit_total: int = 0
    """Prompt blocks that no tier had and the store gave."""
    blocks_missed_total: int = 0
    """Prompt blocks that no tier had and the store did not give, for whatever reason."""
    loaded_bytes_total: int = 0
    saved_bytes_total: int = 0
    saves_dropped_total: int = 0
    """Blocks that were not saved: too many were waiting, or they could not be written."""
    blocks_corrupt_total: int = 0
    """Blocks that were found damaged or foreign, and removed."""
    blocks_evicted_total: int = 0
    """Blocks that this worker removed from the store to make room."""
    loads_late_total: int = 0
    """Times that a sequence went on without the store's answer."""
    failures_total: int = 0
    """Calls that the store failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Where an engine stands; totals count from the start."""

    num_running: int = 0
    num_waiting: int = 0
    blocks_referenced: int = 0
    """Device blocks in use by running sequences and leases."""
    blocks_cached: int = 0
    """Device blocks that nobody uses and a hit may still find."""
    blocks_empty: int = 0
    rank_blocks_referenced: tuple[int, ...] = ()
    """`blocks_referenced` of each rank; empty where there is one."""
    host_blocks_cached: int = 0
    host_blocks_empty: int = 0
    prompt_tokens_total: int = 0
    prompt_tokens_cached_total: int = 0
    """Prompt tokens whose KV was found on any tier."""
    prompt_tokens_cached_on_host_total: int = 0
    """Those of them that were found on the host tier."""
    prompt_tokens_transferred_total: int = 0
    """Prompt tokens whose KV came from a prefill worker."""
    prompt_tokens_loaded_total: int = 0
    """Prompt tokens whose KV came from the KV store; usage counts them as cached."""
    generated_tokens_total: int = 0
    blocks_stored_total: int = 0
    blocks_evicted_total: int = 0
    """Blocks that no tier holds any more."""
    blocks_offloaded_total: int = 0
    """Blocks that moved from the device to the host."""
    blocks_onboarded_total: int = 0
    """Blocks that came back on a hit."""
    preemptions_total: int = 0
    drafts_total: int = 0
    """Passes in which guesses at a sequence's next tokens were verified."""
    drafted_tokens_total: int = 0
    accepted_tokens_total: int = 0
    """Guesses that became part of an answer."""
    requests_failed_total: int = 0
    """Requests that ended with `FinishReason.ERROR`, without disturbing others."""
    requests_refused_total: int = 0
    """Requests that found the queue full."""
    processor_failures_total: int = 0
    """Those of them whose logits processors raised, or took too long."""
    transfer_bytes_total: int = 0
    transfers_total: Mapping[str, int] = field(default_factory=dict)
    """Handoffs whose KV was fetched, by transport."""
    transfer_faults_total: Mapping[str, int] = field(default_factory=dict)
    """Attempts that failed, by transport; another transport may have come through."""
    transfer_failures_total: int = 0
    """Handoffs whose KV could not be fetched and was computed again."""
    transfers_broken_off_total: int = 0
    """Handoffs that a decode worker began to fetch and did not get."""
    leases: int = 0
    """Handoffs that wait to be fetched."""
    leases_expired_total: int = 0
    images: ImageCounts = field(default_factory=ImageCounts)
    kv_store: KvStoreStats | None = None
    """None without a KV store."""

    @property
    def acceptance_rate(self) -> float:
        """Share of the guesses that were right; 0 without any."""
        return self.accepted_tokens_total / max(1, self.drafted_tokens_total)

    @property
    def mean_accepted_length(self) -> float:
        """Tokens that a pass with guesses brought forth on average, its own one included."""
        return 1 + self.accepted_tokens_total / max(1, self.drafts_total)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceFinished:
    """A sequence ended, cancelled ones included; its blocks may be removed from now on."""

    origin: Attribution | None
    context: CacheContext
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    last_block_hash: BlockHash | None
    num_full_blocks: int
    tail_token_ids: array[int]
    """The tokens after the last full block, the last generated one included."""
    finish_reason: FinishReason
    started_unix_ns: int


CacheEvent = BlocksStored | BlocksReused | BlocksRemoved | BlocksCleared | SequenceFinished


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Where records that another worker leases can be fetched, once."""

    addresses: tuple[str, ...]
    """Ways to the same records, the fastest first: `shm://...`, `nixl://host:port`, `tcp://host:port`."""
    transfer_id: str
    """128 random bits in hex: who knows them may fetch the records."""
    fingerprint: str
    """32 bytes in hex: what the records mean, for KV blocks the model and their layout."""
    record_bytes: int
    """Size of one record."""
    num_records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """How a decode worker gets the KV that a prefill worker computed."""

    engine: str
    ticket: Ticket | None
    """One record per full block of the prompt; None where it has none."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that only an engine of this name reads; empty for one that has tickets."""
    traceparent: str = ""
    """Of the request that computed it, as W3C writes it; empty without a trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """How a worker gets the embeddings that an encode worker computed."""

    digest: str
    """Of the image's pixels, in hex: see `PreparedImage.digest`."""
    num_tokens: int
    grid: tuple[int, int, int] | None
    dtype: str
    """Of the embeddings' elements."""
    hidden_size: int
    ticket: Ticket
    """The bytes of [num_tokens, hidden_size] embeddings."""


@dataclass(frozen=True, slots=True)
class PrefillResult:
    """A computed prompt: its first token, and where its KV waits."""

    chunk: TokenChunk
    handoff: Handoff


class Engine(Protocol):
    """See the module's docstring for the life of an engine."""

    async def start(self) -> EngineInfo:
        """Load the model and be ready.

        Raises:
            StartError: the model is missing, broken, or does not fit.
        """
        ...

    def image_processor(self) -> ImageProcessor | None:
        """What prepares images for `GenerateRequest.images`, once started; None for a text model."""
        ...

    def generate(
        self, request: GenerateRequest, handoff: Handoff | None = None
    ) -> AsyncGenerator[TokenChunk, None]:
        """Stream one sequence; the last chunk carries `finish_reason` and `usage`.

        Closing the iterator cancels: the sequence's blocks are released within
        one engine step.  A handoff that cannot be fetched is computed instead.

        Raises:
            InvalidRequestError: before the first chunk.
            OverloadedError: before the first chunk.
            EngineDeadError: at any time; the process should end.
        """
        ...

    async def prefill(self, request: GenerateRequest) -> PrefillResult:
        """Compute a prompt and its first token, and lease its blocks to a decode worker.

        Raises:
            InvalidRequestError, OverloadedError, EngineDeadError: as `generate`.
        """
        ...

    async def fetch_embeddings(self, encoded: EncodedImage) -> Array | None:
        """What an encode worker leased; None where it cannot be had or used: encode it here."""
        ...

    def cache_events(self, rank: int = 0) -> AsyncIterator[tuple[CacheEvent, ...]]:
        """What the cache of a rank did since the start; for one reader, ends with `close`.

        A sequence is told of by the one rank that has its blocks.
        """
        ...

    def stats(self) -> EngineStats:
        """Cheap; from any thread."""
        ...

    def metrics(self) -> Iterable[Metric]:
        """Prometheus metrics beside those of `stats`; from any thread."""
        ...

    def is_healthy(self) -> bool:
        """False once the engine has stopped making progress for good."""
        ...

    async def drain(self) -> None:
        """Refuse new requests and wait for the running ones and the leases."""
        ...

    async def close(self) -> None:
        """Stop at once and free everything; running requests raise `EngineDeadError`."""
        ...
