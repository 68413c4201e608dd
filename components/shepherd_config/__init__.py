"""Options of a process: one frozen dataclass field is one flag, variable and file key.

    @dataclass(frozen=True, slots=True)
    class Config:
        port: int = option("Port to listen on.", default=0, minimum=0, maximum=65535)

    resolved = load(Config, prog="python -m x", section="x")

gives `--port`, `SHEPHERD_PORT` and `[x] port`, in this order of precedence, and
remembers which of them spoke.
"""

from shepherd_config.loader import Resolved, load
from shepherd_config.options import OptionError, option

__all__ = ["OptionError", "Resolved", "load", "option"]
