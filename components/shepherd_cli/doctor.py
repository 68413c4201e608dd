"""`shepherd doctor`: whether this machine can do what it is meant to, and what to do if not.

Every check looks at one thing through a `Machine` and says one line.  A check
that fails itself is a line, too: the doctor always comes to its end.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from rich.console import Console
from rich.markup import escape

from shepherd_cli.doctor_machine import Machine

EngineName = Literal["torch", "trtllm"]


class Status(StrEnum):
    """How a check went; the worst of all is the exit code: 0, 1 or 2."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


_EXIT_CODES = {Status.OK: 0, Status.WARN: 1, Status.FAIL: 2}
_COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    status: Status
    found: str
    """What is there, with its version or size."""
    fix: str = ""
    """What to do; empty where all is well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """What is to be examined."""

    engine: EngineName = "torch"
    model: str = ""
    """A model directory; empty examines none."""
    ports: tuple[int, ...] = ()
    """Ports that must be free."""
    nats: str = ""
    etcd: str = ""
    postgres: str = ""


Check = Callable[[Machine, Patient], Finding]


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Status.OK, found)


def warn(check: str, found: str, fix: str) -> Finding:
    """It works, but not as well as it could, or nobody tried."""
    return Finding(check, Status.WARN, found, fix)


def fail(check: str, found: str, fix: str) -> Finding:
    """It does not work."""
    return Finding(check, Status.FAIL, found, fix)


def examine(machine: Machine, patient: Patient, checks: Iterable[Check]) -> list[Finding]:
    """Every check's finding, in order."""
    return [_examine(machine, patient, check) for check in checks]


def exit_code(findings: Iterable[Finding]) -> int:
    """0 when all is well, 1 with a warning, 2 with a failure."""
    return max((_EXIT_CODES[finding.status] for finding in findings), default=0)


def as_json(findings: Iterable[Finding]) -> str:
    """The report for programs."""
    found = list(findings)
    document = {
        "exit_code": exit_code(found),
        "findings": [dataclasses.asdict(finding) for finding in found],
    }
    return json.dumps(document, indent=2)


def show(findings: Iterable[Finding], console: Console) -> None:
    """The report for people: what to do stands below what is wrong."""
    for finding in findings:
        colour = _COLOURS[finding.status]
        line = f"[{colour}]{finding.status:<4}[/] {finding.check:<14} {escape(finding.found)}"
        console.print(line, highlight=False, soft_wrap=True)
        if finding.fix:
            console.print(f"     -> {finding.fix}", highlight=False, soft_wrap=True, markup=False)


def _examine(machine: Machine, patient: Patient, check: Check) -> Finding:
    try:
        return check(machine, patient)
    except Exception as error:  # noqa: BLE001 - a check's edge; its failure is its finding
        name = check.__name__.removeprefix("check_").replace("_", " ")
        return fail(name, f"could not be checked: {error!r}", "report this with the line above")
