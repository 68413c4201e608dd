"""From logits to next tokens.

Rows that ask for nothing but the likeliest token are taken in one batch, whatever
their number.  The others are sampled in rounds: the first row of each work, then
the second of those whose first sample was what their draft had guessed, and so
on.  So everything that a sample moves on (random numbers, logits processors, a
grammar) moves once per token of the answer, and sees exactly the tokens before it.

A draft is certain of each of its tokens, so to sample a row from its own
distribution and to go on while the sample is the guess is rejection sampling:
neither the distribution nor the meaning of a seed changes with the drafts.
A sampled row uses one random number of its own sequence and nothing of the other
rows, so that a seed means the same in every batch, too.

Order of the steps, where a row asks for them:

    raw logits -> logprobs
    penalties, logits processors, grammars (`adjustment.py`)
    temperature -> top-k -> top-p -> min-p -> inverse of the distribution function
"""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlyList

import torch
from torch import Tensor

from shepherd_worker.engine.embedded.runner import Sample, Samples, SamplingError
from shepherd_worker.engine.embedded.sampling.adjustment import adjust
from shepherd_worker.engine.embedded.sampling.verification import Verification
from shepherd_worker.engine.embedded.scheduler import Work
from shepherd_worker.engine.embedded.sequence import Sequence
from shepherd_worker.request import Sampling, TokenLogprob


def sample(logits: Tensor, works: ReadOnlyList[Work]) -> list[Samples]:
    """What follows each work, from its `num_samples` rows of `logits` [n, vocab_size]."""
    verifications: list[Verification] = []
    first_row = 0
    for work in works:
        verifications.append(Verification(work, first_row))
        first_row += work.num_samples
    if first_row:
        _verify(logits, [each for each in verifications if each.work.num_samples])
    return [tuple(each.samples) for each in verifications]


def _verify(logits: Tensor, verifications: ReadOnlyList[Verification]) -> None:
    best = logits.max(-1)
    # one transfer: each would wait for the device
    finite, likeliest = torch.stack((best.values.isfinite().long(), best.indices)).tolist()
    pending: list[Verification] = []
    for each in verifications:
        if each.sequence.takes_likeliest:
            while each.take(_judged(Sample(likeliest[each.row]), finite[each.row])):
                pass
        else:
            pending.append(each)
    while pending:
        results = _sample_round(logits, pending)
        judged = [_judged(r, finite[v.row]) for v, r in zip(pending, results, strict=True)]
        pending = [v for v, result in zip(pending, judged, strict=True) if v.take(result)]


def _judged(result: Sample | SamplingError, is_finite: bool) -> Sample | SamplingError:
    return result if is_finite else SamplingError("the model's logits are not finite")


def _sample_round(logits: Tensor, rows: ReadOnlyList[Verification]) -> list[Sample | SamplingError]:
    """One sample of each, from the row that is next."""
    places = [each.row for each in rows]
    all_of_them = places == list(range(len(logits)))
    own = logits if all_of_them else logits[torch.tensor(places, device=logits.device)]
    scores, failures = adjust(own, rows)
    chosen = scores.argmax(-1)
    settings = [each.sequence.request.sampling for each in rows]
    drawn = [i for i, one in enumerate(settings) if not one.greedy and i not in failures]
    filtered = [i for i in drawn if _has_filter(settings[i])]
    for group in (filtered, sorted(set(drawn) - set(filtered))):
        if group:
            index = torch.tensor(group, device=logits.device)
            chosen[index] = _draw(scores[index].float(), [rows[i].sequence for i in group])
    logprobs = _logprobs(own, [each.sequence for each in rows], chosen)
    tokens = enumerate(chosen.tolist())
    return [failures.get(i) or Sample(token, logprobs.get(i)) for i, token in tokens]


def _has_filter(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0


def _draw(scores: Tensor, sequences: ReadOnlyList[Sequence]) -> Tensor:
    """Sample each row [n, vocab_size] by its sequence's settings and its next random number.

    All rows have a filter, or none has: sorting changes which token a random number means.
    """
    settings = [sequence.request.sampling for sequence in sequences]
    temperature = scores.new_tensor([[s.temperature] for s in settings])
    scores = (scores - scores.amax(-1, keepdim=True)) / temperature
    uniform = torch.tensor(
        [[sequence.random.random()] for sequence in sequences],
        dtype=torch.float64,
        device=scores.device,
    )
    if not _has_filter(settings[0]):
        return _invert(scores.softmax(-1), uniform)
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    rank = _invert(_filter(scores, settings), uniform)
    return order.gather(-1, rank[:, None])[:, 0]


def _filter(scores: Tensor, settings: ReadOnlyList[Sampling]) -> Tensor:
    """Probabilities of descending scores, 0 beyond top-k, top-p and min-p; not normalised."""
    vocab_size = scores.shape[-1]
    top_k = torch.tensor([[s.top_k or vocab_size] for s in settings], device=scores.device)
    # rounding may bring the sum of all probabilities to 1 before the last token
    top_p = scores.new_tensor([[s.top_p if s.top_p < 1 else torch.inf] for s in settings])
    min_p = scores.new_tensor([[s.min_p] for s in settings])
    beyond = torch.arange(vocab_size, device=scores.device) >= top_k
    probabilities = scores.masked_fill(beyond, -torch.inf).softmax(-1)
    mass_before = probabilities.cumsum(-1) - probabilities
    drop = (mass_before >= top_p) | (probabilities < min_p * probabilities[:, :1])
    drop[:, 0] = False
    return probabilities.masked_fill(drop, 0)


def _invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The first index of each row whose cumulated probability exceeds `uniform` [n, 1] of the sum."""
    cumulated = probabilities.cumsum(-1, dtype=torch.float64)
    total = cumulated[:, -1:]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    threshold = torch.minimum(uniform * total, below_total)
    return torch.searchsorted(cumulated, threshold, right=True)[:, 0]


def _logprobs(
    logits: Tensor, sequences: ReadOnlyList[Sequence], chosen: Tensor
) -> dict[int, TokenLogprob]:
    """What the model itself says of the chosen tokens, for the rows that asked."""
    wanted = {
        row: sequence.request.logprobs
        for row, sequence in enumerate(sequences)
        if sequence.request.logprobs is not None
    }
    if not wanted:
        return {}
    index = torch.tensor(list(wanted), device=logits.device)
    logprobs = logits[index].float().log_softmax(-1)
    own = logprobs.gather(-1, chosen[index][:, None])[:, 0].tolist()
    best = logprobs.topk(max(wanted.values()), dim=-1)
    ids, values = best.indices.tolist(), best.values.tolist()
    tokens = chosen[index].tolist()
    return {
        row: TokenLogprob(
            tokens[i], own[i], tuple(zip(ids[i][:count], values[i][:count], strict=True))
        )
        for i, (row, count) in enumerate(wanted.items())
    }
