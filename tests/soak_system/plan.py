"""Which faults happen to the whole system, and which rows of docs/faults.md they are."""

from __future__ import annotations

from soak.plan import Recipe

WORKERS = ("prefill", "decode")
PROCESSES = (*WORKERS, "memory", "gateway", "frontend", "broker")
WIRES = ("memory-wire", "frontend-wire", "stream-wire")
"""Gateway to memory, gateway to frontend, everybody's events to the broker."""

SURVIVED = (
    *(Recipe(0, "freeze", (name,), 3.0) for name in PROCESSES),
    Recipe(0, "stall", WIRES, 2.0),
    Recipe(0, "deaf", WIRES, 2.0),
    Recipe(0, "mute", WIRES, 2.0),
    Recipe(0, "cut", WIRES, 2.0),
)
"""What every process lives through."""
RECIPES = (*(Recipe(0, "kill", (name,), 0.0) for name in PROCESSES), *SURVIVED)
