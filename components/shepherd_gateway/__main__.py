"""`python -m shepherd_gateway`: conversations that go on though the cache forgets."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys

import uvloop

from shepherd_config import OptionError
from shepherd_gateway.config import GatewayConfig, load_config
from shepherd_gateway.service import serve
from shepherd_telemetry.logs import log_json

log = logging.getLogger("shepherd_gateway")


def main() -> int:
    """Run the gateway; exit codes: 0 orderly, 2 a wrong option, 3 an address that cannot be used."""
    try:
        resolved = load_config()
    except OptionError as error:
        return _end(str(error), error.exit_code)
    if resolved.check:
        sys.stdout.write(resolved.describe() + "\n")
        return 0
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if resolved.config.logs_json:
        log_json()
    gc.freeze()  # what is imported stays: looking through it would hold requests up for 20 to 90 ms
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(resolved.config))
    except OSError as error:
        return _end(str(error), 3)
    return 0


async def _run(config: GatewayConfig) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the wait for running answers."""
    spans = config.spans("gateway")
    serving = asyncio.ensure_future(
        serve(config, spans=spans, on_ready=lambda url: log.info("serving %s", url))
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        log.info("stopped")
    finally:
        await asyncio.to_thread(spans.close)


def _end(message: str, exit_code: int) -> int:
    sys.stderr.write(f"shepherd_gateway: {message}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
