"""Tiers by the names that other systems have for them.

What is written is what most readers take for the same tier: Dynamo's router
takes any name that it does not know, vLLM's own STORAGE among them, for the
device, so that disks are written as SGLang writes them.
"""

from __future__ import annotations

from shepherd_events.events import Tier

REMOTE_LOCALITY = "REMOTE"
"""The blocks are not the publisher's own."""

_READ = {
    "GPU": Tier.DEVICE,
    "DEVICE": Tier.DEVICE,
    "CPU": Tier.HOST,
    "CPU_PINNED": Tier.HOST,
    "CPU_TIER1": Tier.HOST,
    "CPU_TIER2": Tier.DISK,
    "DISK": Tier.DISK,
    "NVME": Tier.DISK,
    "STORAGE": Tier.DISK,
    "EXTERNAL": Tier.SHARED,
    "SHARED": Tier.SHARED,
    "NETWORK": Tier.REMOTE,
    "REMOTE": Tier.REMOTE,
}
_WRITTEN = {
    Tier.DEVICE: "GPU",
    Tier.HOST: "CPU",
    Tier.DISK: "DISK",
    Tier.SHARED: "EXTERNAL",
    Tier.REMOTE: "EXTERNAL",
}


def tier_of(medium: str | None, locality: str | None = None) -> Tier | None:
    """The tier of a medium, no medium being the device; None where the name is not known."""
    tier = Tier.DEVICE if medium is None else _READ.get(medium.upper())
    if tier is Tier.DISK and locality == REMOTE_LOCALITY:
        return Tier.REMOTE
    return tier


def medium_of(tier: Tier) -> tuple[str, str | None]:
    """Medium and locality of a tier."""
    return _WRITTEN[tier], REMOTE_LOCALITY if tier in {Tier.SHARED, Tier.REMOTE} else None
