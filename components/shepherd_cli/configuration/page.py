"""The whole page; what there is to configure is asked of the code that heeds it."""

from __future__ import annotations

from typing import Final

from shepherd_cli.__main__ import app
from shepherd_cli.configuration.commands import command_sections
from shepherd_cli.configuration.options import Process, process_section
from shepherd_cli.kv.bridge_options import BridgeOptions
from shepherd_cli.up_options import UpOptions
from shepherd_config.options import Option
from shepherd_gateway.config import GatewayConfig
from shepherd_memory.config import MemoryConfig
from shepherd_worker.config import WorkerConfig

PROCESSES: Final = (
    Process("Worker", "python -m shepherd_worker", "worker", WorkerConfig),
    Process("Memory", "python -m shepherd_memory", "memory", MemoryConfig),
    Process("Gateway", "python -m shepherd_gateway", "gateway", GatewayConfig),
    Process("Bridge", "shepherd kv bridge", "bridge", BridgeOptions),
    Process("Everything on one machine", "shepherd up", "up", UpOptions),
)
_HEAD = """\
# Configuration

Made by `make configuration` from the code; do not edit.

An option of a process is one flag, one environment variable and one key of a TOML file; a flag wins over a variable, a
variable over the file, the file over the default. `none` unsets what may be unset, lists are separated by commas, and a
flag that takes a list may be given several times. A wrong name or value ends the process with status 2 before anything is
loaded, and says which. Further variables than the first are those of Dynamo and OpenTelemetry that mean the same. Every
process has, besides its own:

| flag | |
|---|---|
| `--config FILE`, `SHEPHERD_CONFIG` | the TOML file; each process reads its own table |
| `--check` | print every value with its source, and end |
| `--dump-config-to FILE` | write the same as JSON |
| `--help` | list the options |
"""


def page() -> str:
    """`docs/configuration.md`."""
    told: dict[str, tuple[str, Option]] = {}
    sections = [process_section(process, told) for process in PROCESSES]
    commands = "## Commands\n\n" + command_sections(app, "shepherd")
    joined = "\n".join([_HEAD, *sections, commands])
    return joined.rstrip() + "\n"
