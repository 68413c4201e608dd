"""Check the embedded engine's answers on this machine's CUDA device.

Tiny random models of each family, answering through the paged cache: a mixed
batch, chunked prefill, prefix reuse, eviction, preemption, a host tier, and a
handoff between two engines; decodes as CUDA graphs, without them, and with some batches too
large for them.  Models that read images: a batch with text, chunks that end within
an image, and prefixes with images found again.

    float32     greedy tokens are those of transformers' own `generate`
    bfloat16    no greedy token is further below the best logit than rounding explains

    PYTHONPATH=components:tests python scripts/verify_cuda.py [--torch-compile | --tensor-parallel | --images]

Where there are two devices, both share each model once; `--tensor-parallel` does that alone,
`--images` the models that read images alone.

Exits 1 where one is not.  How fast it is: `python -m benchmarks.gpu`.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from array import array
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine, EngineConfig, EngineStats, Handoff
from shepherd_worker.request import GenerateRequest, Sampling, StopConditions
from tiny_models import make_tiny_model
from tiny_vision_models import VisionKind, tiny_vision_model
from vision_reference import KINDS as VISION_KINDS
from vision_reference import PROMPTS, call_of, generated

NEW_TOKENS = 48
HOST_BYTES = 192 << 10
KINDS = ("llama", "qwen2", "qwen3", "mistral")


def request(prompt: list[int], new_tokens: int = NEW_TOKENS) -> GenerateRequest:
    """A greedy request that runs to its length."""
    return GenerateRequest(
        request_id="verify",
        token_ids=array("I", prompt),
        sampling=Sampling(temperature=0.0),
        stops=StopConditions(max_tokens=new_tokens, ignore_eos=True),
    )


async def answer(
    engine: Engine, asked: GenerateRequest, handoff: Handoff | None = None
) -> list[int]:
    """Every token of one answer."""
    return [t async for chunk in engine.generate(asked, handoff) for t in chunk.token_ids]


def prompts() -> list[list[int]]:
    """Six prompts of different lengths, four with a common beginning."""
    random = Random(0)
    common = [random.randrange(2, 380) for _ in range(70)]
    own = [[random.randrange(2, 380) for _ in range(n)] for n in (1, 9, 40, 100, 17, 33)]
    return [common + tail for tail in own[:4]] + own[4:]


def expected(model: Any, prompt: list[int]) -> list[int]:
    """What transformers generates."""
    ids = torch.tensor([prompt], device="cuda")
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )
    return [int(token) for token in out[0, len(prompt) :]]


async def answers_of(config: EngineConfig) -> tuple[list[list[list[int]]], EngineStats, int]:
    """All prompts at once, again from what is cached, and handed over to a second engine."""
    asked = prompts()
    first, second = create_engine("torch", config), create_engine("torch", config)
    await first.start()
    await second.start()
    together = await asyncio.gather(*(answer(first, request(prompt)) for prompt in asked))
    again = await asyncio.gather(*(answer(first, request(prompt)) for prompt in asked))
    moved = []
    for prompt in asked:
        prefilled = await first.prefill(request(prompt, 1))
        moved.append(await answer(second, request(prompt), prefilled.handoff))
    stats, transferred = first.stats(), second.stats().prompt_tokens_transferred_total
    await first.close()
    await second.close()
    return [together, again, moved], stats, transferred


def small_config(directory: Path, **settings: Any) -> EngineConfig:
    """So few blocks that sequences are preempted and blocks evicted."""
    return EngineConfig(
        model=str(directory), device="cuda", num_kv_blocks=20, max_num_tokens=64, **settings
    )


async def check_float32(kind: str, directory: Path, **settings: Any) -> int:
    """Answers of one family that are not those of transformers' `generate`."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).cuda().eval()
    model.generation_config.eos_token_id = None
    wanted = [expected(model, prompt) for prompt in prompts()]
    config = small_config(directory, dtype="float32", **settings)
    answers, stats, transferred = await answers_of(config)
    wrong = sum(got != want for way in answers for got, want in zip(way, wanted, strict=True))
    total = sum(map(len, answers))
    print(
        f"{kind:8} float32  {total - wrong}/{total} answers equal  "
        f"cached {stats.prompt_tokens_cached_total}  evicted {stats.blocks_evicted_total}  "
        f"preempted {stats.preemptions_total}  moved {transferred}  "
        f"back from the host {stats.blocks_onboarded_total}  {settings or ''}",
        flush=True,
    )
    return wrong


@torch.inference_mode()
def excess(models: tuple[Any, Any], prompt: list[int], got: list[int]) -> tuple[float, float]:
    """By how much our tokens miss the best float32 logit at most, and transformers' own error.

    The error is the greatest difference between logits of the bfloat16 model and of
    the same weights in float32, over the same tokens.
    """
    ids = torch.tensor([prompt + got], device="cuda")
    narrow, wide = (model(ids).logits[0, len(prompt) - 1 : -1].float() for model in models)
    chosen = wide.gather(-1, torch.tensor(got, device="cuda")[:, None])[:, 0]
    return float((wide.amax(-1) - chosen).max()), float((narrow - wide).abs().max())


async def check_bfloat16(kind: str, directory: Path, **settings: Any) -> int:
    """Answers of one family with a token that rounding does not explain.

    A greedy choice among logits that are off by at most e is at most 2e below the
    best one; e is what bfloat16 costs transformers itself on the same answers.
    """
    narrow = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).cuda().eval()
    wide = (
        AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).float().cuda().eval()
    )
    answers, _, _ = await answers_of(small_config(directory, dtype="bfloat16", **settings))
    found = [
        excess((narrow, wide), prompt, got)
        for way in answers
        for prompt, got in zip(prompts(), way, strict=True)
    ]
    allowed = 2 * max(error for _, error in found)
    wrong = sum(missed > allowed for missed, _ in found)
    print(
        f"{kind:8} bfloat16 {len(found) - wrong}/{len(found)} answers within rounding: at most "
        f"{max(missed for missed, _ in found):.3f} below the best logit, {allowed:.3f} allowed  "
        f"{settings or ''}",
        flush=True,
    )
    return wrong


async def check_shared(kind: str, directory: Path, size: int) -> int:
    """Answers of one family that are wrong where `size` devices share the model."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).cuda().eval()
    model.generation_config.eos_token_id = None
    wanted = [expected(model, prompt) for prompt in prompts()]
    config = small_config(directory, dtype="float32", tensor_parallel_size=size)
    engine = create_engine("torch", config)
    await engine.start()
    got = [
        await asyncio.gather(*(answer(engine, request(prompt)) for prompt in prompts()))
        for _ in range(2)
    ]
    await engine.close()
    wrong = sum(a != b for way in got for a, b in zip(way, wanted, strict=True))
    total = sum(map(len, got))
    print(f"{kind:8} float32  {total - wrong}/{total} answers equal on {size} devices", flush=True)
    return wrong


async def check_images(kind: VisionKind, **settings: Any) -> int:
    """Answers of one family about images that are wrong, the second time from what is cached."""
    config = EngineConfig(
        model=str(tiny_vision_model(kind)),
        device="cuda",
        dtype="float32",
        num_kv_blocks=256,
        block_size=4,
        **settings,
    )
    engine = create_engine("torch", config)
    await engine.start()
    processor = engine.image_processor()
    assert processor is not None
    calls = [call_of(processor, prompt) for prompt in PROMPTS]
    wanted = [generated(kind, call, "cuda") for call in calls]
    got = [await asyncio.gather(*(answer(engine, call) for call in calls)) for _ in range(2)]
    cached = engine.stats().prompt_tokens_cached_total
    await engine.close()
    wrong = sum(a != b for way in got for a, b in zip(way, wanted, strict=True))
    total = sum(map(len, got))
    print(
        f"{kind:10} float32  {total - wrong}/{total} answers about images equal  "
        f"cached {cached}  {settings or ''}",
        flush=True,
    )
    return wrong


async def main() -> int:
    """Check every family on every path."""
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    transformers.logging.disable_progress_bar()
    wrong = 0
    if "--tensor-parallel" not in sys.argv:
        for vision_kind in VISION_KINDS:
            wrong += await check_images(vision_kind)
            wrong += await check_images(vision_kind, max_num_tokens=13, max_batch_size=3)
    if "--images" not in sys.argv:
        wrong += await check_texts()
    print("every answer is right" if not wrong else f"{wrong} answers are WRONG")
    return 1 if wrong else 0


async def check_texts() -> int:
    """Answers of the families that read text alone which are wrong."""
    wrong = 0
    with tempfile.TemporaryDirectory() as parent:
        for kind in KINDS:
            directory = make_tiny_model(Path(parent) / kind, kind, seed=1)
            if torch.cuda.device_count() > 1:
                wrong += await check_shared(kind, directory, 2)
            if "--tensor-parallel" in sys.argv:
                continue
            wrong += await check_float32(kind, directory)
            wrong += await check_bfloat16(kind, directory)
            wrong += await check_float32(kind, directory, cuda_graph_max_batch_size=0)
            wrong += await check_float32(kind, directory, cuda_graph_max_batch_size=2)
            wrong += await check_float32(kind, directory, host_cache_size=HOST_BYTES)
            if "--torch-compile" in sys.argv:
                wrong += await check_float32(kind, directory, torch_compile=True)
                wrong += await check_bfloat16(kind, directory, torch_compile=True)
    return wrong


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False
    sys.exit(asyncio.run(main()))
