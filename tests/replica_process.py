"""One memory service of several on one PostgreSQL, which follows the given streams.

    python replica_process.py OPTIONS_AS_JSON

Says its URL when it accepts requests; each line that it hears is a stream's
descriptor, which joins.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from typing import Any

from line_process import say
from shepherd_events.discovery import StreamDescriptor, StreamJoined
from shepherd_memory.config import MemoryConfig
from shepherd_memory.fake import FakeDirectory, SpelledTranscript
from shepherd_memory.service import serve


async def main(options: dict[str, Any]) -> None:
    directory, loop = FakeDirectory(), asyncio.get_running_loop()

    def listen() -> None:
        for line in sys.stdin:
            joined = StreamJoined(StreamDescriptor.from_json(json.loads(line)))
            loop.call_soon_threadsafe(directory.say, joined)

    threading.Thread(target=listen, daemon=True).start()
    await serve(
        MemoryConfig(http_port=0, admin_port=None, archive_grace_s=0.02, **options),
        directory,
        make_transcript=lambda _: SpelledTranscript(),
        on_ready=lambda url: say({"url": url}),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(main(json.loads(sys.argv[1])))
