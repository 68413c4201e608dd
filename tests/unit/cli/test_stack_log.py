"""One log of many processes: how lines look, what is lost, which files are kept."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

from shepherd_cli.supervisor.lines import json_lines, text_lines
from shepherd_cli.supervisor.log_files import LogFiles
from shepherd_cli.supervisor.stack_log import StackLog


def test_text_has_the_name_before_each_line() -> None:
    show = text_lines(["gateway", "memory"], colour=False)

    assert show("gateway", "serving") == "gateway  | serving"
    assert show("memory", "") == "memory   |"
    assert show("shepherd", "gateway: ready") == "shepherd | gateway: ready"


def test_colour_is_the_names_alone_and_each_has_its_own() -> None:
    show = text_lines(["gateway", "memory"], colour=True)

    assert show("gateway", "serving") == "\x1b[36mgateway  |\x1b[0m serving"
    assert show("memory", "serving") == "\x1b[33mmemory   |\x1b[0m serving"


def test_json_keeps_the_fields_of_a_line_and_names_its_process() -> None:
    show = json_lines(lambda: 0.0)

    said = show("decode", '{"level": "WARN", "message": "späť", "process": "x"}')
    assert json.loads(said) == {"process": "decode", "level": "WARN", "message": "späť"}


def test_what_is_no_json_object_becomes_the_message_of_one() -> None:
    show = json_lines(lambda: 0.25)

    for line in ("panicked at 'x'", "{broken", "[1]", ""):
        assert json.loads(show("frontend", line)) == {
            "process": "frontend",
            "time": "1970-01-01T00:00:00.250000Z",
            "level": "INFO",
            "target": "frontend",
            "message": line,
        }


def test_every_line_is_written_in_order_and_the_last_are_remembered() -> None:
    sink = io.StringIO()
    with StackLog(text_lines(["a"], colour=False), sink) as log:
        for number in range(100):
            log.write("a", str(number))

        assert log.last("a") == [str(number) for number in range(85, 100)]
        assert log.last("b") == []
    assert sink.getvalue() == "".join(f"a        | {number}\n" for number in range(100))


class StoppedTerminal(io.StringIO):
    """Takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()
        self.is_asked = threading.Event()

    def write(self, text: str, /) -> int:
        self.is_asked.set()
        assert self.goes_on.wait(20)
        return super().write(text)


def test_nobody_waits_for_a_log_that_is_not_read_and_what_is_lost_is_told() -> None:
    terminal = StoppedTerminal()
    with StackLog(text_lines(["a"], colour=False), terminal, max_waiting=4) as log:
        log.write("a", "first")
        assert terminal.is_asked.wait(20)
        for number in range(10):
            log.write("a", str(number))

        assert log.num_lost == 6
        terminal.goes_on.set()
        while log.num_lost > 0 and "3" not in terminal.getvalue():
            pass
        log.write("a", "later")
    assert terminal.getvalue().splitlines() == [
        *("a        | first", "a        | 0", "a        | 1", "a        | 2", "a        | 3"),
        "shepherd | 6 lines were dropped: nobody read them",
        "a        | later",
    ]


class ClosedPipe(io.StringIO):
    def write(self, text: str, /) -> int:
        raise BrokenPipeError


def test_a_reader_that_is_gone_stops_nothing_and_files_go_on(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, max_bytes=0, keep=1)
    with StackLog(text_lines(["a"], colour=False), ClosedPipe(), files) as log:
        log.write("a", "one")
        log.write("b", "two")

    assert (tmp_path / "a.log").read_text() == "one\n"
    assert (tmp_path / "b.log").read_text() == "two\n"


def test_a_full_file_is_begun_anew_and_so_many_are_kept(tmp_path: Path) -> None:
    files = LogFiles(tmp_path / "logs", max_bytes=30, keep=2)
    for number in range(9):
        files.write("a", f"line {number} ...")
    files.close()

    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        *("a.log", "a.log.1", "a.log.2"),
    ]
    assert (tmp_path / "logs" / "a.log").read_text() == "line 8 ...\n"
    assert (tmp_path / "logs" / "a.log.1").read_text() == "line 6 ...\nline 7 ...\n"


def test_a_line_that_cannot_be_written_is_counted(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, max_bytes=0, keep=1)
    (tmp_path / "a.log").mkdir()
    files.write("a", "lost")
    files.write("b", "kept")
    files.close()

    assert files.num_failures == 1
    assert (tmp_path / "b.log").read_text() == "kept\n"
