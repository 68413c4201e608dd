"""From logits to next tokens.

Greedy rows are taken in one batch.  A sampled row uses one random number of its
own sequence and nothing of the other rows, so that a seed means the same in
every batch.  Order of the steps, where a row asks for them:

    raw logits -> logprobs
    repetition, frequency and presence penalty, suppressed tokens
    temperature -> top-k -> top-p -> min-p -> inverse of the distribution function
"""

from __future__ import annotations

from collections.abc import Sequence as ReadOnlyList

import torch
from torch import Tensor

from shepherd_worker.engine.embedded.runner import Sample, SamplingError
from shepherd_worker.engine.embedded.sequence import Sequence
from shepherd_worker.request import Sampling, TokenLogprob


def sample(logits: Tensor, sequences: ReadOnlyList[Sequence]) -> list[Sample | SamplingError]:
    """The next token of each sequence, from its row of `logits` [n, vocab_size]."""
    finite = logits.amax(-1).isfinite().tolist()
    scores = _adjust(logits, sequences)
    chosen = scores.argmax(-1)
    plain = [i for i, s in enumerate(sequences) if finite[i] and not s.request.sampling.greedy]
    filtered = [i for i in plain if _has_filter(sequences[i].request.sampling)]
    for rows in (filtered, sorted(set(plain) - set(filtered))):
        if rows:
            index = torch.tensor(rows, device=logits.device)
            chosen[index] = _draw(scores[index].float(), [sequences[row] for row in rows])
    tokens = chosen.tolist()
    logprobs = _logprobs(logits, sequences, chosen)
    return [
        Sample(token, logprobs.get(row))
        if finite[row]
        else SamplingError("the model's logits are not finite")
        for row, token in enumerate(tokens)
    ]


def _has_filter(sampling: Sampling) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0


def _adjust(logits: Tensor, sequences: ReadOnlyList[Sequence]) -> Tensor:
    """Penalties and suppressed tokens; the tensor itself where no row has any."""
    touched = [
        row
        for row, sequence in enumerate(sequences)
        if _is_penalised(sequence.request.sampling) or sequence.suppressed_token_ids
    ]
    if not touched:
        return logits
    scores = logits.float() if logits.dtype != torch.float32 else logits.clone()
    for row in touched:
        _penalise(scores[row], sequences[row])
    return scores


def _is_penalised(sampling: Sampling) -> bool:
    return (
        sampling.repetition_penalty != 1
        or sampling.frequency_penalty != 0
        or sampling.presence_penalty != 0
    )


def _penalise(row: Tensor, sequence: Sequence) -> None:
    """Change one row [vocab_size] in place."""
    sampling = sequence.request.sampling
    if _is_penalised(sampling):
        seen = torch.frombuffer(sequence.token_ids, dtype=torch.int32).long().to(row.device)
        if sampling.repetition_penalty != 1:
            score = row[seen]
            penalty = sampling.repetition_penalty
            row[seen] = torch.where(score < 0, score * penalty, score / penalty)
        counts = torch.bincount(seen[sequence.num_prompt :], minlength=len(row))
        row -= sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0)
    suppressed = [token for token in sequence.suppressed_token_ids if token < len(row)]
    row[suppressed] = -torch.inf


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
