"""KV of a prompt that this worker need not compute: from its prefill worker, else from the KV store.

Knows sequences before they are submitted.  Everything here runs on the event
loop; what cannot be had is computed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from shepherd_worker.engine.connector.connector import KvConnector
from shepherd_worker.engine.embedded.loading import Loaded
from shepherd_worker.engine.embedded.sequence import ImportedBlocks, Sequence
from shepherd_worker.engine.embedded.transfer.service import TransferService
from shepherd_worker.engine.protocol import Handoff
from shepherd_worker.engine.telemetry import EngineTelemetry


class PromptImports:
    """See the module's docstring."""

    def __init__(
        self,
        loaded: Loaded,
        transfer: TransferService,
        connector: KvConnector | None,
        telemetry: EngineTelemetry,
    ) -> None:
        self._loaded = loaded
        self._transfer = transfer
        self._connector = connector
        self._telemetry = telemetry
        self._block_size = loaded.info.block_size

    @asynccontextmanager
    async def of(self, sequence: Sequence, handoff: Handoff | None) -> AsyncIterator[None]:
        """Give a sequence what can be had of its prompt; its memory is let go with the block."""
        fetched = await self._fetch(sequence, handoff) if handoff else None
        sequence.imported = fetched or await self._load(sequence)
        try:
            yield
        finally:
            self.used(sequence)

    def used(self, sequence: Sequence) -> None:
        """The sequence's blocks are filled; without effect the second time."""
        if self._connector is not None:
            self._connector.release(sequence)

    async def _fetch(self, sequence: Sequence, handoff: Handoff) -> ImportedBlocks | None:
        """Those prompt blocks that a handoff offers and the cache lacks; ends its lease."""
        loaded, ticket = self._loaded, handoff.ticket
        if ticket is None:
            return None
        wanted = max(0, min(ticket.num_records, self._num_reusable(sequence)))
        first = loaded.core.num_cached_blocks(sequence.hashes(wanted, self._block_size))
        with self._telemetry.transferring(handoff, wanted - first) as transfer:
            records = await self._transfer.fetch(
                ticket,
                first,
                wanted - first,
                fingerprint=loaded.info.model_fingerprint,
                record_bytes=loaded.block_bytes,
            )
            transfer.came(records or ())
        return ImportedBlocks(first, records) if records else None

    async def _load(self, sequence: Sequence) -> ImportedBlocks | None:
        """Those prompt blocks that the store has and no tier does."""
        if self._connector is None:
            return None
        hashes = sequence.hashes(self._num_reusable(sequence), self._block_size)
        num_cached = partial(self._loaded.core.num_cached_blocks, hashes)
        run = await self._connector.load(sequence, hashes, num_cached)
        return ImportedBlocks(run.first_block, run.records, from_store=True) if run else None

    def _num_reusable(self, sequence: Sequence) -> int:
        """Full blocks before the prompt's last token, which is always computed."""
        return (sequence.num_prompt - 1) // self._block_size
