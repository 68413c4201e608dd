"""A reader and a writer of version 1.0 as it was released, on nothing but ZMQ and its schema.

    python old_peer.py read LIVE_ENDPOINT CONTROL_ENDPOINT WORKER NUMBER_OF_FRAMES
    python old_peer.py write

They know none of our code, so that they cannot have learned anything since.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import zmq

import frozen_schema as v1

STORED, REMOVED = 1, 2
DEVICE = 1
EPOCH = 1_000


def read(live: str, control: str, worker: str, num_frames: str) -> None:
    """Replay, then listen, until so many frames were applied; then say what is held."""
    listening = zmq.Context.instance().socket(zmq.SUB)
    listening.subscribe(b"kv.v1.")
    listening.connect(live)
    held: set[int] = set()
    expected, told = 1, {}
    epoch = _epoch_of(listening)
    while expected <= int(num_frames):
        request = v1.ControlRequest()
        request.replay.worker_id = worker
        request.replay.epoch, request.replay.from_seq, request.replay.max_bytes = (
            epoch,
            expected,
            4096,
        )
        payload = _ask(control, request.SerializeToString())
        reply = v1.ControlReply.FromString(payload).replay
        for frame in map(v1.Frame.FromString, reply.frames):
            assert frame.seq == expected, "a frame was skipped"
            expected += 1
            _apply(held, frame)
    while not told:
        frame = v1.Frame.FromString(listening.recv_multipart()[1])
        if frame.WhichOneof("body") == "heartbeat" and frame.seq == expected - 1:
            told = {tier.tier: (tier.blocks, tier.xor_lo) for tier in frame.heartbeat.tiers}
    print(json.dumps({"held": sorted(held), "told": list(told.get(DEVICE, (0, 0)))}), flush=True)


def _epoch_of(listening: Any) -> int:
    return int(v1.Frame.FromString(listening.recv_multipart()[1]).epoch)


def _ask(control: str, request: bytes) -> bytes:
    with zmq.Context.instance().socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(control)
        dealer.send_multipart((b"1", request))
        return dealer.recv_multipart()[1]


def _apply(held: set[int], frame: Any) -> None:
    hashes = iter(frame.blocks.block_hash)
    for op, length in zip(frame.blocks.op, frame.blocks.run_len, strict=True):
        run = [next(hashes) for _ in range(length)]
        held.update(run) if op == STORED else held.difference_update(run)


def write() -> None:
    """A stream of twenty frames: answered for by control requests, and heartbeats."""
    context = zmq.Context.instance()
    live, control = context.socket(zmq.PUB), context.socket(zmq.ROUTER)
    ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (live, control)]
    print(json.dumps({"live": ports[0], "control": ports[1], "epoch": EPOCH}), flush=True)
    frames = [_written(seq) for seq in range(1, 21)]
    sent = 0
    while True:
        if sent < len(frames):
            live.send_multipart((b"kv.v1.old.0", frames[sent]))
            sent += 1
        live.send_multipart((b"kv.v1.old.0", _heartbeat(sent)))
        if control.poll(20):
            reader, number, payload = control.recv_multipart()
            reply = _answer(v1.ControlRequest.FromString(payload), frames[:sent])
            control.send_multipart((reader, number, reply))


def _written(seq: int) -> bytes:
    frame = v1.Frame(worker_id="old", epoch=EPOCH, seq=seq, ts_unix_ns=1)
    if seq == 1:
        frame.info.model, frame.info.block_size = "model-1", 2
        return bytes(frame.SerializeToString())
    blocks = frame.blocks
    blocks.op.append(STORED)
    blocks.run_len.append(2)
    blocks.parent_hash.append(2 * seq - 1 if seq > 2 else 0)
    blocks.block_hash.extend((2 * seq, 2 * seq + 1))
    blocks.token_id.extend((1, 2, 3, 4))
    blocks.run_tokens.append(4)
    blocks.start_block.append(2 * (seq - 2))
    return bytes(frame.SerializeToString())


def _heartbeat(seq: int) -> bytes:
    frame = v1.Frame(worker_id="old", epoch=EPOCH, seq=seq, ts_unix_ns=1)
    frame.heartbeat.head_seq, frame.heartbeat.first_available = seq, 1
    hashes = range(4, 2 * seq + 2)
    if hashes:
        xor = 0
        for each in hashes:
            xor ^= each
        frame.heartbeat.tiers.add(tier=DEVICE, blocks=len(hashes), xor_lo=xor)
    return bytes(frame.SerializeToString())


def _answer(request: Any, frames: list[bytes]) -> bytes:
    reply = v1.ControlReply()
    replay = reply.replay
    replay.status, replay.epoch, replay.first_available = 1, EPOCH, 1
    if request.replay.epoch != EPOCH:
        replay.status = 3
        return bytes(reply.SerializeToString())
    begin = request.replay.from_seq
    page = frames[begin - 1 : begin + 4]
    replay.frames.extend(page)
    replay.next_seq, replay.head_seq = begin + len(page), len(frames)
    return bytes(reply.SerializeToString())


if __name__ == "__main__":
    {"read": read, "write": write}[sys.argv[1]](*sys.argv[2:])
