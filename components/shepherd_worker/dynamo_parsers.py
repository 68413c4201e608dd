"""Names of the parsers that Dynamo's frontend has for what models write.

Which there are differs from version to version, so the Dynamo that is installed is
asked.  Imported only where an option names a parser: importing dynamo takes a while.
"""

from __future__ import annotations

from typing import Final

from dynamo._core import get_reasoning_parser_names, get_tool_parser_names

TOOL_CALLS: Final = tuple(sorted(get_tool_parser_names()))
REASONING: Final = tuple(sorted(get_reasoning_parser_names()))
