"""Change what a model says, with a logits processor of one's own.

A processor is any callable `(input_ids, logits) -> None`, as Dynamo's are.  The
operator loads it under a name, here as `--logits-processor` would with
`alphabetical=__main__:Alphabetical`; a request names it with its arguments, through
Dynamo's frontend as the annotation `logits_processor:alphabetical:{"descending": true}`.

A random model that knows two dozen words talks nonsense; the processor puts it
in alphabetical order.  One that raises fails its own request, not its neighbours'.

Expected output:

    plain       gate dawn moon moon barn (length)
    ascending   gate grass lamb moon ram (length)
    descending  gate field fence ewe dawn (length)
    fragile     gate dawn moon (error)
    logits_processor='poetic' is not valid: expected alphabetical, fragile

    python examples/05_logits_processor.py
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine, EngineConfig
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.request import GenerateRequest, ProcessorCall, Sampling, StopConditions

WORDS = [
    "barn",
    "bell",
    "cloud",
    "dawn",
    "dog",
    "ewe",
    "fence",
    "field",
    "flock",
    "gate",
    "grass",
    "hill",
    "lamb",
    "meadow",
    "moon",
    "path",
    "ram",
    "river",
    "shepherd",
    "sleep",
    "staff",
    "star",
    "valley",
    "wool",
]


class Alphabetical:
    """Every word comes after the one before it in the dictionary, or before it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, descending: bool = False) -> None:
        """The worker gives the tokenizer; the rest is the request's."""
        self._words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self._descending = descending

    def __call__(self, input_ids: Sequence[int], logits: Tensor) -> None:
        """Forbid what is on the wrong side of the last word, or too far from it."""
        last = self._words[input_ids[-1]]
        for token_id, word in enumerate(self._words):
            if (word >= last) if self._descending else (word <= last):
                logits[token_id] = -torch.inf
        possible = logits.isfinite().nonzero()[:, 0]
        near = possible[-2:] if self._descending else possible[:2]
        far = torch.ones_like(logits, dtype=torch.bool)
        far[near] = False
        logits[far] = -torch.inf


class Fragile:
    """Does nothing twice, and then falls over."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, input_ids: Sequence[int], logits: Tensor) -> None:
        """See the class."""
        del input_ids, logits
        self._calls += 1
        if self._calls == 3:
            raise RuntimeError("out of grass")


def make_model(directory: Path) -> None:
    """One token per word, and weights drawn at random."""
    torch.manual_seed(0)
    vocabulary = {word: token_id for token_id, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=WORDS[0]))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(directory)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
            initializer_range=0.5,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    model.save_pretrained(directory)


async def say(engine: Engine, name: str, *calls: ProcessorCall) -> str:
    """The answer to one word, and how it ended."""
    first = WORDS.index("gate")
    request = GenerateRequest(
        request_id=name,
        token_ids=array("I", [first]),
        sampling=Sampling(temperature=0),
        stops=StopConditions(max_tokens=4, ignore_eos=True),
        logits_processors=calls,
    )
    words: list[str] = []
    async for chunk in engine.generate(request):
        words += [WORDS[token_id] for token_id in chunk.token_ids]
        reason = chunk.finish_reason
    return f"{name:11} gate {' '.join(words)} ({reason})"


async def main() -> None:
    """Ask with and without processors, all at once."""
    transformers.logging.disable_progress_bar()
    logging.disable(logging.ERROR)  # the engine logs why a request failed
    with tempfile.TemporaryDirectory() as directory:
        make_model(Path(directory))
        engine = create_engine(
            "torch",
            EngineConfig(
                model=directory,
                num_kv_blocks=64,
                device="cpu",
                logits_processors=(
                    "alphabetical=__main__:Alphabetical",
                    "fragile=__main__:Fragile",
                ),
            ),
        )
        await engine.start()
        answers = await asyncio.gather(
            say(engine, "plain"),
            say(engine, "ascending", ProcessorCall("alphabetical")),
            say(engine, "descending", ProcessorCall("alphabetical", {"descending": True})),
            say(engine, "fragile", ProcessorCall("fragile")),
        )
        print(*answers, sep="\n")
        try:
            await say(engine, "unknown", ProcessorCall("poetic"))
        except InvalidRequestError as error:
            print(error)
        await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
