"""What requests ask of the logits before a token is chosen from them, in this order:

    repetition, frequency and presence penalty; suppressed tokens
    logits processors
    the grammar of guided decoding, which has the last word

Rows that ask for nothing are not touched.  A row that cannot be adjusted fails alone.
"""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlyList
from concurrent.futures import Future, wait

import torch
from torch import Tensor

from shepherd_worker.engine.embedded.runner import ProcessorCallError, SamplingError
from shepherd_worker.engine.embedded.sampling.steering import GuideError
from shepherd_worker.engine.embedded.sampling.verification import Verification

Failures = dict[int, SamplingError]
"""By row."""


def adjust(logits: Tensor, rows: ReadOnlyList[Verification]) -> tuple[Tensor, Failures]:
    """The scores [n, vocab_size] to choose from, and the rows that have none.

    The scores are `logits` itself where no row asks for anything.
    """
    touched = [i for i, each in enumerate(rows) if each.sequence.adjusts(each.num_ahead)]
    if not touched:
        return logits, {}
    scores = logits.float() if logits.dtype != torch.float32 else logits.clone()
    for i in touched:
        _penalise(scores[i], rows[i])
    failures = _process(scores, rows)
    failures |= _guide(scores, logits, rows)
    possible = scores.amax(-1).isfinite().tolist()
    for i in touched:
        if not possible[i] and logits[i].amax().isfinite():
            failures.setdefault(i, SamplingError("no token is left to choose from"))
    return scores, failures


def _penalise(row: Tensor, subject: Verification) -> None:
    """Change one row [vocab_size] in place."""
    sampling = subject.sequence.request.sampling
    if sampling.penalised:
        seen = torch.frombuffer(subject.token_ids, dtype=torch.int32).long().to(row.device)
        if sampling.repetition_penalty != 1:
            score = row[seen]
            penalty = sampling.repetition_penalty
            row[seen] = torch.where(score < 0, score * penalty, score / penalty)
        counts = torch.bincount(seen[subject.sequence.num_prompt :], minlength=len(row))
        row -= sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0)
    suppressed = subject.sequence.suppressed_token_ids(subject.num_ahead)
    row[[token for token in suppressed if token < len(row)]] = -torch.inf


def _process(scores: Tensor, rows: ReadOnlyList[Verification]) -> Failures:
    """Let all rows' processors run side by side, and wait for them as long as one may take."""
    begun: dict[int, Future[Tensor]] = {}
    timeout_s = 0.0
    for i, each in enumerate(rows):
        processors = each.sequence.processors
        if processors is not None:
            begun[i] = processors.begin(each.token_ids[:], scores[i].clone())
            timeout_s = processors.timeout_s
    wait(begun.values(), timeout_s)
    failures: Failures = {}
    for i, future in begun.items():
        if not future.done():
            failures[i] = ProcessorCallError(f"a logits processor took more than {timeout_s:g} s")
        elif (error := future.exception()) is not None:
            failures[i] = ProcessorCallError(f"a logits processor raised {error!r}")
        else:
            scores[i] = future.result()
    return failures


def _guide(scores: Tensor, logits: Tensor, rows: ReadOnlyList[Verification]) -> Failures:
    """Leave what the grammars allow; where nothing else would be left, even suppressed tokens."""
    masks: dict[int, bytes] = {}
    failures: Failures = {}
    for i, each in enumerate(rows):
        if each.sequence.guide is not None:
            try:
                masks[i] = each.sequence.guide.allowed()
            except GuideError as error:
                failures[i] = SamplingError(str(error))
    if masks:
        index = torch.tensor(list(masks), device=scores.device)
        forbidden = ~_unpack(list(masks.values()), scores.shape[-1]).to(scores.device)
        guided = scores[index].masked_fill(forbidden, -torch.inf)
        bare = logits[index].to(guided.dtype).masked_fill(forbidden, -torch.inf)
        none_left = guided.amax(-1, keepdim=True) == -torch.inf
        scores[index] = torch.where(none_left, bare, guided)
    return failures


def _unpack(masks: ReadOnlyList[bytes], vocab_size: int) -> Tensor:
    """Bit masks as booleans [n, vocab_size]."""
    packed = torch.frombuffer(bytearray(b"".join(masks)), dtype=torch.uint8).view(len(masks), -1)
    bits = packed[:, :, None] >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.view(len(masks), -1)[:, :vocab_size].bool()
