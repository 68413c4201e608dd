"""Two processes answer as one: shares of the matrices, blocks, and what happens when one dies."""

from __future__ import annotations

import os
import signal
import subprocess
from random import Random
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from engine_calls import ask, ask_all, config, make_engine, request, started, until
from shepherd_worker.engine.embedded.parallel.followers import Followers
from shepherd_worker.engine.embedded.parallel.tensor_parallel import Share
from shepherd_worker.engine.embedded.torch_runner import TorchRunner
from shepherd_worker.errors import EngineDeadError, EngineFailedError, UnusableInputError
from tiny_models import tiny_model

TEXTS = (range(3, 43), range(9, 12), range(3, 60), (7,))


def processes(runner: Any) -> list[subprocess.Popen[bytes]]:
    followers: Followers = runner._followers
    return followers._processes


async def test_two_processes_answer_as_one_and_die_as_one() -> None:
    calls = [request(text, 12) for text in TEXTS]
    limits = {"num_kv_blocks": 20, "max_num_tokens": 32, "max_batch_size": 3}
    limits["host_cache_size"] = 10 * 4 * 3 * 2 * 2 * 8 * 4
    async with started(alone := make_engine("torch", config(**limits))) as info:
        expected = [answer.token_ids for answer in await ask_all(alone, calls)]
    together = make_engine("torch", config(**limits, tensor_parallel_size=2))
    async with started(together) as shared_info:
        first = [answer.token_ids for answer in await ask_all(together, calls)]
        again = [answer.token_ids for answer in await ask_all(together, calls)]
        stats = together.stats()

        assert first == again == expected
        assert stats.prompt_tokens_cached_total > 0
        assert stats.host_blocks_cached > 0
        assert shared_info.num_blocks == info.num_blocks
        assert shared_info.model_fingerprint != info.model_fingerprint

        (follower,) = processes(together._runner)
        os.kill(follower.pid, signal.SIGKILL)
        await until(lambda: not together.is_healthy(), timeout_s=30)

        with pytest.raises(
            EngineDeadError, match="tensor-parallel process ended with exit code -9"
        ):
            await ask(together, calls[0])


def test_a_block_s_record_is_that_of_all_shares_and_closing_ends_the_processes() -> None:
    runner = TorchRunner(config("llama", tensor_parallel_size=2, num_kv_blocks=4))
    lost: list[BaseException] = []
    runner.watch(lost.append)
    try:
        info = runner.load()
        random = Random(1)
        records = [random.randbytes(info.block_bytes) for _ in range(2)]
        runner.write_blocks([3, 1], records)

        assert runner.read_blocks([1, 3]) == [records[1], records[0]]
        assert info.block_bytes == 4 * 3 * 2 * 2 * 8 * 4
        (follower,) = processes(runner)
        assert follower.poll() is None
    finally:
        runner.close()

    assert follower.returncode is not None
    assert not lost


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tensor_parallel_size": 3},
            "tensor_parallel_size=3: expected a divisor of the model's 4",
        ),
        ({"tensor_parallel_size": 2, "torch_compile": True}, "expected 1 with torch_compile"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_a_process_is_started(
    options: dict[str, Any], message: str
) -> None:
    runner = TorchRunner(config(**options))

    with pytest.raises(UnusableInputError, match=message):
        runner.load()
    assert runner._followers is None


def test_a_model_without_a_plan_is_refused() -> None:
    module = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_model("llama")))
    module._tp_plan = {"lm_head": "colwise_gather_output"}

    with pytest.raises(EngineFailedError, match=r"LlamaForCausalLM cannot be cut .* has no plan"):
        Share(0, 2).cut(module)

    module._tp_plan = {"model.layers.*.mlp.down_proj": "rowwise", "x": "moe_identity_expert"}

    with pytest.raises(EngineFailedError, match="its plan has moe_identity_expert"):
        Share(0, 2).cut(module)
