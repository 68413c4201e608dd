"""Guesses at a sequence's next tokens, from what stands in its own text already.

Text that repeats itself (edited code, quoted passages, JSON) tends to go on as
it went on before.  The last `window` tokens, or fewer but at least two, are
looked up in the prompt and output so far; what followed them there is the
draft.  The model verifies a draft in one pass, so a wrong guess costs a little
time and never changes the answer.

    ... a b c d e f ... a b c        matched: a b c, draft: d e f

Knows one sequence's tokens and nothing of blocks or models.  Occurrences of a
pair of tokens are chained, latest first, as deflate chains its hash buckets: a
new token is indexed in O(1), and a look-up follows at most `_MAX_CANDIDATES` links.

How much is drafted follows from how the drafts before fared:

    accepted   next draft                      pause
    --------   -----------------------------   --------------------------------------
    all        twice as long, to `max_draft`   none
    some       as long                         none
    none       half as long, to 1 token        none; at 1 token 1, 2, 4 ... 64 tokens
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

_MAX_CANDIDATES = 8
_MAX_PAUSE = 64


@dataclass(frozen=True, slots=True)
class NgramConfig:
    """How far to look, and how much to guess."""

    window: int = 4
    """Tokens that are compared at most, at least 1; more of them make a better guess."""
    max_draft: int = 8
    """Tokens that one draft has at most, at least 1."""


class NgramDrafter:
    """Drafts for one sequence; its tokens only ever grow."""

    def __init__(self, config: NgramConfig) -> None:
        self._config = config
        self._key_tokens = min(2, config.window)
        self._latest: dict[int, int] = {}
        """Key of a pair of tokens to where its latest occurrence ends."""
        self._earlier = array("q")
        """By the place where a pair ends: where the one before it ends, or -1."""
        self._length = config.max_draft
        self._pause = 0
        self._resume_at = 0

    def propose(self, token_ids: array[int], limit: int) -> tuple[int, ...]:
        """Up to `limit` tokens that may follow `token_ids`; empty for no guess."""
        if limit < 1 or len(token_ids) < self._resume_at:
            return ()
        self._index(token_ids)
        end = self._longest_match(token_ids)
        return () if end < 0 else _continued(token_ids, end, min(limit, self._length))

    def observe(self, num_tokens: int, drafted: int, accepted: int) -> None:
        """Learn how a draft fared; the sequence has `num_tokens` tokens now."""
        if accepted:
            self._pause = 0
            if accepted == drafted:
                self._length = min(self._config.max_draft, 2 * drafted)
            return
        self._length = max(1, self._length // 2)
        if self._length == 1:
            self._pause = min(_MAX_PAUSE, max(1, 2 * self._pause))
        self._resume_at = num_tokens + self._pause

    def _index(self, token_ids: array[int]) -> None:
        """Enter the tokens that are new since the last call, all but the very last pair's end."""
        for end in range(len(self._earlier), len(token_ids) - 1):
            key = self._key(token_ids, end)
            self._earlier.append(self._latest.get(key, -1))
            self._latest[key] = end

    def _key(self, token_ids: array[int], end: int) -> int:
        """The key of the tokens that end at `end`; -1 before there are enough of them."""
        if self._key_tokens == 1:
            return token_ids[end]
        return token_ids[end - 1] << 32 | token_ids[end] if end else -1

    def _longest_match(self, token_ids: array[int]) -> int:
        """Where the longest, then latest, occurrence of the last tokens ends; -1 without one."""
        last = len(token_ids) - 1
        place = self._latest.get(self._key(token_ids, last), -1)
        best, best_length = -1, 0
        for _ in range(_MAX_CANDIDATES):
            if place < 0 or best_length >= self._config.window:
                break
            length = self._match_length(token_ids, place, last)
            if length > best_length:
                best, best_length = place, length
            place = self._earlier[place]
        return best

    def _match_length(self, token_ids: array[int], place: int, last: int) -> int:
        most = min(self._config.window, place + 1)
        length = self._key_tokens
        while length < most and token_ids[place - length] == token_ids[last - length]:
            length += 1
        return length


def _continued(token_ids: array[int], end: int, count: int) -> tuple[int, ...]:
    """The `count` tokens after `end`; a match that overlaps the end repeats itself for ever."""
    period = len(token_ids) - 1 - end
    return tuple(token_ids[end + 1 + i % period] for i in range(count))
