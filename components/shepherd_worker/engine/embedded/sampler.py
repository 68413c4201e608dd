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
    repetition, frequency and presence penalty, suppressed tokens
    temperature -> top-k -> top-p -> min-p -> inverse of the distribution function
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as ReadOnlyList
from dataclasses import dataclass, field

import torch
from torch import Tensor

from shepherd_worker.engine.embedded.runner import Sample, Samples, SamplingError
from shepherd_worker.engine.embedded.scheduler import Work
from shepherd_worker.engine.embedded.sequence import Sequence
from shepherd_worker.request import Sampling, TokenLogprob


@dataclass(slots=True)
class _Verification:
    """The rows of one work, sampled one after the other while the draft is right."""

    work: Work
    first_row: int
    samples: list[Sample | SamplingError] = field(default_factory=list)

    @property
    def sequence(self) -> Sequence:
        """Whose rows these are; its own tokens are those before the draft."""
        return self.work.sequence

    @property
    def num_ahead(self) -> int:
        """Tokens of the draft that were accepted, and so precede the row that is next."""
        return len(self.samples)

    @property
    def row(self) -> int:
        """The row that is sampled next."""
        return self.first_row + self.num_ahead

    @property
    def token_ids(self) -> array[int]:
        """The tokens before the sample that is next; not to be changed."""
        tokens = self.sequence.token_ids
        return tokens + array("I", self.work.draft[: self.num_ahead]) if self.num_ahead else tokens

    def take(self, result: Sample | SamplingError) -> bool:
        """Note what was sampled; whether another row follows."""
        draft, index = self.work.draft, self.num_ahead
        self.samples.append(result)
        return index < len(draft) and isinstance(result, Sample) and result.token_id == draft[index]


def sample(logits: Tensor, works: ReadOnlyList[Work]) -> list[Samples]:
    """What follows each work, from its `num_samples` rows of `logits` [n, vocab_size]."""
    verifications: list[_Verification] = []
    first_row = 0
    for work in works:
        verifications.append(_Verification(work, first_row))
        first_row += work.num_samples
    if first_row:
        _verify(logits, [each for each in verifications if each.work.num_samples])
    return [tuple(each.samples) for each in verifications]


def _verify(logits: Tensor, verifications: ReadOnlyList[_Verification]) -> None:
    best = logits.max(-1)
    # one transfer: each would wait for the device
    finite, likeliest = torch.stack((best.values.isfinite().long(), best.indices)).tolist()
    pending: list[_Verification] = []
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


def _judged(result: Sample, is_finite: bool) -> Sample | SamplingError:
    return result if is_finite else SamplingError("the model's logits are not finite")


def _sample_round(logits: Tensor, rows: ReadOnlyList[_Verification]) -> list[Sample]:
    """One sample of each, from the row that is next."""
    places = [each.row for each in rows]
    contiguous = places == list(range(len(logits)))
    own = logits if contiguous else logits[torch.tensor(places, device=logits.device)]
    scores = _adjust(own, rows)
    chosen = scores.argmax(-1)
    settings = [each.sequence.request.sampling for each in rows]
    drawn = [i for i, sampling in enumerate(settings) if not sampling.greedy]
    filtered = [i for i in drawn if _has_filter(settings[i])]
    for group in (filtered, sorted(set(drawn) - set(filtered))):
        if group:
            index = torch.tensor(group, device=logits.device)
            chosen[index] = _draw(scores[index].float(), [rows[i].sequence for i in group])
    logprobs = _logprobs(own, [each.sequence for each in rows], chosen)
    return [Sample(token, logprobs.get(i)) for i, token in enumerate(chosen.tolist())]


def _has_filter(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0


def _adjust(logits: Tensor, rows: ReadOnlyList[_Verification]) -> Tensor:
    """Penalties and suppressed tokens; the tensor itself where no row has any."""
    touched = [
        i
        for i, each in enumerate(rows)
        if each.sequence.request.sampling.penalised
        or each.sequence.suppressed_token_ids(each.num_ahead)
    ]
    if not touched:
        return logits
    scores = logits.float() if logits.dtype != torch.float32 else logits.clone()
    for i in touched:
        _penalise(scores[i], rows[i])
    return scores


def _penalise(row: Tensor, subject: _Verification) -> None:
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
