"""Ask about an image: its content is part of the cache's key.

Makes a tiny vision-language model that knows colours by sight, starts an engine
and asks it the same question about pictures.  Another picture is another answer,
though the words are the same; the same picture again finds its blocks.

Expected output:

    red    "It is red."      0 of 31 prompt tokens were in the cache
    blue   "It is blue."     8 of 31 prompt tokens were in the cache
    red    "It is red."     28 of 31 prompt tokens were in the cache
    the blocks of red and blue: 2 in common, 5 not

    python examples/07_ask_about_an_image.py
"""

from __future__ import annotations

import asyncio
import tempfile
from array import array
from pathlib import Path

from tokenizers import Tokenizer

from shepherd_cli.tiny_vision_model import IMAGE_SIZE, make_tiny_vision_model, paint, prompt
from shepherd_events.block_hash import block_hashes
from shepherd_events.events import BlockHash
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine, EngineConfig, EngineInfo
from shepherd_worker.image import DecodedImage, place_images
from shepherd_worker.request import GenerateRequest, Sampling, StopConditions


def question_about(engine: Engine, tokenizer: Tokenizer, colour: str) -> GenerateRequest:
    """One picture and the question, as token ids and what the vision tower is given."""
    processor = engine.image_processor()
    assert processor is not None, "the model reads images"
    image = processor.process(DecodedImage(IMAGE_SIZE, IMAGE_SIZE, paint(colour)))
    text = array("I", tokenizer.encode(prompt()).ids)
    token_ids, images = place_images(text, [image], processor.image_token_id)
    return GenerateRequest(
        request_id=colour,
        token_ids=token_ids,
        images=images,
        sampling=Sampling(temperature=0.0),
        stops=StopConditions(max_tokens=16),
    )


async def ask(engine: Engine, tokenizer: Tokenizer, colour: str) -> None:
    """Print the answer, and how much of the prompt was in the cache."""
    request = question_about(engine, tokenizer, colour)
    token_ids, usage = list[int](), None
    async for chunk in engine.generate(request):
        token_ids += chunk.token_ids
        usage = chunk.usage
    assert usage is not None, "the last chunk has it"
    answer = f'"{tokenizer.decode(token_ids)}"'
    found = f"{usage.cached_tokens:2} of {usage.prompt_tokens} prompt tokens"
    print(f"{colour:6} {answer:16} {found} were in the cache")


def hashes(info: EngineInfo, request: GenerateRequest) -> set[BlockHash]:
    """The content addresses of a prompt's full blocks."""
    spans = [image.span for image in request.images]
    return set(block_hashes(info.root_hash, request.token_ids, info.block_size, spans))


async def main() -> None:
    """Make the model, ask three times, and compare the blocks."""
    with tempfile.TemporaryDirectory() as parent:
        directory = make_tiny_vision_model(Path(parent) / "colours")
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        engine = create_engine(
            "torch",
            EngineConfig(model=str(directory), block_size=4, num_kv_blocks=64, device="cpu"),
        )
        info = await engine.start()
        for colour in ("red", "blue", "red"):
            await ask(engine, tokenizer, colour)
        red, blue = (
            hashes(info, question_about(engine, tokenizer, colour)) for colour in ("red", "blue")
        )
        print(f"the blocks of red and blue: {len(red & blue)} in common, {len(red - blue)} not")
        await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
