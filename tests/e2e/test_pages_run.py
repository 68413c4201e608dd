"""Every command of README and docs/ does what its page says.

One machine follows all pages; what `docs/serve.md` starts is there for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from page_blocks import RUN_LANGUAGES, SHOWN_LANGUAGES, Block, blocks_of, typed_in
from page_machine import ROOT, Machine

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(360)]

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = {str(page.relative_to(ROOT)): blocks_of(page, ROOT) for page in PAGES}
ALL = [block for blocks in BLOCKS.values() for block in blocks]


def runs(block: Block) -> bool:
    return block.language in RUN_LANGUAGES and block.mark != "not run"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("reader"))
    try:
        machine.follow(next(block for block in BLOCKS["docs/serve.md"] if runs(block)))
        yield machine
    finally:
        machine.close()


@pytest.mark.parametrize(
    "page", [page for page, blocks in BLOCKS.items() if any(map(runs, blocks))]
)
def test_what_a_page_says_works(machine: Machine, page: str) -> None:
    machine.turn_page()
    for block in filter(runs, BLOCKS[page]):
        machine.follow(block)


@pytest.mark.parametrize("block", [b for b in ALL if b.mark == "not run"], ids=str)
def test_what_is_not_run_says_why(block: Block) -> None:
    pytest.skip(f"{block} is not run: {block.reason}")


@pytest.mark.parametrize("block", ALL, ids=str)
def test_a_block_says_what_it_is(block: Block) -> None:
    assert block.language in RUN_LANGUAGES | SHOWN_LANGUAGES
    if block.language == "console" and not block.mark:
        assert typed_in(block)
