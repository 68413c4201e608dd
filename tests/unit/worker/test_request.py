"""Chunks that became ready together travel together."""

from __future__ import annotations

from shepherd_worker.request import FinishReason, TokenChunk, TokenLogprob, Usage, joined


def test_joined_chunks_keep_every_token_and_the_end_of_the_last() -> None:
    usage = Usage(1, 0, 3)
    first = TokenChunk((1,), (TokenLogprob(1, -0.1),))
    second = TokenChunk((2,), (TokenLogprob(2, -0.2),))
    last = TokenChunk((3,), (TokenLogprob(3, -0.3),), FinishReason.STOP, "x", usage)

    assert joined([first]) is first
    assert joined([first, second, last]) == TokenChunk(
        (1, 2, 3),
        (TokenLogprob(1, -0.1), TokenLogprob(2, -0.2), TokenLogprob(3, -0.3)),
        FinishReason.STOP,
        "x",
        usage,
    )
