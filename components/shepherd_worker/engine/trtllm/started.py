"""TensorRT-LLM once it has loaded the model, and the first token of all."""

from __future__ import annotations

import asyncio
import logging
from array import array
from dataclasses import dataclass, replace
from typing import Any

from shepherd_worker.engine.protocol import EngineInfo
from shepherd_worker.engine.trtllm.images import TrtllmImageProcessor
from shepherd_worker.engine.trtllm.poller import Poller
from shepherd_worker.engine.trtllm.ranks import Ledgers
from shepherd_worker.engine.trtllm.stats import NativeMetrics
from shepherd_worker.engine.trtllm.submission import Submissions
from shepherd_worker.errors import EngineFailedError
from shepherd_worker.request import GenerateRequest, StopConditions

log = logging.getLogger(__name__)

FIRST_TOKEN_TIMEOUT_S = 300.0
"""How long the first token of all may take; some kernels are compiled for it."""
FIRST_EVENT_TIMEOUT_S = 2.0
"""How long to wait for the first event, which says how many blocks there are."""


@dataclass(frozen=True, slots=True)
class Started:
    """What exists once TensorRT-LLM has loaded the model."""

    llm: Any
    info: EngineInfo
    submissions: Submissions
    poller: Poller
    ledgers: Ledgers
    metrics: NativeMetrics
    images: TrtllmImageProcessor | None
    """None where the model reads text only."""


async def first_token(started: Started) -> Started:
    """Have one token generated: it proves the engine, and makes it tell what it has.

    Raises:
        EngineFailedError: no token came.
    """
    request = GenerateRequest(
        request_id="warm-up",
        token_ids=array("I", [0]),
        stops=StopConditions(max_tokens=1, ignore_eos=True),
    )
    try:
        async with asyncio.timeout(FIRST_TOKEN_TIMEOUT_S):
            await started.submissions.submit(request, streaming=False)(None)
    except Exception as error:
        log.exception("TensorRT-LLM generates nothing")
        raise EngineFailedError(f"TensorRT-LLM generates nothing: {error!r}") from error
    started.poller.begin()
    told = await started.poller.num_blocks(FIRST_EVENT_TIMEOUT_S)
    num_blocks = {**told, **{t: n for t, n in started.info.num_blocks.items() if n}}
    return replace(started, info=replace(started.info, num_blocks=num_blocks))
