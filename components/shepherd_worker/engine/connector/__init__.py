"""KV blocks that outlive the worker that computed them.

    sequence -> connector.py -> planning.py      which blocks to load, which to save (pure)
                (event loop)    io_threads.py    the threads that wait for the store
                                save_queue.py    what waits to be written, bounded in bytes
                                    |
                                protocol.KvStore <- disk.py | memory.py | one of yours

Blocks are found by their chained hash, into which model, adapter and tenant
enter through the root; so a store may be shared by workers, by models and by
restarts.  It is no tier of a worker: a block in it is neither stored nor removed
in the worker's events until a sequence has it on the device.

`--kv-connector NAME:LOCATION` chooses the store.  NAME is `disk`, `memory`, an
entry point of the group `shepherd_worker.kv_stores`, or a factory written as
`package.module:Factory`, after which a second colon begins the location.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import entry_points
from typing import cast

from shepherd_worker.engine.connector.connector import KvConnector
from shepherd_worker.engine.connector.protocol import KvStore, KvStoreFactory
from shepherd_worker.engine.protocol import EngineConfig
from shepherd_worker.errors import UnusableInputError

ENTRY_POINT_GROUP = "shepherd_worker.kv_stores"
BUILT_IN = {
    "disk": "shepherd_worker.engine.connector.disk:DiskStore",
    "memory": "shepherd_worker.engine.connector.memory:MemoryStore",
}


def create_connector(config: EngineConfig, store: KvStore | None = None) -> KvConnector | None:
    """What the options ask for, with `store` in the place of the one they name.

    Raises:
        UnusableInputError: as `create_store`.
    """
    if store is None:
        if not config.kv_connector:
            return None
        store = create_store(config.kv_connector, config.kv_connector_size)
    return KvConnector(
        store,
        buffer_bytes=config.kv_connector_buffer,
        load_timeout_s=config.kv_connector_timeout_s,
        max_waiting=config.max_waiting,
    )


def create_store(spec: str, size_bytes: int) -> KvStore:
    """Make the store that `--kv-connector` names; its location is checked, nothing is loaded.

    Raises:
        UnusableInputError: nothing has this name, or its location cannot be used.
    """
    name, _, rest = spec.partition(":")
    known = BUILT_IN | {found.name: found.value for found in entry_points(group=ENTRY_POINT_GROUP)}
    if name in known:
        return _factory(known[name], spec, known)(rest, size_bytes)
    attribute, _, location = rest.partition(":")
    if not attribute:
        raise UnusableInputError(
            f"--kv-connector: {spec!r} names no store: expected {', '.join(sorted(known))} or "
            "package.module:Factory, then a colon and a location"
        )
    return _factory(f"{name}:{attribute}", spec, known)(location, size_bytes)


def _factory(target: str, spec: str, known: Iterable[str]) -> KvStoreFactory:
    module, _, attribute = target.partition(":")
    try:
        return cast("KvStoreFactory", getattr(import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise UnusableInputError(
            f"--kv-connector: {spec!r} is neither {', '.join(sorted(known))} nor a factory that "
            f"can be imported: {error}"
        ) from error
