"""A store of somebody else's, named as MODULE:FACTORY.

The factory is given a directory below the data directory, which is this process's
alone, and returns `Archives`.  What they promise is in `protocol.py`; the suites in
tests/contract hold them to it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from shepherd_memory.archive.protocol import Archives

ArchivesFactory = Callable[[Path], Archives]
"""Called once, in the thread that writes; the directory exists and is the owner's alone."""


def load_archives(name: str) -> ArchivesFactory:
    """The factory of a name, whose module is imported.

    Raises:
        ValueError: there is none; says why.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or "/" in name:
        raise ValueError("it is not MODULE:FACTORY")
    try:
        factory: object = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"it cannot be loaded: {error}") from error
    if not callable(factory):
        raise ValueError(f"it cannot be called: {factory!r}")  # noqa: TRY004  the name is wrong, no argument's type
    return factory
