"""Grammars of guided decoding, compiled and followed by llguidance.

Compiling may take a second for a hard grammar: call `compile` off the event loop.
It does not hold the GIL meanwhile, and llguidance bounds the work per grammar and
per token.  Compiled grammars are kept, so that a schema that comes again costs a
copy; a guide is that copy, at the start of its text.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, StructTag
from tokenizers import Tokenizer

from shepherd_worker.engine.embedded.sampling.steering import Guide, GuideError
from shepherd_worker.errors import InvalidRequestError
from shepherd_worker.request import GuidedDecoding

MAX_COMPILED: Final = 128
"""Compiled grammars that are kept; the least recently used is forgotten first."""

DEFAULT_WHITESPACE: Final = r"[ \t\r\n]{1,20}"
"""Between JSON tokens: room for indentation, and none to go on with blanks for ever."""


class GrammarCompiler:
    """Makes guides for one tokenizer; for any number of threads."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Iterable[int]) -> None:
        """The tokenizer is taken apart when the first grammar comes, which takes up to a second."""
        self._tokenizer = tokenizer
        self._vocab_size = max(vocab_size, tokenizer.get_vocab_size())
        self._eos_token_ids = sorted(eos_token_ids)
        self._limits = LLParserLimits(verbose_errors=False)
        self._lock = threading.Lock()
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[GuidedDecoding, LLMatcher] = OrderedDict()

    def compile(self, guided: GuidedDecoding) -> Guide:
        """A guide at the start of its text.

        Raises:
            InvalidRequestError: the grammar is wrong, or more than llguidance can do.
        """
        with self._lock:
            known = self._compiled.get(guided)
            if known is not None:
                self._compiled.move_to_end(guided)
                return _Follower(known.deep_copy())
            vocabulary = self._vocabulary = self._vocabulary or self._take_apart()
        field = f"guided_decoding.{guided.kind}"
        try:
            grammar = _GRAMMARS[guided.kind](guided)
        except (ValueError, TypeError, KeyError, AssertionError) as error:
            raise InvalidRequestError(field, guided.source, f"a grammar: {error!r}") from None
        matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise InvalidRequestError(field, guided.source, f"a grammar: {matcher.get_error()}")
        with self._lock:
            self._compiled[guided] = matcher
            if len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)
        return _Follower(matcher.deep_copy())

    def _take_apart(self) -> LLTokenizer:
        plain = Tokenizer.from_str(self._tokenizer.to_str())
        plain.no_padding()
        plain.no_truncation()
        return LLTokenizer(
            plain.to_str(), n_vocab=self._vocab_size, eos_token=self._eos_token_ids or None
        )


class _Follower:
    """A `Guide` that llguidance moves."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self) -> bytes:
        """See `Guide.allowed`."""
        mask = self._matcher.compute_bitmask()
        self._check()
        return mask

    def accept(self, token_id: int) -> bool:
        """See `Guide.accept`."""
        self._matcher.consume_token(token_id)
        self._check()
        return self._matcher.is_stopped()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GuideError(f"the grammar cannot be followed: {self._matcher.get_error()}")


def _json(guided: GuidedDecoding) -> str:
    pattern = DEFAULT_WHITESPACE if guided.whitespace is None else guided.whitespace
    options: Any = {"whitespace_pattern": pattern} if pattern else {"whitespace_flexible": False}
    return LLMatcher.grammar_from_json_schema(guided.source, defaults=options)


def _choice(guided: GuidedDecoding) -> str:
    choices = [json.dumps(choice) for choice in json.loads(guided.source)]
    return LLMatcher.grammar_from_lark("start: " + " | ".join(choices))


def _structural_tag(guided: GuidedDecoding) -> str:
    """Free text in which each of several openings begins what a JSON Schema describes."""
    described = json.loads(guided.source)
    tags = [
        StructTag(
            trigger=next(t for t in described["triggers"] if tag["begin"].startswith(t)),
            begin=tag["begin"],
            grammar=tag["schema"],
            end=tag["end"],
        )
        for tag in described["structures"]
    ]
    return StructTag.to_grammar(tags, assume_special=False)


_GRAMMARS: Final[dict[str, Callable[[GuidedDecoding], str]]] = {
    "json": _json,
    "regex": lambda guided: LLMatcher.grammar_from_regex(guided.source),
    "choice": _choice,
    "grammar": lambda guided: LLMatcher.grammar_from_lark(guided.source),
    "structural_tag": _structural_tag,
}
