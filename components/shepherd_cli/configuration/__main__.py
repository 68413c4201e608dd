"""`python -m shepherd_cli.configuration [ROOT]`: write `docs/configuration.md` anew."""

from __future__ import annotations

import sys
from pathlib import Path

from shepherd_cli.configuration.page import page

PAGE = Path("docs/configuration.md")


def main() -> None:
    """Write the page below the given root, or here."""
    (Path(sys.argv[1] if len(sys.argv) > 1 else ".") / PAGE).write_text(page())


if __name__ == "__main__":
    main()
