"""The dashboards: what an operator asks first, then each part."""

from __future__ import annotations

from shepherd_cli.observability.gateway_board import GATEWAY
from shepherd_cli.observability.memory_board import MEMORY
from shepherd_cli.observability.overview_board import OVERVIEW
from shepherd_cli.observability.stream_board import STREAM
from shepherd_cli.observability.worker_board import WORKER

BOARDS = (OVERVIEW, WORKER, STREAM, MEMORY, GATEWAY)
