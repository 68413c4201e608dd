"""What of a prompt crosses the wire, by mode: a canary is looked for in every byte."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from shepherd_config import OptionError
from shepherd_events.codec import decode_reply, encode_request
from shepherd_events.control import ReplayRequest, SnapshotReply, SnapshotRequest
from shepherd_events.errors import CodecError, CredentialsError
from shepherd_events.events import (
    Attribution,
    BlockHash,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    MediaKey,
    MediaSpan,
    Notice,
    StreamInfo,
    TurnCompleted,
)
from shepherd_events.privacy import Encrypted, Hashed, IdsOnly, NoVeil, Privacy, Veil
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.subscriber import subscribe
from shepherd_events.tenant_keys import Sealer, TenantKeys
from shepherd_events.transports.memory import MemoryBroker
from shepherd_memory import config as memory_config
from shepherd_worker.config import WorkerConfig, load_config
from stream_readers import INFO, STREAM, Reader, replay, wait_until

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
CANARY = array("I", range(0x0A0B0C01, 0x0A0B0C01 + 8))
WORDS = "the canary sings"
ORIGIN = Attribution("request-1", "session-of-mine", "acme", 1)
HASHES = array("Q", [0x1111222233334444, 0x5555666677778888])
RUN = BlocksStored(
    HASHES,
    None,
    CANARY,
    0,
    origin=ORIGIN,
    media=(MediaKey(0, MediaSpan(b"digest-of-media", 0, 1)),),
)
TURN = TurnCompleted(
    origin=ORIGIN,
    prompt_tokens=12,
    cached_tokens=0,
    generated_tokens=0,
    last_block_hash=BlockHash(HASHES[1]),
    num_full_blocks=2,
    tail_token_ids=CANARY[:4],
    finish_reason="stop",
    started_unix_ns=1,
)
NOTICE = Notice("notice-1", "acme", "session-of-mine", (1,), ("archive-1",), WORDS, WORDS, 1)


def tapped(veil: Veil) -> tuple[KvEventPublisher, MemoryBroker, Callable[[], bytes]]:
    """A publisher that was told of a canary, and all bytes that a reader could ever get of it."""
    broker = MemoryBroker()
    publisher = KvEventPublisher(STREAM, INFO, broker.publisher("here"), veil=veil, heartbeat_s=60)
    publisher.start()
    publisher.publish([RUN, BlocksReused(HASHES, None, 0, origin=ORIGIN)])
    publisher.publish_turn(TURN)
    publisher.publish_notice(NOTICE)
    publisher.publish([BlocksRemoved(HASHES[1:], origin=ORIGIN)])
    wait_until(lambda: publisher.counters.frames == publisher.head_seq == 5)

    def everything() -> bytes:
        asked = (
            ReplayRequest(STREAM, publisher.epoch, 1, 1 << 20),
            SnapshotRequest(STREAM, b"", 0, 1 << 20),
        )
        return b"".join(publisher._control.answer(encode_request(each)) for each in asked)

    return publisher, broker, everything


VEILS: dict[str, Callable[[], Veil]] = {
    "full": NoVeil,
    "ids-only": IdsOnly,
    "hashed": lambda: Hashed(KEY),
    "encrypted": lambda: Encrypted(Sealer(TenantKeys({"acme": [KEY]}))),
}
TOKENS = [CANARY[at : at + 2].tobytes() for at in range(0, len(CANARY), 2)]
IDS = [
    HASHES[0].to_bytes(8, "little"),
    b"session-of-mine",
    b"acme",
    b"digest-of-media",
    b"request-1",
]


@pytest.mark.parametrize("mode", VEILS)
def test_the_canary_is_on_the_wire_only_where_it_may_be(mode: str) -> None:
    publisher, _, everything = tapped(VEILS[mode]())
    wire = everything()
    publisher.close("done")

    assert [tokens in wire for tokens in TOKENS] == [mode == "full"] * len(TOKENS)
    assert (WORDS.encode() in wire) is (mode == "full")
    assert [each in wire for each in IDS] == [mode != "hashed"] * len(IDS)
    info = replay(publisher._control.answer, publisher.epoch)[0].body
    assert isinstance(info, StreamInfo)
    assert (info.privacy, info.tokens_included) == (mode, mode in {"full", "encrypted"})


def test_hashed_blocks_can_still_be_followed_and_their_digest_compared() -> None:
    publisher, _, everything = tapped(Hashed(KEY))
    everything()
    reply = decode_reply(
        publisher._control.answer(encode_request(SnapshotRequest(STREAM, b"", 0, 1 << 20)))
    )
    publisher.close("done")
    batch = replay(publisher._control.answer, publisher.epoch)[1].body

    assert isinstance(reply, SnapshotReply)
    (run,) = reply.blocks
    assert run.block_hashes[0] == batch.events[0].block_hashes[0]  # type: ignore[union-attr] # a batch
    assert run.block_hashes[0] != HASHES[0]
    assert reply.tiers == publisher._residents.digest()
    assert publisher._veil.hide([RUN]) == Hashed(KEY).hide([RUN]) != Hashed(OTHER).hide([RUN])


async def test_who_has_the_tenants_key_reads_what_was_said() -> None:
    publisher, broker, _ = tapped(VEILS["encrypted"]())
    keys = TenantKeys({"somebody": [OTHER], "acme": [OTHER, KEY]})
    async with subscribe(publisher.address, connect=broker.connect, keys=keys) as subscription:
        reader = Reader(subscription)
        await reader.read_until(lambda: len(reader.frames) == 5)

        assert reader.frames[1].body.events[0] == RUN  # type: ignore[union-attr] # a batch
        assert reader.frames[2].body == TURN
        block = reader.residents.block(BlockHash(HASHES[0]))
        assert block is not None
        assert block.token_ids == CANARY[:4]
    publisher.close("done")


@pytest.mark.parametrize("keys", [None, TenantKeys({"acme": [OTHER]})])
async def test_who_has_not_sees_blocks_without_tokens_and_turns_that_say_so(
    keys: TenantKeys | None,
) -> None:
    publisher, broker, _ = tapped(VEILS["encrypted"]())
    async with subscribe(publisher.address, connect=broker.connect, keys=keys) as subscription:
        reader = Reader(subscription)
        await reader.read_until(lambda: len(reader.frames) == 5)

        assert reader.frames[1].body.events[0] == replace(RUN, token_ids=array("I"))  # type: ignore[union-attr] # a batch
        assert reader.frames[2].body == replace(TURN, tail_token_ids=array("I"), withheld=True)
    publisher.close("done")


async def test_a_snapshot_is_sealed_anew_and_opens_too() -> None:
    publisher, broker, _ = tapped(VEILS["encrypted"]())
    publisher._ring.capacity_bytes = 1
    publisher.publish([BlocksRemoved(array("Q", [9]))])
    wait_until(lambda: publisher.counters.frames == 6)
    keys = TenantKeys({"acme": [KEY]})
    async with subscribe(publisher.address, connect=broker.connect, keys=keys) as subscription:
        reader = Reader(subscription)
        await reader.read_until(lambda: bool(reader.resets))

        (run,) = reader.resets[0].blocks
        assert (run.block_hashes, run.token_ids) == (HASHES[:1], CANARY[:4])
    publisher.close("done")


def test_a_tenant_without_a_key_is_not_published_in_clear() -> None:
    publisher, _, everything = tapped(Encrypted(Sealer(TenantKeys({"somebody": [KEY]}))))
    wire = everything()
    publisher.close("done")

    assert not any(tokens in wire for tokens in TOKENS)
    turn = replay(publisher._control.answer, publisher.epoch)[2].body
    assert isinstance(turn, TurnCompleted)
    assert turn.withheld


@pytest.mark.parametrize("mode", VEILS)
def test_a_name_that_is_no_text_costs_its_own_frame_and_nothing_else(mode: str) -> None:
    publisher, _, everything = tapped(VEILS[mode]())
    odd = replace(ORIGIN, request_id="\ud800")
    publisher.publish_turn(replace(TURN, origin=odd))
    publisher.publish([replace(RUN, origin=odd, block_hashes=array("Q", [5, 6]))])
    publisher.publish_turn(TURN)
    wait_until(lambda: publisher.counters.frames == publisher.head_seq == 8)
    everything()
    frames = replay(publisher._control.answer, publisher.epoch)
    publisher.close("done")

    assert isinstance(frames[-1].body, TurnCompleted)
    assert publisher.counters.tombstones == (0 if mode == "hashed" else 2)


def test_sealed_tokens_open_only_where_they_belong_and_unchanged() -> None:
    keys = TenantKeys({"*": [KEY]})
    sealer = Sealer(keys)
    sealed = sealer.seal("acme", CANARY, b"here")
    again = sealer.seal("acme", CANARY, b"here")
    assert sealed is not None
    assert again is not None

    assert keys.open(sealed, b"here") == CANARY
    assert sealed.nonce != again.nonce
    assert sealed.ciphertext != again.ciphertext
    for broken, place in (
        (sealed, b"there"),
        (replace(sealed, ciphertext=sealed.ciphertext[:-1] + b"x"), b"here"),
        (replace(sealed, nonce=again.nonce), b"here"),
        (replace(sealed, nonce=b""), b"here"),
    ):
        with pytest.raises(CodecError, match="not what was sealed for this place"):
            keys.open(broken, place)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("acme 12", "line 1: expected TENANT"), ("\n# none\n", "holds no key"), ("acme", "line 1")],
)
def test_a_file_that_holds_no_keys_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(CredentialsError, match=problem):
        TenantKeys.load(str(path))


def test_a_file_of_keys_is_read_with_its_comments(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\nacme {OTHER.hex()} # new\nacme {KEY.hex()}\n* {KEY.hex()}\n")
    with pytest.raises(CredentialsError, match="others may use it: chmod 600"):
        path.chmod(0o644)
        TenantKeys.load(str(path))
    path.chmod(0o600)
    keys = TenantKeys.load(str(path))

    assert (keys.sealing("acme"), keys.sealing("anybody")) == (OTHER, KEY)


def worker(*options: str) -> WorkerConfig:
    return load_config(["--model", "m", *options], {}).config


def test_beyond_this_machine_tokens_are_not_in_clear_unless_somebody_says_so(
    tmp_path: Path,
) -> None:
    remote = ("--kv-events", "nats", "--kv-events-endpoint", "nats://broker.example:4222")
    path = tmp_path / "keys"
    path.write_text(f"* {KEY.hex()}\n")
    path.chmod(0o600)
    keys = ("--kv-events-keys-file", str(path))

    assert worker().privacy is Privacy.FULL
    assert worker(*remote).privacy is Privacy.IDS_ONLY
    assert worker(*remote, *keys).privacy is Privacy.ENCRYPTED
    assert worker(*remote, "--kv-events-privacy", "full").privacy is Privacy.FULL
    assert worker("--kv-events-privacy", "hashed", *keys).veil().privacy is Privacy.HASHED
    with pytest.raises(OptionError, match="--kv-events-keys-file beside it"):
        worker("--kv-events-privacy", "encrypted")
    assert memory_config.load_config(keys, {}).config.tenant_keys() is not None
    with pytest.raises(OptionError, match="--kv-events-keys-file"):
        memory_config.load_config(["--kv-events-keys-file", str(tmp_path / "none")], {})
