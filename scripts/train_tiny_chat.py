"""Make the tiny chat model that ships: data, tokenizer, training, held-out scores.

    PYTHONPATH=components python scripts/train_tiny_chat.py --out DIR [--device cuda]

One GPU needs about eight minutes, two CPU cores more than a day.  The same seed makes
the same data, byte for byte (its digest is in the log); the training itself is
deterministic up to the order of a GPU's sums.  Exits 1 where a held-out score
misses its bar.  Writes into DIR what `components/shepherd_tiny_chat/model`
holds, and `training_log.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from shepherd_events.events import StreamId
from shepherd_events.stream_cursor import Position
from shepherd_memory.archive.protocol import StoredTurn
from shepherd_memory.archive.sqlite import SqliteArchive
from shepherd_memory.eviction import Placement
from shepherd_memory.search import search
from shepherd_memory.turns import Said
from shepherd_tiny_chat import MODEL_DIR
from shepherd_tiny_chat.corpus.recall import Exchange
from shepherd_tiny_chat.evaluation.answers import Answerer
from shepherd_tiny_chat.evaluation.scores import BARS, Score, evaluate, failures
from shepherd_tiny_chat.training.batches import Shard, ShardMaker
from shepherd_tiny_chat.training.tokenizer import train_tokenizer, write_tokenizer
from shepherd_tiny_chat.training.trainer import Recipe, Report, as_log, train

TEMPLATE = "chat_template.jinja"


def main() -> int:
    """Train, evaluate, write; 1 where a bar is missed."""
    options = _options()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    began = perf_counter()
    shutil.copyfile(MODEL_DIR / TEMPLATE, out / TEMPLATE)
    write_tokenizer(train_tokenizer(options.seed), out)
    recipe = Recipe(
        seed=options.seed,
        num_shards=options.shards,
        tokens_per_batch=options.tokens_per_batch,
    )
    reports: list[dict[str, float]] = []

    def report(each: Report) -> None:
        reports.append(as_log(each))
        print(json.dumps(reports[-1]), flush=True)

    digests: list[bytes] = []
    maker = ShardMaker(
        out / "tokenizer.json", out / TEMPLATE, options.seed, options.tokens_per_batch
    )
    with (making := _Shards(maker, options)) as shards:
        model = train(recipe, _digested(shards, digests), options.device, report)
    model.to(torch.bfloat16).save_pretrained(out)
    trained = perf_counter()
    scores = held_out_scores(out, options.device, options.cases, options.seed)
    log = {
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "data_sha256": hashlib.sha256(b"".join(digests)).hexdigest(),
        "first_shard_sha256": digests[0].hex(),
        "weights_sha256": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
        "machine": _machine(options.device),
        "seconds": {
            "training": round(trained - began),
            "waiting_for_data": round(making.seconds_waited),
            "evaluation": round(perf_counter() - trained),
        },
        "held_out": {"cases": options.cases, "bars": BARS} | _shares(scores),
        "reports": reports,
    }
    (out / "training_log.json").write_text(json.dumps(log, indent=1) + "\n")
    _print(scores)
    return 1 if failures(scores) else 0


def held_out_scores(directory: Path, device: str, cases: int, seed: int) -> dict[str, Score]:
    """What the model in `directory` does with held-out questions."""
    return evaluate(
        Answerer(directory, device=device, batch_size=256 if device == "cuda" else 16),
        search_exchanges,
        cases=cases,
        seed=seed,
    )


def search_exchanges(exchanges: Sequence[Exchange], query: str, k: int) -> list[int]:
    """The memory service's own search over an archive of these exchanges."""
    if not query:
        return []
    with tempfile.TemporaryDirectory() as directory:
        archive = SqliteArchive(Path(directory) / "archive.db", "local")
        try:
            with archive.writing() as writer:
                for place, exchange in enumerate(exchanges):
                    writer.insert(_turn(place, exchange))
                    writer.archive(str(place), place)
            return [int(hit.turn.archive_id) for hit in search(archive, query, k)]
        finally:
            archive.close()


def _turn(place: int, exchange: Exchange) -> StoredTurn:
    said = (Said("user", exchange.user), Said("assistant", exchange.assistant))
    placement = Placement(StreamId("none", 0), Position(1, 1), 0, array("Q"))
    return StoredTurn(str(place), "session", place + 1, "", said, placement, "", place)


class _Shards:
    """Shards made by other processes, in order."""

    def __init__(self, maker: ShardMaker, options: argparse.Namespace) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._pool = multiprocessing.get_context("spawn").Pool(options.processes)
        self._shards = self._pool.imap(maker, range(options.shards))
        self._count: int = options.shards
        self.seconds_waited = 0.0
        """That the training stood still because the data was not made yet."""

    def __enter__(self) -> Iterator[Shard]:
        return self._waited_for()

    def __exit__(self, *_: object) -> None:
        self._pool.terminate()

    def _waited_for(self) -> Iterator[Shard]:
        for _ in range(self._count):
            began = perf_counter()
            shard = next(self._shards)
            self.seconds_waited += perf_counter() - began
            yield shard


def _digested(shards: Iterator[Shard], digests: list[bytes]) -> Iterator[Shard]:
    for shard in shards:
        digests.append(shard.digest)
        yield shard


def _shares(scores: dict[str, Score]) -> dict[str, Any]:
    return {
        skill: {"share": round(score.share, 4), "right": score.right, "asked": score.asked}
        for skill, score in scores.items()
    }


def _print(scores: dict[str, Score]) -> None:
    for skill, score in scores.items():
        print(
            f"{skill:12} {score.share:.3f} ({score.right}/{score.asked}) bar {BARS.get(skill, '')}"
        )
    for skill, score in scores.items():
        for wrong in score.wrong:
            print(f"{skill} wrong: {wrong}")


def _machine(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return f"{name}, torch {torch.__version__}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the tiny chat model.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shards", type=int, default=240, help="of 2048 conversations")
    parser.add_argument("--tokens-per-batch", type=int, default=65_536)
    parser.add_argument("--processes", type=int, default=2, help="that make data")
    parser.add_argument("--cases", type=int, default=500, help="held-out, of each skill")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
