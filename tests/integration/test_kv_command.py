"""`shepherd kv` as a person runs it: real processes, real ZMQ, a real NATS broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curve_keys import CurveKeys
from nats_broker import NatsBroker
from shepherd_cli.kv.app import app
from shepherd_events.events import Attribution, StreamId
from shepherd_events.publisher import KvEventPublisher
from shepherd_events.recording import Recording
from shepherd_events.transports.nats_publisher import NatsPublisherTransport
from shepherd_events.transports.protocol import PublisherTransport
from shepherd_events.transports.zmq import ZmqPublisherTransport
from stream_readers import INFO, removed, stored, turn, wait_until

ANNA = Attribution("r1", "anna", "tenant-1", 1)
ENV = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "120", "TERM": "dumb"}


def start(*args: str, **options: object) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "shepherd_cli", "kv", *args]
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return] # options as they are
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV, **options
    )


def kv(*args: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that ends."""
    process = start(*args)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def started(stream: StreamId, transport: PublisherTransport) -> KvEventPublisher:
    publisher = KvEventPublisher(stream, INFO, transport, heartbeat_s=0.05)
    publisher.start()
    return publisher


def tell(publisher: KvEventPublisher) -> None:
    """Thirteen frames: 1 info, then blocks and turns of anna and somebody else."""
    for number in range(1, 6):
        origin = ANNA if number % 2 else replace(ANNA, session_id="bert")
        publisher.publish([replace(stored(10 * number, 10 * number + 1), origin=origin)])
        publisher.publish_turn(replace(turn(number), origin=origin))
    publisher.publish([removed(10, 20)])


@pytest.fixture
def publisher() -> Iterator[KvEventPublisher]:
    publisher = started(StreamId("worker-1"), ZmqPublisherTransport())
    tell(publisher)
    wait_until(lambda: publisher.counters.frames == 12)
    yield publisher
    publisher.close("done")


def test_tail_follows_filters_and_formats(publisher: KvEventPublisher) -> None:
    url = publisher.address.live
    shown = ("--from-start", "--format", "{seq} {op} {session} {hashes}")

    code, out, err = kv("tail", url, *shown, "--type", "removed", "--session", "anna", "-n", "1")
    assert (code, out) == (0, "12 removed  000000000000000a\n")
    assert err == f"+ worker-1/0 {url}\n"
    code, out, _ = kv("tail", url, *shown, "--type", "turn", "--type", "info", "-n", "3")
    assert out.splitlines() == ["1 info  ", "3 turn anna ", "5 turn bert "]
    code, out, _ = kv("tail", url, "--from-start", "--json", "--worker", "worker-1", "-n", "2")
    assert [json.loads(line)["op"] for line in out.splitlines()] == ["info", "stored"]


def test_tail_begins_with_what_is_new_and_ends_quietly_on_ctrl_c(
    publisher: KvEventPublisher,
) -> None:
    process = start("tail", publisher.address.live, "--format", "{seq} {op}")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stderr.readline().startswith("+ worker-1/0")
    wait_until(lambda: publisher.counters.replays > 0)
    publisher.publish([stored(77)])
    assert process.stdout.readline() == "13 stored\n"

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "", "")


def test_tail_ends_quietly_when_nobody_reads_any_more(publisher: KvEventPublisher) -> None:
    process = start("tail", publisher.address.live, "--from-start")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    for number in range(200):
        publisher.publish_turn(turn(number))

    assert process.wait(timeout=10) == 0
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_tail_goes_on_where_it_was_left(publisher: KvEventPublisher, tmp_path: Path) -> None:
    cursor = ("--cursor", str(tmp_path / "place"), "--format", "{seq}")
    url = publisher.address.live

    assert kv("tail", url, "--from-start", *cursor, "-n", "4")[1] == "1\n2\n3\n4\n"
    publisher.publish_turn(turn(9))
    code, out, _ = kv("tail", url, *cursor, "-n", "9")
    assert (code, out.split()) == (0, ["5", "6", "7", "8", "9", "10", "11", "12", "13"])


def test_stats_snapshot_and_top_agree(publisher: KvEventPublisher) -> None:
    url = publisher.address.live

    _, out, _ = kv("stats", url, "--json")
    stats = json.loads(out)
    assert stats["blocks"] == {"device": 8}
    assert (stats["head_seq"], stats["chains"], stats["sessions"]) == (
        12,
        3,
        2,
    )  # two lost their roots
    _, out, _ = kv("snapshot", url, "--json")
    runs = [json.loads(line) for line in out.splitlines()]
    assert sum(run["blocks"] for run in runs) == 8
    assert {run["op"] for run in runs} == {"resident"}
    assert "time" not in runs[0]
    _, out, _ = kv("top", url, "--once", "--json")
    (row,) = [json.loads(line) for line in out.splitlines()]
    assert (row["blocks"], row["state"], row["gaps"]) == ({"device": 8}, "live", 0)


def test_diff_proves_that_a_stream_tells_the_truth_and_finds_what_differs(
    publisher: KvEventPublisher,
) -> None:
    other = started(StreamId("worker-2"), ZmqPublisherTransport())
    tell(other)
    other.publish([stored(99), removed(11)])
    mine, theirs = publisher.address.live, other.address.live

    assert kv("diff", mine)[:2] == (0, "device  equal: 8 blocks on both sides\n")
    code, out, _ = kv("diff", mine, theirs)
    assert code == 1
    assert out.splitlines() == [
        "device  DIFFERENT: 7 blocks on both sides",
        "        1 only in worker-1/0: 000000000000000b",
        "        1 only in worker-2/0: 0000000000000063",
    ]
    assert kv("diff", mine, theirs, "--tier", "host")[0] == 0
    other.close("done")


def test_a_recording_is_published_anew_and_holds_the_same(
    publisher: KvEventPublisher, tmp_path: Path
) -> None:
    file = tmp_path / "day.kv"
    code, out, err = kv("record", str(file), publisher.address.live, "--for", "0.6")
    assert (code, out) == (0, "")
    assert "day.kv: 12 items" in err
    assert file.stat().st_mode & 0o777 == 0o600
    _, out, _ = kv("stats", str(file), "--json")
    events = {"stored": 5, "turn": 5, "info": 1, "removed": 1}
    assert json.loads(out)["events"] == events

    replay = start("replay", str(file), "--speed", "max", "--stay")
    assert replay.stdout is not None
    url = replay.stdout.readline().strip()
    assert kv("diff", url, publisher.address.live)[0] == 0
    replay.send_signal(signal.SIGTERM)
    _, err = replay.communicate(timeout=10)
    assert (replay.returncode, "Traceback" in err) == (0, False)
    assert kv("record", str(file), publisher.address.live)[0] == 3


def test_a_recorder_that_is_interrupted_says_what_it_wrote_where_somebody_may_see_it(
    publisher: KvEventPublisher, tmp_path: Path
) -> None:
    file = tmp_path / "day.kv"
    recorder = start("record", str(file), publisher.address.live)
    wait_until(lambda: file.exists() and file.stat().st_size > 1000)
    recorder.send_signal(signal.SIGINT)
    _, err = recorder.communicate(timeout=10)

    assert recorder.returncode == 0
    assert err.splitlines()[-1].startswith(f"{file}: 12 items, ")
    closed = 'exec "$0" -m shepherd_cli kv stats "$1" >&-'
    ended = subprocess.run(
        ["sh", "-c", closed, sys.executable, str(file)],
        env=ENV,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (3, "shepherd kv: the standard output is closed\n")


def test_whoever_answers_for_another_stream_is_told_apart(publisher: KvEventPublisher) -> None:
    live, control = publisher.address.live, publisher.address.control.rpartition(":")[2]

    code, out, err = kv("stats", f"{live}?control={control}&worker=worker-2")

    assert (code, out) == (4, "")
    assert err == "shepherd kv: whoever answers does not publish worker-2/0\n"


def test_a_recorder_that_is_killed_leaves_what_it_had(
    publisher: KvEventPublisher, tmp_path: Path
) -> None:
    file = tmp_path / "day.kv"
    recorder = start("record", str(file), publisher.address.live)
    wait_until(lambda: file.exists() and file.stat().st_size > 1000)
    recorder.kill()
    recorder.communicate(timeout=10)
    with file.open("ab") as torn:
        torn.write(b"\x02torn")

    with Recording(file) as recording:
        assert recording.index is None
        assert len(list(recording.items())) == 12
        assert recording.unread_bytes == 5
    code, out, err = kv("stats", str(file))
    assert (code, "not closed" in out) == (0, True)
    assert "its last 5 bytes were not read" in err


def test_a_stream_at_a_broker_is_read_and_written(tmp_path: Path) -> None:
    broker = NatsBroker(tmp_path).start()
    try:
        stream = StreamId("worker.1", 2)
        publisher = started(stream, NatsPublisherTransport(broker.url, stream))
        tell(publisher)
        url = publisher.address.live

        _, out, _ = kv("tail", url, "--from-start", "--format", "{worker}/{rank} {seq}", "-n", "12")
        assert out.splitlines()[-1] == "worker.1/2 12"
        assert kv("diff", url)[0] == 0
        file = tmp_path / "day.kv"
        assert kv("record", str(file), url, "--for", "0.6")[0] == 0
        publisher.close("done")
        code, out, _ = kv("replay", str(file), "--to", broker.url, "--speed", "max")
        assert (code, out) == (0, f"{url}\n")
        _, out, _ = kv("tail", url, "--from-start", "--format", "{seq} {op}", "-n", "1")
        assert out == "1 info\n"
    finally:
        broker.kill()


def test_a_tail_that_is_killed_again_and_again_misses_nothing(
    publisher: KvEventPublisher, tmp_path: Path
) -> None:
    seen: list[str] = []
    cursor = ("--cursor", str(tmp_path / "place"), "--format", "{seq}", "--from-start")
    for _ in range(3):
        for number in range(20):
            publisher.publish_turn(turn(number))
        process = start("tail", publisher.address.live, *cursor)
        assert process.stdout is not None
        while not seen or seen[-1] != str(publisher.head_seq):
            seen.append(process.stdout.readline().strip())
        wait_until((tmp_path / "place").exists)
        process.kill()
        process.communicate(timeout=10)

    assert set(seen) == {str(number) for number in range(1, 73)}
    assert seen.count("1") == 1


def test_keys_open_the_way_to_a_guarded_stream(tmp_path: Path) -> None:
    keys = CurveKeys(tmp_path)
    publisher = started(StreamId("worker-1"), ZmqPublisherTransport(curve=keys.publisher))
    tell(publisher)
    own = keys.reader()
    shown = ("--from-start", "--format", "{seq}", "-n", "3", "--timeout", "2")
    with_keys = ("--curve-file", own.key_file, "--curve-server", own.peers)

    assert kv("tail", publisher.address.live, *shown, *with_keys)[:2] == (0, "1\n2\n3\n")
    code, out, err = kv("tail", publisher.address.live, *shown)
    assert (code, out) == (4, "")
    assert "did not answer within 2 s" in err
    publisher.close("done")


def test_the_shell_completes_what_an_option_takes() -> None:
    script = str(Path(sys.executable).parent / "shepherd")
    asking = {"_SHEPHERD_COMPLETE": "complete_bash", "COMP_CWORD": "4"}
    for words, expected in (("tail --tier d", "device\ndisk\n"), ("tail --type tu", "turn\n")):
        line = {"COMP_WORDS": f"shepherd kv {words}"}
        done = subprocess.run(
            [script], env=ENV | asking | line, capture_output=True, text=True, check=False
        )
        assert done.stdout.replace("\r", "") in {expected, expected.rstrip()}, done.stderr


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("tail", "worker-1"), 2, "'worker-1' is no stream: expected tcp://HOST:PORT"),
        (("tail", "tcp://127.0.0.1:1", "--timeout", "0.1"), 4, "did not answer within 0.1 s"),
        (("tail", "tcp://127.0.0.1:1", "--json", "--format", "{op}"), 2, "exclude one another"),
        (("tail", "--tier", "moon"), 2, "--tier 'moon': expected one of device, host"),
        (("diff", "a", "b", "c"), 2, "3 streams: expected one or two"),
        (("replay", "/nowhere.kv"), 3, "/nowhere.kv"),
        (("replay", __file__), 3, "this is no recording"),
        (("replay", __file__, "--speed", "0"), 2, "--speed '0': expected a number above 0"),
        (("replay", __file__, "--to", "tcp://127.0.0.1:x"), 2, "--to 'tcp://127.0.0.1:x': Port"),
        (("replay", __file__, "--to", "file:///x"), 2, "expected tcp://HOST:PORT or nats://"),
        (("stats", "tcp://127.0.0.1:1?control=99999"), 2, "control=99999 is not in 1..65535"),
        (("record", "/nowhere/day.kv"), 3, "kv: /nowhere/day.kv: No such file or directory"),
        (("help", "moon"), 2, "no topic 'moon': expected one of addresses"),
        (("tail", "nats://192.0.2.1:4222/kv.v1.w.0"), 4, "without TLS and an NKEY"),
        (("tail", "tcp://192.0.2.1:5557"), 4, "without CURVE keys"),
        (("tail", "tcp://h:1", "--curve-file", "k"), 2, "belong together"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_exit_code(
    args: tuple[str, ...], code: int, words: str
) -> None:
    ended = CliRunner().invoke(app, args)

    assert (ended.exit_code, ended.stdout) == (code, "")
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_every_topic_has_its_page() -> None:
    topics = CliRunner().invoke(app, ["help"]).stdout
    for topic in topics.removeprefix("Topics: ").split(","):
        page = CliRunner().invoke(app, ["help", topic.strip()])
        assert (page.exit_code, len(page.stdout) > 200) == (0, True)
