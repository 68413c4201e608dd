"""`python -m shepherd_memory`: keep what the workers' caches forget."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys

import uvloop

from shepherd_config import OptionError
from shepherd_memory.config import MemoryConfig, load_config
from shepherd_memory.errors import MemoryServiceError
from shepherd_memory.service import serve

log = logging.getLogger("shepherd_memory")


def main() -> int:
    """Run the service; exit codes are the worker's: 2, 3, 4, and 5 for a store that failed."""
    try:
        resolved = load_config()
    except OptionError as error:
        return _end(str(error), error.exit_code)
    if resolved.check:
        sys.stdout.write(resolved.describe() + "\n")
        return 0
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(resolved.config))
    except ConnectionError as error:
        return _end(str(error), 4)
    except (OSError, MemoryServiceError) as error:
        return _end(str(error), 3)
    except ExceptionGroup as failure:
        log.exception("a store or a stream failed", exc_info=failure)
        return _end(f"{failure.exceptions[0]}: start again when its cause is gone", 5)
    return 0


async def _run(config: MemoryConfig) -> None:
    """Serve until SIGTERM or SIGINT."""
    config.before_dynamo()
    from shepherd_events.dynamo_directory import (  # noqa: PLC0415  imports dynamo
        DynamoDirectory,
        configure_logging,
    )

    configure_logging()
    gc.freeze()  # what is imported stays: looking through it would hold answers up
    config.after_dynamo()
    directory = DynamoDirectory(
        namespace=config.namespace,
        components=config.components,
        discovery_backend=config.discovery_backend,
        request_plane=config.request_plane,
    )
    await directory.connect()
    spans = config.spans("memory")
    serving = asyncio.ensure_future(
        serve(config, directory, spans=spans, on_ready=lambda url: log.info("serving %s", url))
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        log.info("stopped")
    finally:
        directory.close()
        await asyncio.to_thread(spans.close)


def _end(message: str, exit_code: int) -> int:
    sys.stderr.write(f"shepherd_memory: {message}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
