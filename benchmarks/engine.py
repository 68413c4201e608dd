"""The embedded engine beside its peers, on this machine; one section per subject.

    make bench NAME=engine
    python -m benchmarks.engine --section generation --rounds 1

Each round runs the peers and then ours; quoted are medians over the rounds.
Writes build/bench/engine.json, a list of `figure.Figure`, and what it was taken
on to engine.machine.json.  `met` is false where a goal was missed.
"""

from __future__ import annotations

import logging
from pathlib import Path

import transformers

from benchmarks import sections
from benchmarks.composed import run

if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)
    run("benchmarks.engine", sections, Path("build/bench/engine.json"))
