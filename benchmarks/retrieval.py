"""How much of what is asked for comes back, on dialogues with questions, without any LLM.

    python -m benchmarks.retrieval --dataset locomo.json
    python -m benchmarks.retrieval --dataset locomo.json --embedder wordllama --unit turn

The file has the form of LoCoMo (github.com/snap-research/locomo, CC BY-NC 4.0; not part of
this project): dialogues of sessions, and questions with the turns that answer them.  Every
dialogue is a tenant, every document an exchange of two turns (or one, with `--unit turn`),
recall@k the share of a question's evidence in the first k.  Categories 1 to 4 count, the
adversarial fifth is told apart.  The peer is the keyword memory that this service goes back
to, as it was written (benchmarks/retrieval_peer.py).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.figure import Figure, compare, told, write
from benchmarks.memory_turns import archive_all, turn_of
from benchmarks.retrieval_peer import KeywordMemory
from shepherd_memory.archive.files import SqliteArchives
from shepherd_memory.archive.records import StoredTurn
from shepherd_memory.embedding import create_embedder, create_reranker
from shepherd_memory.embedding.backfill import embed_missing
from shepherd_memory.embedding.protocol import Embedder, Reranker
from shepherd_memory.search import Question, Searcher

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open", 4: "single-hop", 5: "adversarial"}
COUNTED = {1, 2, 3, 4}
CUTS = (1, 5, 10, 20)
GOALS = {"none": 80.0, "embedder": 85.0, "reranker": 88.0}
"""recall@10 in per cent of exchange pairs, categories 1 to 4."""

DAY_NS = 86_400 * 10**9

Search = Callable[[str], Sequence[str]]
"""From a question to archive ids, best first."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question and the documents that answer it."""

    query: str
    category: int
    evidence: tuple[str, ...]
    """Archive ids, one for each turn of the evidence."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One tenant."""

    name: str
    turns: tuple[StoredTurn, ...]
    questions: tuple[Asked, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """What one search brought."""

    category: int
    ranks: tuple[int, ...]
    """Place of each piece of evidence from 0; a great number where it is missing."""
    seconds: float

    def recall(self, cut: int) -> float:
        """Share of the evidence among the first `cut`."""
        return fmean(rank < cut for rank in self.ranks)

    def reciprocal_rank(self) -> float:
        """1 over the place of the first evidence."""
        return 1 / (1 + min(self.ranks))

    def ndcg(self) -> float:
        """Normalised discounted cumulative gain of the first ten."""
        places = set(self.ranks)
        gained = sum(1 / math.log2(rank + 2) for rank in places if rank < 10)
        return gained / sum(1 / math.log2(rank + 2) for rank in range(min(10, len(places))))


def dialogues(path: Path, unit: int) -> Iterator[Dialogue]:
    """The dialogues of a file; `unit` turns are a document."""
    for entry in json.loads(path.read_text()):
        turns, where = _turns_of(entry["conversation"], entry["sample_id"], unit)
        questions = []
        for asked in entry["qa"]:
            named = re.findall(r"D\d+:\d+", " ".join(asked.get("evidence", ())))
            evidence = tuple(where[each] for each in named if each in where)
            if evidence:
                questions.append(Asked(asked["question"], asked["category"], evidence))
        yield Dialogue(entry["sample_id"], tuple(turns), tuple(questions))


def _turns_of(
    talk: dict[str, Any], tenant: str, unit: int
) -> tuple[list[StoredTurn], dict[str, str]]:
    turns: list[StoredTurn] = []
    where: dict[str, str] = {}
    for number in count(1):
        if f"session_{number}_date_time" not in talk:
            return turns, where
        started = _unix_ns(talk[f"session_{number}_date_time"])
        said = talk.get(f"session_{number}", [])
        for place in range(0, len(said), unit):
            lines = said[place : place + unit]
            turn = turn_of(
                tenant,
                f"session {number:03}",
                1 + place // unit,
                [
                    (role, _line(line))
                    for role, line in zip(("user", "assistant"), lines, strict=False)
                ],
                started,
            )
            turns.append(turn)
            where |= {line["dia_id"]: turn.archive_id for line in lines}
    raise AssertionError


def _unix_ns(when: str) -> int:
    """Of such as `1:56 pm on 8 May, 2023`, which is taken for UTC."""
    parsed = datetime.strptime(f"{when} +0000", "%I:%M %p on %d %B, %Y %z")
    return int(parsed.astimezone(UTC).timestamp()) * 10**9


def _line(line: dict[str, Any]) -> str:
    caption = f" [{line['blip_caption']}]" if line.get("blip_caption") else ""
    return f"{line['speaker']}: {line['text']}{caption}"


def judged(dialogue: Dialogue, search: Search) -> list[Judged]:
    """Ask everything."""
    results = []
    for asked in dialogue.questions:
        began = time.perf_counter()
        found = search(asked.query)
        seconds = time.perf_counter() - began
        place = {archive_id: rank for rank, archive_id in enumerate(found)}
        ranks = tuple(place.get(each, 10**9) for each in asked.evidence)
        results.append(Judged(asked.category, ranks, seconds))
    return results


def run(
    path: Path, unit: int, embedder: Embedder | None, reranker: Reranker | None
) -> tuple[list[list[Judged]], list[list[Judged]]]:
    """Ours and the peer's results, dialogue by dialogue."""
    ours, peers = [], []
    with TemporaryDirectory() as directory:
        archives = SqliteArchives(Path(directory))
        talks = list(dialogues(path, unit))
        # As if asked on the day after the last word, which is when ages differ most.
        now = DAY_NS + max(turn.started_unix_ns for talk in talks for turn in talk.turns)
        peer = KeywordMemory(Path(directory) / "peer.db", lambda: now / 10**9)
        searcher = Searcher(embedder=embedder, reranker=reranker, now_unix_ns=lambda: now)
        for talk in talks:
            archive_all(archives.of(talk.name), talk.turns)
            peer.archive_all(talk.name, talk.turns)
        for talk in talks:
            archive = archives.of(talk.name)
            while embedder is not None and embed_missing(archive, embedder):
                pass
            ours.append(judged(talk, lambda query: _ids(searcher, archive, query)))  # noqa: B023  called at once
            peers.append(judged(talk, lambda query: peer.search(talk.name, query, 20)))  # noqa: B023  called at once
        archives.close()
    return ours, peers


def _ids(searcher: Searcher, archive: Any, query: str) -> list[str]:
    hits = searcher.search(archive, Question(query[:4096], 20))
    return [hit.turn.archive_id for hit in hits]


def figures(
    ours: Sequence[Sequence[Judged]], peers: Sequence[Sequence[Judged]], goal: float | None
) -> list[Figure]:
    """The rows of a result; all questions weigh the same, whosever they are."""
    rows = []

    def row(name: str, of: Callable[[Judged], float], categories: set[int]) -> None:
        mine, theirs = _mean(ours, of, categories), _mean(peers, of, categories)
        rows.append(compare(name, [mine], [theirs], peer_name="keyword memory", unit="%"))

    for cut in CUTS:
        row(f"recall@{cut}", partial(Judged.recall, cut=cut), COUNTED)
    row("MRR", Judged.reciprocal_rank, COUNTED)
    row("nDCG@10", Judged.ndcg, COUNTED)
    for category, name in CATEGORIES.items():
        row(f"recall@10 {name}", partial(Judged.recall, cut=10), {category})
    if goal is not None:
        reached = _mean(ours, partial(Judged.recall, cut=10), COUNTED)
        rows.append(
            compare("recall@10, goal", [reached], [goal], peer_name="goal", unit="%", goal=1.0)
        )
    times = [[1e3 * each.seconds for talk in talks for each in talk] for talks in (ours, peers)]
    rows.append(
        compare("ms per query", *times, peer_name="keyword memory", unit="ms", less_is_better=True)
    )
    return rows


def _mean(
    talks: Sequence[Sequence[Judged]], of: Callable[[Judged], float], categories: set[int]
) -> float:
    values = [of(each) for talk in talks for each in talk if each.category in categories]
    return 100 * fmean(values) if values else 0.0


def per_dialogue(ours: Sequence[Sequence[Judged]]) -> str:
    """recall@10 of each dialogue: how far the figure depends on who talks."""
    recall = partial(Judged.recall, cut=10)
    return " ".join(f"{_mean([talk], recall, COUNTED):.1f}" for talk in ours)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--unit", choices=("pair", "turn"), default="pair")
    parser.add_argument("--embedder", default="none", help="as the service's --embedder")
    parser.add_argument("--reranker", default="none", help="as the service's --reranker")
    parser.add_argument("--out", type=Path, default=Path("build/bench/retrieval.json"))
    asked = parser.parse_args()
    embedder, reranker = create_embedder(asked.embedder), create_reranker(asked.reranker)
    kind = "reranker" if reranker else "embedder" if embedder else "none"
    ours, peers = run(asked.dataset, 2 if asked.unit == "pair" else 1, embedder, reranker)
    rows = figures(ours, peers, GOALS[kind] if asked.unit == "pair" else None)
    for row in rows:
        print(told(row))
    print(f"recall@10 by dialogue: {per_dialogue(ours)}")
    write(rows, asked.out)


if __name__ == "__main__":
    main()
