"""`python -m shepherd_cli.observability [ROOT]`: write the page and the dashboards anew."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from shepherd_cli.observability.boards import BOARDS
from shepherd_cli.observability.catalogue import REGISTRIES, series_of
from shepherd_cli.observability.dashboards import render
from shepherd_cli.observability.metrics_page import page


def files() -> dict[str, str]:
    """What is generated, by path from the repository's root."""
    components = {name: series_of(make()) for name, make in REGISTRIES.items()}
    made = {"docs/metrics.md": page(components)}
    for board in BOARDS:
        name = board.uid.removeprefix("shepherd-")
        made[f"deploy/observability/dashboards/{name}.json"] = (
            json.dumps(render(board), indent=2) + "\n"
        )
    return made


def main() -> None:
    """Write every file below the given root, or here."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for name, text in files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


if __name__ == "__main__":
    main()
