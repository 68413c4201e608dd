"""`python -m shepherd_worker`: serve one model in one role."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from shepherd_config import OptionError
from shepherd_worker.config import load_config
from shepherd_worker.errors import EngineFailedError, StartError, WorkerError

ENGINE_FAILED = EngineFailedError.exit_code


def main() -> int:
    """Run a worker; the exit codes are listed in `errors.py`."""
    try:
        resolved = load_config()
    except (OptionError, StartError) as error:
        return _end(str(error), error.exit_code)
    if resolved.check:
        sys.stdout.write(resolved.describe() + "\n")
        return 0
    resolved.config.before_dynamo()
    from shepherd_events.dynamo_directory import configure_logging  # noqa: PLC0415  imports dynamo
    from shepherd_worker.worker import run  # noqa: PLC0415  as above

    configure_logging()
    resolved.config.after_dynamo()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(resolved.config))
    except (WorkerError, ExceptionGroup) as error:
        fault = _first_fault(error)
        if fault is None:
            raise
        return _end(str(fault), fault.exit_code if isinstance(fault, StartError) else ENGINE_FAILED)
    return 0


def _first_fault(error: BaseException) -> WorkerError | None:
    """The worker's own error inside whatever task groups wrapped it."""
    if isinstance(error, WorkerError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next(filter(None, map(_first_fault, error.exceptions)), None)
    return None


def _end(message: str, exit_code: int) -> int:
    sys.stderr.write(f"shepherd_worker: {message}\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
