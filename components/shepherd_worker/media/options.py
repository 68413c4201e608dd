"""The operator's word on images: what may be fetched, and who encodes it."""

from __future__ import annotations

from dataclasses import dataclass

from shepherd_config import OptionError, option
from shepherd_worker.media.policy import SCHEMES, MediaPolicy

DEFAULT_MAX_REQUESTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaOptions:
    """The part of a worker's options that is about images."""

    encode_endpoint: str = option(
        "Endpoint of encode workers, NAMESPACE.COMPONENT.ENDPOINT, that encode images for this worker; "
        "empty encodes them here, as does this worker when none answers.",
        default="",
        env=("DYN_TRTLLM_ENCODE_ENDPOINT",),
        group="media",
        only="--role aggregated, prefill or decode",
    )
    media_schemes: tuple[str, ...] = option(
        "Kinds of image URLs that are served: data, https, http.",
        default=("data", "https"),
        group="media",
    )
    media_allow_hosts: tuple[str, ...] = option(
        "Hosts, addresses or networks that images may be fetched from though they are not public.",
        default=(),
        aliases=("--allow-media-host",),
        env=("SHEPHERD_ALLOW_MEDIA_HOST",),
        group="media",
    )
    media_max_mb: float = option(
        "Megabytes of one image as it travels.",
        default=20.0,
        minimum=0.001,
        aliases=("--max-file-size-mb",),
        group="media",
        unit="MB",
    )
    media_max_pixels: int = option(
        "Pixels of one image once it is decoded.",
        default=1 << 25,
        minimum=1,
        group="media",
        unit="pixels",
    )
    media_max_images: int = option(
        "Images in one request.",
        default=16,
        minimum=1,
        group="media",
        unit="images",
    )
    media_max_requests: int = option(
        "Requests with images that may be in progress; one more is refused.",
        default=DEFAULT_MAX_REQUESTS,
        minimum=1,
        group="media",
        unit="requests",
    )
    media_timeout_s: float = option(
        "Seconds in which an image must be fetched, redirects and all.",
        default=10.0,
        minimum=0.1,
        group="media",
    )

    def media_policy(self) -> MediaPolicy:
        """What may be fetched for a client."""
        return MediaPolicy(
            schemes=frozenset(self.media_schemes),
            allowed_hosts=frozenset(host.lower() for host in self.media_allow_hosts),
            max_bytes=int(self.media_max_mb * 1_000_000),
            max_pixels=self.media_max_pixels,
            max_images=self.media_max_images,
            timeout_s=self.media_timeout_s,
        )

    def check_media(self) -> None:
        """Refuse words that mean nothing.

        Raises:
            OptionError: an endpoint without its parts, or a scheme that is not served at all.
        """
        path = self.encode_endpoint.removeprefix("dyn://").split(".")
        if self.encode_endpoint and (len(path) != 3 or not all(path)):
            raise OptionError(
                "--encode-endpoint", self.encode_endpoint, "NAMESPACE.COMPONENT.ENDPOINT"
            )
        for scheme in self.media_schemes:
            if scheme not in SCHEMES:
                raise OptionError("--media-schemes", scheme, f"some of {', '.join(SCHEMES)}")
