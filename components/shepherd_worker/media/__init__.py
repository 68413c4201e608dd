"""Pictures that a client names: fetched without harm, decoded without harm."""

from shepherd_worker.media.fetch import MediaFetcher
from shepherd_worker.media.loading import ImageLoader
from shepherd_worker.media.policy import MediaPolicy
from shepherd_worker.media.resolver import Resolver, SystemResolver

__all__ = ["ImageLoader", "MediaFetcher", "MediaPolicy", "Resolver", "SystemResolver"]
