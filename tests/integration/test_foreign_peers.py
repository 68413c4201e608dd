"""Our reader and writer beside the real code of vLLM, SGLang and Dynamo's TensorRT-LLM worker."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zmq

import foreign_peers
from foreign_batches import TIME_S, sglang_batches, trtllm_batches, vllm_batches
from shepherd_events.events import BlockHash, BlocksCleared, BlocksRemoved, BlocksStored
from shepherd_events.foreign.msgpack_form import encode_batch
from shepherd_events.foreign.outgoing import foreign_of

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "foreign_batches.json").read_text())


def _trtllm() -> dict[str, bytes]:
    publisher = foreign_peers.dynamo_trtllm().ZmqKvEventPublisher("inproc://trtllm", 2)
    listener = publisher.ctx.socket(zmq.SUB)
    listener.subscribe(b"")
    listener.connect("inproc://trtllm")

    def take() -> bytes:
        assert listener.poll(5000)
        batch = msgspec.msgpack.decode(listener.recv_multipart()[2])
        return msgspec.msgpack.encode([TIME_S, *batch[1:]])

    try:
        return trtllm_batches(publisher, take)
    finally:
        listener.close()
        publisher.shutdown()


@pytest.mark.parametrize(
    ("made", "peer"),
    [
        (lambda: vllm_batches(foreign_peers.vllm()), "vllm"),
        (lambda: sglang_batches(foreign_peers.sglang()), "sglang"),
        (_trtllm, "trtllm"),
    ],
    ids=["vllm", "sglang", "dynamo-trtllm"],
)
def test_the_golden_bytes_are_what_the_real_encoder_writes(
    made: Callable[[], dict[str, bytes]], peer: str
) -> None:
    written = {name: payload.hex() for name, payload in made().items()}

    golden = {name: entry["hex"] for name, entry in GOLDEN.items() if "array_form" not in name}
    assert written == {name: value for name, value in golden.items() if name.startswith(peer)}


def test_the_real_decoder_of_vllm_reads_what_we_write() -> None:
    kv = foreign_peers.vllm()
    run = BlocksStored(array("Q", [1, 2**64 - 1]), BlockHash(7), array("I", [1, 2, 3, 4]), 1)
    events = [run, BlocksRemoved(run.block_hashes), BlocksCleared()]
    maps = [told for event in events if (told := foreign_of(event, lambda _: None))]

    batch = msgspec.msgpack.Decoder(kv.KVEventBatch).decode(encode_batch(TIME_S, maps, 3))

    stored, removed, cleared = batch.events
    assert (batch.ts, batch.data_parallel_rank) == (TIME_S, 3)
    assert (stored.block_hashes, stored.parent_block_hash) == ([1, 2**64 - 1], 7)
    assert (stored.token_ids, stored.block_size, stored.medium) == ([1, 2, 3, 4], 2, "GPU")
    assert (removed.block_hashes, removed.medium) == ([1, 2**64 - 1], "GPU")
    assert isinstance(cleared, kv.AllBlocksCleared)
