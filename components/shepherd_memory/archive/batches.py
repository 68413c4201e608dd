"""The transactions of one batch over stores that know only one tenant each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from shepherd_memory.archive.protocol import Archive, ArchiveWriter


@contextmanager
def tenant_by_tenant(of: Callable[[str], Archive]) -> Iterator[Callable[[str], ArchiveWriter]]:
    """A transaction per tenant, opened when first asked for; see `Archives.batch`.

    They are committed one after another: a failure undoes those that have not been yet.
    """
    writers: dict[str, ArchiveWriter] = {}
    with ExitStack() as transactions:

        def writer(tenant: str) -> ArchiveWriter:
            if tenant not in writers:
                writers[tenant] = transactions.enter_context(of(tenant).writing())
            return writers[tenant]

        yield writer
