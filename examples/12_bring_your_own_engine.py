"""Put your own model computation behind everything else that a worker does.

A `Runner` loads a model and computes passes; the embedded engine around it keeps the
paged cache, finds prefixes, schedules, evicts and tells of every block.  This one's
model counts: after 7 comes 8.  It reads the last token from the blocks that it was given,
as a model reads KV, so a wrong block would give a wrong answer.  An engine that brings a
cache of its own, as TensorRT-LLM does, implements `Engine` itself instead; both pass the
contract suite in tests/contract.  No model, no GPU, no Dynamo.

Expected output:

    counting 1, 12 positions known
    after 1 2 3        comes 4 5 6 7, 0 tokens from the cache
    after 1 2 3 4 5 6  comes 7 8 9 10, 4 tokens from the cache
    stored 2, removed 0 blocks

    python examples/12_bring_your_own_engine.py
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from shepherd_events.events import BlocksRemoved, BlocksStored
from shepherd_worker.engine.embedded.cache.block_pool import BlockCopy
from shepherd_worker.engine.embedded.engine import EmbeddedEngine
from shepherd_worker.engine.embedded.runner import RunnerInfo, Sample, Samples
from shepherd_worker.engine.embedded.scheduler import StepPlan, Work
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.engine.vision import ImageCounts, ImageProcessor
from shepherd_worker.request import GenerateRequest, StopConditions

BLOCK_SIZE, NUM_BLOCKS, POSITIONS, VOCABULARY = 4, 8, 12, 1000


class CountingRunner:
    """A `Runner` whose model is `+ 1` and whose KV are the tokens themselves."""

    def __init__(self) -> None:
        self._blocks = [array("I", bytes(4 * BLOCK_SIZE)) for _ in range(NUM_BLOCKS)]

    def load(self) -> RunnerInfo:
        """Say what the model is."""
        return RunnerInfo(
            version="1",
            model_directory="",
            fingerprint=b"a model that counts".ljust(32),
            vocab_size=VOCABULARY,
            max_seq_len=POSITIONS,
            eos_token_ids=frozenset(),
            num_blocks=NUM_BLOCKS,
            block_bytes=4 * BLOCK_SIZE,
            tokenizer_file=None,
            serves_lora=False,
        )

    def forward(self, plan: StepPlan) -> list[Samples]:
        """Write each sequence's new KV where its block table says, and compute the next token."""
        return [self._compute(work) for work in plan.work]

    def _compute(self, work: Work) -> Samples:
        table = work.sequence.block_ids
        position = work.sequence.num_computed
        for position, token_id in enumerate(work.token_ids, work.sequence.num_computed):
            self._blocks[table[position // BLOCK_SIZE]][position % BLOCK_SIZE] = token_id
        if not work.num_samples:
            return ()
        last = self._blocks[table[position // BLOCK_SIZE]][position % BLOCK_SIZE]
        return (Sample((last + 1) % VOCABULARY),)

    def read_blocks(self, block_ids: Sequence[int]) -> list[bytes]:
        """KV that goes to another worker, or to disk."""
        return [self._blocks[block_id].tobytes() for block_id in block_ids]

    def write_blocks(
        self, block_ids: Sequence[int], payloads: Sequence[bytes | memoryview]
    ) -> None:
        """KV that comes from there."""
        for block_id, payload in zip(block_ids, payloads, strict=True):
            self._blocks[block_id] = array("I", bytes(payload))

    def copy_blocks(self, copies: Sequence[BlockCopy]) -> None:
        """Never called: there is no host tier."""

    def watch(self, died: Callable[[BaseException], None]) -> None:
        """Nothing can be lost."""

    def close(self) -> None:
        """Nothing has to be let go of."""

    def image_processor(self) -> ImageProcessor | None:
        """It reads tokens only."""
        return None

    def image_counts(self) -> ImageCounts:
        """As above."""
        return ImageCounts()


async def ask(engine: EmbeddedEngine, *prompt: int) -> None:
    """Four tokens more, and how many of the prompt's were found."""
    request = GenerateRequest(
        request_id=str(len(prompt)),
        token_ids=array("I", prompt),
        stops=StopConditions(max_tokens=4, ignore_eos=True),
    )
    tokens: list[int] = []
    cached = 0
    async for chunk in engine.generate(request):
        tokens += chunk.token_ids
        cached = chunk.usage.cached_tokens if chunk.usage else 0
    shown = " ".join(map(str, prompt))
    print(f"after {shown:12} comes {' '.join(map(str, tokens))}, {cached} tokens from the cache")


async def main() -> None:
    """Count, and count what the cache told meanwhile."""
    engine = EmbeddedEngine(
        EngineConfig(model=str(Path.cwd()), block_size=BLOCK_SIZE),
        CountingRunner(),
        name="counting",
    )
    info = await engine.start()
    print(f"{info.engine} {info.version}, {info.max_seq_len} positions known")
    await ask(engine, 1, 2, 3)
    await ask(engine, 1, 2, 3, 4, 5, 6)
    await engine.close()
    stored = removed = 0
    async for batch in engine.cache_events():
        stored += sum(len(e.block_hashes) for e in batch if isinstance(e, BlocksStored))
        removed += sum(len(e.block_hashes) for e in batch if isinstance(e, BlocksRemoved))
    print(f"stored {stored}, removed {removed} blocks")


if __name__ == "__main__":
    asyncio.run(main())
