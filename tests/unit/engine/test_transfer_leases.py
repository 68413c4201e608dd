"""A lease is claimed at most once and released exactly once."""

from __future__ import annotations

from collections import Counter
from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from shepherd_worker.engine.embedded.transfer.leases import ByteSource, Leases

SOURCE = ByteSource(bytes(32), [memoryview(b"records")])


class LeaseMachine(RuleBasedStateMachine):
    """Leases beside a model of what each of them may still do."""

    ids: Bundle[bytes] = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.leases = Leases()
        self.state: dict[bytes, str] = {}
        self.released: Counter[int] = Counter()
        self.numbers: dict[bytes, int] = {}
        self.num_expired = 0

    @rule(target=ids)
    def offer(self) -> bytes:
        number = len(self.numbers)
        transfer_id = self.leases.offer(SOURCE, partial(self.released.update, [number]))
        assert transfer_id not in self.numbers
        self.numbers[transfer_id], self.state[transfer_id] = number, "waiting"
        return transfer_id

    @rule(transfer_id=ids)
    def claim(self, transfer_id: bytes) -> None:
        claimed = self.leases.claim(transfer_id) is not None

        assert claimed == (self.state[transfer_id] == "waiting")
        if claimed:
            self.state[transfer_id] = "fetching"

    @rule(transfer_id=ids)
    def end(self, transfer_id: bytes) -> None:
        self.leases.end(transfer_id)
        self.state[transfer_id] = "gone"

    @rule(transfer_id=ids)
    def expire(self, transfer_id: bytes) -> None:
        expired = self.leases.expire(transfer_id)

        assert expired == (self.state[transfer_id] == "waiting")
        if expired:
            self.state[transfer_id] = "gone"
            self.num_expired += 1

    @rule()
    def end_all(self) -> None:
        self.leases.end_all()
        self.state = dict.fromkeys(self.state, "gone")

    @rule()
    def claim_what_was_never_offered(self) -> None:
        assert self.leases.claim(b"?" * 16) is None

    @invariant()
    def everything_is_held_until_it_is_released_once(self) -> None:
        held = [i for i, state in self.state.items() if state != "gone"]
        assert len(self.leases) == len(held)
        for transfer_id, number in self.numbers.items():
            assert self.released[number] == (self.state[transfer_id] == "gone")
        assert self.leases.expired_total == self.num_expired


TestLeases = LeaseMachine.TestCase


@given(st.lists(st.binary(max_size=5), max_size=6), st.data())
def test_bytes_are_read_across_their_buffers(buffers: list[bytes], data: st.DataObject) -> None:
    source = ByteSource(bytes(32), [memoryview(buffer) for buffer in buffers])
    whole = b"".join(buffers)
    first = data.draw(st.integers(0, len(whole)))
    count = data.draw(st.integers(0, len(whole) - first))

    assert source.num_records == len(whole)
    assert b"".join(source.read(first, count)) == whole[first : first + count]
