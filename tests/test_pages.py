"""Pages lead where they say, and what runs them would notice if they lied."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from page_blocks import Block, Typed, blocks_of, pattern_of, typed_in
from page_machine import ROOT, Machine, PageFailedError

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "components/**/*.md", "deploy/**/*.md")
    for page in ROOT.glob(pattern)
)
_FENCES = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
_LINKS = re.compile(r"""\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)\"""")
_HEADINGS = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def prose(page: Path) -> str:
    return _FENCES.sub("", page.read_text())


@cache
def anchors(page: Path) -> frozenset[str]:
    """The fragments by which GitHub knows a page's headings."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADINGS.findall(prose(page)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for found in _LINKS.findall(re.sub(r"`[^`\n]*`", "", prose(page))):
        link = found[0] or found[1]
        path, _, fragment = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if re.match(r"[a-z]+:", link):
            continue
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)

    assert broken == []


def test_every_page_is_found_from_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}

    assert {name for name in pages if f"({name})" not in index} == set()


def test_what_is_said_of_others_has_its_source() -> None:
    text = (ROOT / "docs/compare.md").read_text()

    cited = set(re.findall(r"\[(\d+b?)\](?!:)", text))
    assert cited == set(re.findall(r"^\[(\d+b?)\]: https://", text, re.MULTILINE))


def test_pictures_are_small_and_shown() -> None:
    pages = "".join(page.read_text() for page in PAGES)
    for picture in (ROOT / "docs/images").iterdir():
        assert picture.stat().st_size < 200_000
        assert f"images/{picture.name})" in pages


def block(text: str, language: str = "console", mark: str = "") -> Block:
    return Block("page.md", 1, language, text, mark, "")


def test_fences_are_read_with_their_marks_and_indentation(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```text\nshown\n```\n\n<!-- not run: because -->\n```console\n$ no\n```\n\n"
        "1. a\n\n   ```console\n   $ yes\n   ```\n"
    )

    found = blocks_of(page, tmp_path)

    assert [(b.line, b.language, b.text, b.mark, b.reason) for b in found] == [
        (1, "text", "shown\n", "", ""),
        (6, "console", "$ no\n", "not run", "because"),
        (12, "console", "$ yes\n", "", ""),
    ]


def test_a_command_goes_on_while_a_quotation_is_open_or_a_line_ends_in_a_backslash() -> None:
    text = "$ say 'a\n  b'  # isn't it\n$ one \\\n  two\nshown\n\nand more\n"

    assert typed_in(block(text)) == [
        Typed("say 'a\n  b'  # isn't it", ""),
        Typed("one \\\n  two", "shown\n\nand more\n"),
    ]


@pytest.mark.parametrize(
    ("shown", "output", "fits"),
    [
        ("a … c\n", "a b b c\n", True),
        ("a … c\n", "a b\nc\n", False),
        ("a\n…\nz\n", "a\nz\n", True),
        ("a\n…\nz\n", "a\nb\nc\nz\n", True),
        ("a\n", "a\nb\n", False),
        ("(a)*\n", "aa\n", False),
    ],
)
def test_dots_stand_for_anything_and_nothing_else_does(shown: str, output: str, fits: bool) -> None:
    assert (pattern_of(shown).fullmatch(output) is not None) == fits


def test_a_page_that_says_what_is_not_so_is_found_out(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    try:
        machine.follow(block("$ export WORD=said\n$ echo $WORD\nsaid\n"))
        machine.follow(block("$ echo ready; sleep 60\nready\n^C\n"))
        for wrong in (
            block("$ echo $WORD\nunsaid\n"),
            block("$ false\n"),
            block("raise SystemExit(1)\n", "python"),
            block("$ python -m shepherd_memory --no-such-option &\n"),
            block("$ python -c 1/0\n", mark="only checked"),
        ):
            with pytest.raises(PageFailedError):
                machine.follow(wrong)
    finally:
        machine.close()
