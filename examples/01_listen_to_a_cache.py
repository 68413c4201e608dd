"""Listen to a KV cache: what it stores, what it forgets, when a turn ends.

Starts a worker's inner half in this process, an engine with a very small cache
and the publisher of its event stream, asks it three things, and reads the
stream over ZMQ as any other process would.  No model, no GPU, no Dynamo.

Expected output, on another port:

    listening to tcp://127.0.0.1:46709
    seq  1  a stream of demo, 16 tokens a block
    seq  2  stored   2 blocks on the device, first c97cdb618befd657
    seq  3  turn of first: 40 prompt tokens, 8 generated, 2 full blocks
    seq  4  stored   2 blocks on the device, first 5fb2973c892e89ab
    seq  5  turn of second: 40 prompt tokens, 8 generated, 2 full blocks
    seq  6  removed  1 blocks from the device
    seq  6  stored   2 blocks on the device, first b1cd6d0a7d806748
    seq  7  turn of third: 40 prompt tokens, 8 generated, 2 full blocks
    seq  8  goodbye: example is over

    python examples/01_listen_to_a_cache.py
"""

from __future__ import annotations

import asyncio
from array import array

from shepherd_events.block_hash import HASH_ALGO
from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlocksRemoved,
    BlocksStored,
    Body,
    Frame,
    Goodbye,
    StreamId,
    StreamInfo,
    TurnCompleted,
)
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.subscriber import subscribe
from shepherd_events.transports.zmq import ZmqPublisherTransport
from shepherd_worker.engine import create_engine
from shepherd_worker.engine.protocol import Engine, EngineConfig
from shepherd_worker.event_bridge import EventBridge
from shepherd_worker.request import GenerateRequest, StopConditions

SESSIONS = ("first", "second", "third")


def describe(body: Body) -> list[str]:
    """What a frame says, in words."""
    match body:
        case StreamInfo():
            return [f"a stream of {body.model}, {body.block_size} tokens a block"]
        case TurnCompleted():
            counts = f"{body.prompt_tokens} prompt tokens, {body.generated_tokens} generated"
            return [
                f"turn of {body.origin.session_id}: {counts}, {body.num_full_blocks} full blocks"
            ]
        case Goodbye():
            return [f"goodbye: {body.reason}"]
        case BlockBatch():
            return [words for event in body.events for words in describe_blocks(event)]
        case _:
            return [type(body).__name__]


def describe_blocks(event: object) -> list[str]:
    """What a block event says, in words."""
    match event:
        case BlocksStored():
            count, tier = len(event.block_hashes), event.tier.name.lower()
            return [f"stored   {count} blocks on the {tier}, first {event.block_hashes[0]:x}"]
        case BlocksRemoved():
            return [f"removed  {len(event.block_hashes)} blocks from the {event.tier.name.lower()}"]
        case _:
            return []


async def ask(engine: Engine, session: str, first_token: int) -> None:
    """One request of 40 prompt tokens and 8 generated ones."""
    request = GenerateRequest(
        request_id=f"request-{session}",
        token_ids=array("I", range(first_token, first_token + 40)),
        stops=StopConditions(max_tokens=8, ignore_eos=True),
        origin=Attribution(f"request-{session}", session, tenant="local", turn=1),
    )
    async for _ in engine.generate(request):
        pass


async def main() -> None:
    """Ask, listen, and stop when the stream says goodbye."""
    engine = create_engine("fake", EngineConfig(model="demo", num_kv_blocks=6))
    info = await engine.start()
    stream = StreamInfo(model="demo", block_size=info.block_size, hash_algo=HASH_ALGO)
    publisher = KvEventPublisher(StreamId("example"), stream, ZmqPublisherTransport())
    publisher.start()
    print(f"listening to {publisher.address.live}")
    bridge = EventBridge(publisher, router=None, completes_turns=True)

    async def work() -> None:
        told = asyncio.create_task(bridge.run(engine))
        for number, session in enumerate(SESSIONS):
            await ask(engine, session, 1 + 40 * number)
        await engine.close()
        await told
        await asyncio.to_thread(publisher.close, "example is over")

    async with asyncio.TaskGroup() as tasks, subscribe(publisher.address) as frames:
        tasks.create_task(work())
        async for item in frames:
            assert isinstance(item, Frame), "nothing was lost, so nothing is reset"
            for words in describe(item.body):
                print(f"seq {item.seq:2}  {words}")
            if isinstance(item.body, Goodbye):
                return


if __name__ == "__main__":
    asyncio.run(main())
