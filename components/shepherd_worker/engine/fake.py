"""A deterministic engine without a model: executable specification, demonstration, fixture.

The next token is `next_token(all tokens so far)` and nothing else, so every
answer can be predicted.  Everything around it is the embedded engine's: real
blocks, cache events, prefix hits, eviction, scheduling and handoffs.  A block's
"KV" is the token ids written to it, an image's embeddings in place of its
placeholders, and the next token is computed from what the block table finds
there: a wrong block gives a wrong answer.
"""

from __future__ import annotations

import json
import math
import time
from array import array
from collections.abc import Callable
from collections.abc import Sequence as ReadOnlyList
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from shepherd_events.events import Tier
from shepherd_worker.engine.embedded.cache.block_pool import BlockCopy
from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.embedded.runner import RunnerInfo, Sample, Samples, SamplingError
from shepherd_worker.engine.embedded.sampling.verification import Verification
from shepherd_worker.engine.embedded.scheduler import StepPlan, Work
from shepherd_worker.engine.embedded.sequence import Sequence
from shepherd_worker.engine.fake_vision import FakeImageProcessor, FakeVisionTower, vision_limits
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine.telemetry import EngineTelemetry
from shepherd_worker.engine.validation import count_host_blocks
from shepherd_worker.engine.vision import ImageCounts, ImageProcessor
from shepherd_worker.image import ImageInput
from shepherd_worker.request import TokenLogprob

DEFAULT_VOCAB_SIZE = 512
DEFAULT_NUM_BLOCKS = 1024
DEFAULT_MAX_SEQ_LEN = 8192
_EOS_TOKEN_ID = 0


def next_token(token_ids: array[int], vocab_size: int, avoid: frozenset[int]) -> int:
    """The token after `token_ids` (typecode "I"); never one of `avoid`."""
    digest = blake2b(token_ids.tobytes(), digest_size=8, person=b"shepherd.fake.1").digest()
    token_id = int.from_bytes(digest, "little") % vocab_size
    while token_id in avoid:
        token_id = (token_id + 1) % vocab_size
    return token_id


class FakeEngine(EmbeddedEngine):
    """An `Engine` whose tokens can be predicted.

    Takes vocabulary, context, image token and tokenizer from `config.model` where
    that is a model's directory, so that a frontend can turn its tokens into text.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        step_delay_s: float = 0.0,
        eos_after: int | None = None,
        telemetry: EngineTelemetry | None = None,
    ) -> None:
        """Each step lasts `step_delay_s`; output token number `eos_after` ends the sequence."""
        runner = FakeRunner(config, step_delay_s=step_delay_s, eos_after=eos_after)
        super().__init__(config, runner, name="fake", telemetry=telemetry)


class FakeRunner:
    """A `Runner` that computes nothing."""

    def __init__(
        self, config: EngineConfig, *, step_delay_s: float = 0.0, eos_after: int | None = None
    ) -> None:
        self._block_size = config.block_size
        self._num_blocks = config.num_kv_blocks or DEFAULT_NUM_BLOCKS
        self._directory = Path(config.model)
        self._tokenizer = Path(config.tokenizer or config.model) / "tokenizer.json"
        self._step_delay_s = step_delay_s
        self._eos_after = eos_after
        self._blocks = self._empty_blocks(self._num_blocks)
        self._host_blocks: list[array[int]] = []
        self._config = config
        self._info = self._read_directory()
        self._tower = FakeVisionTower(config.embedding_cache_bytes)

    def load(self) -> RunnerInfo:
        """See `Runner.load`."""
        num_host_blocks = count_host_blocks(self._config, self._info.block_bytes)
        self._host_blocks = self._empty_blocks(num_host_blocks)
        return replace(self._info, num_host_blocks=num_host_blocks)

    def watch(self, died: Callable[[BaseException], None]) -> None:
        """See `Runner.watch`; nothing can be lost."""

    def close(self) -> None:
        """See `Runner.close`; there is nothing to let go of."""

    def image_processor(self) -> ImageProcessor | None:
        """See `Runner.image_processor`."""
        vision = self._info.vision
        return None if vision is None else FakeImageProcessor(vision.image_token_id)

    def image_counts(self) -> ImageCounts:
        """See `Runner.image_counts`."""
        return self._tower.image_counts()

    def forward(self, plan: StepPlan) -> list[Samples]:
        """See `Runner.forward`."""
        time.sleep(self._step_delay_s)
        for work in plan.work:
            self._write_tokens(work)
        return [self._samples(work) for work in plan.work]

    def copy_blocks(self, copies: ReadOnlyList[BlockCopy]) -> None:
        """See `Runner.copy_blocks`."""
        for copy in copies:
            if copy.to is Tier.HOST:
                self._host_blocks[copy.target] = self._blocks[copy.source][:]
            else:
                self._blocks[copy.target] = self._host_blocks[copy.source][:]

    def read_blocks(self, block_ids: ReadOnlyList[int]) -> list[bytes]:
        """See `Runner.read_blocks`."""
        return [self._blocks[block_id].tobytes() for block_id in block_ids]

    def write_blocks(
        self, block_ids: ReadOnlyList[int], payloads: ReadOnlyList[bytes | memoryview]
    ) -> None:
        """See `Runner.write_blocks`."""
        for block_id, payload in zip(block_ids, payloads, strict=True):
            self._blocks[block_id] = array("I", bytes(payload))

    def _read_directory(self) -> RunnerInfo:
        file = self._directory / "config.json"
        model = json.loads(file.read_text()) if file.is_file() else {}
        eos = model.get("eos_token_id", _EOS_TOKEN_ID)
        image_token = model.get("image_token_id")
        identity = blake2b(f"{self._directory.name}/{self._block_size}".encode(), digest_size=32)
        return RunnerInfo(
            version="1",
            model_directory=str(self._directory),
            fingerprint=identity.digest(),
            vocab_size=model.get("vocab_size", DEFAULT_VOCAB_SIZE),
            max_seq_len=model.get("max_position_embeddings", DEFAULT_MAX_SEQ_LEN),
            eos_token_ids=frozenset(eos if isinstance(eos, list) else [eos]),
            num_blocks=self._num_blocks,
            block_bytes=4 * self._block_size,
            tokenizer_file=self._tokenizer if self._tokenizer.is_file() else None,
            serves_lora=True,
            vision=None if image_token is None else vision_limits(self._config, image_token),
        )

    def _empty_blocks(self, count: int) -> list[array[int]]:
        return [array("I", bytes(4 * self._block_size)) for _ in range(count)]

    def _write_tokens(self, work: Work) -> None:
        sequence, size = work.sequence, self._block_size
        start = sequence.num_computed
        stop = start + work.num_tokens
        for position, token_id in enumerate(work.token_ids, start):
            block = self._blocks[sequence.block_ids[position // size]]
            block[position % size] = token_id
        for placed in sequence.request.images:
            self._write_image(placed, sequence, start, stop)

    def _write_image(self, placed: ImageInput, sequence: Sequence, start: int, stop: int) -> None:
        positions = range(max(start, placed.offset), min(stop, placed.stop))
        if not positions:
            return
        embeddings = array("I", bytes(self._tower.encode(placed.image).data))
        for position in positions:
            block = self._blocks[sequence.block_ids[position // self._block_size]]
            block[position % self._block_size] = embeddings[position - placed.offset]

    def _samples(self, work: Work) -> Samples:
        if not work.num_samples:
            return ()
        rows = Verification(work)
        while rows.take(self._sample(rows)):
            pass
        return tuple(rows.samples)

    def _sample(self, rows: Verification) -> Sample | SamplingError:
        sequence = rows.sequence
        token_id = self._next_token(sequence, rows.num_ahead)
        if sequence.guide is not None or sequence.processors is not None:
            steered = self._steered(token_id, rows)
            if isinstance(steered, SamplingError):
                return steered
            token_id = steered
        if sequence.request.logprobs is None:
            return Sample(token_id)
        best = [(token_id + i) % self._info.vocab_size for i in range(sequence.request.logprobs)]
        top = tuple((other, -(rank + 1) * math.log(2)) for rank, other in enumerate(best))
        return Sample(token_id, TokenLogprob(token_id, -math.log(2), top))

    def _steered(self, token_id: int, rows: Verification) -> int | SamplingError:
        """The likeliest token once grammar and processors had their say; tokens after `token_id` follow it."""
        import torch  # noqa: PLC0415 - heavy, and needed for such requests only

        from shepherd_worker.engine.embedded.sampling.adjustment import adjust  # noqa: PLC0415 - as above

        vocab_size = self._info.vocab_size
        logits = -((torch.arange(vocab_size) - token_id) % vocab_size).float()
        if token_id not in rows.sequence.eos_token_ids:
            logits[[t for t in rows.sequence.eos_token_ids if t < vocab_size]] -= vocab_size
        scores, failures = adjust(logits[None], [rows])
        return failures.get(0) or int(scores.argmax())

    def _next_token(self, sequence: Sequence, num_ahead: int) -> int:
        """The token after the sequence's own and `num_ahead` more that are in its blocks."""
        eos = sequence.eos_token_ids
        if self._eos_after is not None and eos:
            end = max(self._eos_after, sequence.request.stops.min_tokens + 1)
            if sequence.num_output + num_ahead + 1 == end:
                return min(eos)
        seen = array("I")
        for block_id in sequence.block_ids:
            seen += self._blocks[block_id]
        avoid = eos | sequence.suppressed_token_ids(num_ahead)
        end = len(sequence.token_ids) + num_ahead
        return next_token(seen[:end], self._info.vocab_size, avoid)
