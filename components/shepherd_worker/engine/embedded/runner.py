"""What computes: a model on a device, or the fake that stands for one.

Everything here is called from the engine's thread, except `read_blocks`, which
any thread may call for blocks that are held and therefore not written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shepherd_worker.engine.embedded.cache.block_pool import BlockCopy
from shepherd_worker.engine.embedded.model.shared_memory import SharedMemory
from shepherd_worker.engine.embedded.scheduler import StepPlan
from shepherd_worker.engine.vision import ImageCounts, ImageProcessor
from shepherd_worker.image import VisionLimits
from shepherd_worker.request import TokenLogprob


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerInfo:
    """What a loaded runner is."""

    version: str
    model_directory: str
    fingerprint: bytes
    """32 bytes, equal where KV blocks are interchangeable."""
    vocab_size: int
    max_seq_len: int
    """Positions that the model knows."""
    eos_token_ids: frozenset[int]
    num_blocks: int
    num_host_blocks: int = 0
    """0 without a host tier."""
    block_bytes: int
    """Size of one block's record in `read_blocks` and `write_blocks`."""
    tokenizer_file: Path | None
    """A `tokenizer.json`, where there is one."""
    serves_lora: bool
    storage: SharedMemory | None = None
    """All blocks' records, block i at `i * block_bytes`, where they lie in host memory."""
    vision: VisionLimits | None = None
    """What images must look like; None for a model that reads text only."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The next token of a sequence."""

    token_id: int
    logprob: TokenLogprob | None = None
    """Set where the request asked for it."""
    completes: bool = False
    """Whether the text is complete with it, by the grammar of guided decoding."""


class SamplingError(Exception):
    """One sequence has no next token; the others of the pass are not concerned."""


class ProcessorCallError(SamplingError):
    """A logits processor raised, or took too long."""


Samples = tuple[Sample | SamplingError, ...]
"""What follows a work: nothing where it does not bring its sequence to its end, else one more
than was accepted of its draft; an error is the last."""


class Runner(Protocol):
    """See the module's docstring."""

    def load(self) -> RunnerInfo:
        """Get ready.

        Raises:
            StartError: the model is missing, broken, or does not fit.
        """
        ...

    def watch(self, died: Callable[[BaseException], None]) -> None:
        """Have `died` called, from any thread, when something the runner needs is lost for good.

        To be called before `load`.
        """
        ...

    def close(self) -> None:
        """Let go of everything outside this process's memory; after the engine's thread ended."""
        ...

    def image_processor(self) -> ImageProcessor | None:
        """What prepares images for this model; None where it reads text only."""
        ...

    def image_counts(self) -> ImageCounts:
        """What became of images; cheap."""
        ...

    def forward(self, plan: StepPlan) -> list[Samples]:
        """Compute the plan's tokens and write their KV; one result per work, in order."""
        ...

    def copy_blocks(self, copies: Sequence[BlockCopy]) -> None:
        """Copy records between device and host, as if one after the other."""
        ...

    def read_blocks(self, block_ids: Sequence[int]) -> list[bytes]:
        """The records of blocks."""
        ...

    def write_blocks(
        self, block_ids: Sequence[int], payloads: Sequence[bytes | memoryview]
    ) -> None:
        """Fill blocks with records that `read_blocks` of an equal model gave."""
        ...
