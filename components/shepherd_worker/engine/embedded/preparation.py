"""What a sequence needs before it is submitted: its grammar compiled, its processors made.

Both may take a while, so both happen in threads, and only the request that asks
for them waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from shepherd_worker.engine.embedded.sequence import Sequence
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.logits_processing.processor_thread import ProcessorThread
from shepherd_worker.logits_processing.registry import (
    TEST_PROCESSOR,
    Factory,
    ProcessorRegistry,
    load_factories,
    wants_tokenizer,
)
from shepherd_worker.request import ProcessorCall

if TYPE_CHECKING:
    from shepherd_worker.engine.embedded.sampling.grammar import GrammarCompiler

log = logging.getLogger(__name__)


class Preparation:
    """One engine's; event loop only."""

    def __init__(
        self,
        compiler: GrammarCompiler | None,
        processors: ProcessorRegistry,
        *,
        processor_timeout_s: float,
    ) -> None:
        """Without a `compiler`, guided decoding is refused."""
        self._compiler = compiler
        self._processors = processors
        self._processor_timeout_s = processor_timeout_s

    @asynccontextmanager
    async def of(self, sequence: Sequence) -> AsyncIterator[None]:
        """Equip a sequence that is not yet submitted, for as long as the block lasts.

        Raises:
            InvalidRequestError: a wrong grammar, an unknown processor, arguments that do not fit.
            ProcessorError: a processor could not be made.
        """
        request = sequence.request
        makers = self._processors.makers(request.logits_processors)
        if request.guided is not None:
            if self._compiler is None:
                raise InvalidRequestError(
                    f"guided_decoding.{request.guided.kind}",
                    request.guided.source,
                    "none: this engine has no tokenizer, or not the package llguidance "
                    "(pip install 'shepherd-worker[guided]')",
                )
            sequence.guide = await asyncio.to_thread(self._compiler.compile, request.guided)
        if not makers:
            yield
            return
        thread = ProcessorThread(
            makers, timeout_s=self._processor_timeout_s, name=request.request_id
        )
        try:
            await thread.open()
            sequence.processors = thread
            yield
        finally:
            thread.close()


def load_processors(config: EngineConfig) -> dict[str, Factory]:
    """Import what the operator allows requests to name.

    Raises:
        UnusableInputError: as `load_factories`.
    """
    tests = (TEST_PROCESSOR,) if config.test_logits_processor else ()
    return load_factories((*config.logits_processors, *tests))


def prepare_with(
    factories: dict[str, Factory],
    config: EngineConfig,
    tokenizer_file: Path | None,
    compiler: GrammarCompiler | None,
) -> Preparation:
    """The preparation of a loaded model; a transformers tokenizer is loaded if a factory wants it."""
    wanted = tokenizer_file is not None and any(map(wants_tokenizer, factories.values()))
    test = TEST_PROCESSOR.partition("=")[0]
    registry = ProcessorRegistry(
        factories,
        always=[ProcessorCall(test)] if config.test_logits_processor else (),
        tokenizer=_transformers_tokenizer(tokenizer_file.parent)
        if wanted and tokenizer_file
        else None,
    )
    return Preparation(compiler, registry, processor_timeout_s=config.logits_processor_timeout_s)


def make_compiler(
    tokenizer: Tokenizer | None, vocab_size: int, eos_token_ids: frozenset[int]
) -> GrammarCompiler | None:
    """None without a tokenizer, and where llguidance is not installed."""
    if tokenizer is None:
        return None
    try:
        from shepherd_worker.engine.embedded.sampling.grammar import (  # noqa: PLC0415 - an optional extra
            GrammarCompiler,
        )
    except ModuleNotFoundError as error:
        log.info("no guided decoding: the package %s is not installed", error.name)
        return None
    return GrammarCompiler(tokenizer, vocab_size, eos_token_ids)


def _transformers_tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy, and rarely wanted

    return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
