"""What a reader says, held against what its publisher knows; without processes and clocks.

exact     at any position, and in any state, what is held is what was resident there
honest    who goes on saying LIVE at one place has what was told longer ago than it takes
              to notice a loss
converged after the faults: LIVE, at the head, and holding the same blocks
"""

from __future__ import annotations

from typing import Any

NOTICED_WITHIN_S = 4.0
"""Silence of a second, and all the time that a busy machine may take to schedule somebody."""


def wrong(sample: dict[str, Any], known: dict[str, Any]) -> str:
    """What is wrong with a sample, by what its publisher remembers; empty if nothing is."""
    (epoch, seq), stream = sample["position"], sample["stream"]
    if epoch == known["epoch"] and known["digest"] not in (None, sample["digest"]):
        return (
            f"not exact: {stream} at {epoch}:{seq} held {sample['digest']}, "
            f"the publisher {known['digest']}"
        )
    return ""


def dishonest(before: dict[str, Any] | None, sample: dict[str, Any], known: dict[str, Any]) -> str:
    """Whether a reader that does not get any further says LIVE without what was told long ago."""
    if before is None or before["received"] != sample["received"]:
        return ""
    if {before["state"], sample["state"]} != {"live"} or known["next_ns"] is None:
        return ""
    age_s = (sample["now_ns"] - known["next_ns"]) / 1e9
    if age_s <= NOTICED_WITHIN_S:
        return ""
    at = ":".join(map(str, sample["received"]))
    return f"not honest: {sample['stream']} LIVE at {at}, the next frame is {age_s:.1f} s old"


def has_converged(sample: dict[str, Any], truth: dict[str, Any]) -> bool:
    """Whether a reader holds what the publisher holds, and says so."""
    return bool(
        sample["state"] == "live"
        and sample["position"] == truth["position"]
        and sample["fingerprint"] == truth["fingerprint"]
    )
