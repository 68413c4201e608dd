"""Grammars, compiled once and followed token by token."""

from __future__ import annotations

import json
import threading
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from shepherd_worker.engine.embedded.sampling import grammar
from shepherd_worker.engine.embedded.sampling.grammar import MAX_COMPILED, GrammarCompiler
from shepherd_worker.engine.embedded.sampling.steering import Guide, GuideError
from shepherd_worker.request import GuidedDecoding
from tiny_models import IM_END, tiny_model

TOKENIZER: Tokenizer = Tokenizer.from_file(str(tiny_model("qwen2") / "tokenizer.json"))
EOS: int = TOKENIZER.token_to_id(IM_END)
VOCAB_SIZE = 400
"""Some more than the tokenizer has, as models do."""
COMPILER = GrammarCompiler(TOKENIZER, VOCAB_SIZE, {EOS})


def allowed(guide: Guide) -> set[int]:
    bits = guide.allowed()
    return {token for token in range(8 * len(bits)) if bits[token // 8] >> token % 8 & 1}


def regex(source: str) -> Guide:
    return COMPILER.compile(GuidedDecoding("regex", source))


def tokens(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text, add_special_tokens=False).ids
    return ids


def test_the_allowed_tokens_are_those_that_begin_a_text_of_the_grammar() -> None:
    pieces = {TOKENIZER.decode([token]) for token in allowed(regex("(sheep|shepherd)"))}

    assert "s" in pieces
    assert all("sheep".startswith(piece) or "shepherd".startswith(piece) for piece in pieces)


def test_the_end_is_allowed_where_the_text_may_end() -> None:
    guide = regex("a{1,2}")
    (a,) = tokens("a")

    assert EOS not in allowed(guide)
    assert not guide.accept(a)
    assert EOS in allowed(guide)
    assert guide.accept(EOS)


def test_a_text_that_cannot_go_on_is_complete_at_once() -> None:
    guide = regex("ab")

    assert [guide.accept(token) for token in [*tokens("a"), *tokens("b")]] == [False, True]


def test_a_token_that_is_not_allowed_is_an_error_that_tells_no_text() -> None:
    guide = regex("(sheep)+")
    (z,) = tokens("z")
    with pytest.raises(GuideError) as told:
        guide.accept(z)

    assert "sheep" not in str(told.value)


def test_no_token_beyond_the_tokenizer_is_ever_allowed() -> None:
    anything = COMPILER.compile(GuidedDecoding("regex", "(.|\n)*"))

    assert max(allowed(anything)) < TOKENIZER.get_vocab_size()


def test_guides_of_one_grammar_do_not_disturb_each_other() -> None:
    first, second = regex("ab|cd"), regex("ab|cd")
    first.accept(tokens("a")[0])

    assert allowed(first) == set(tokens("b"))
    assert set(tokens("a") + tokens("c")) <= allowed(second)


def test_a_structural_tag_leaves_the_text_before_it_free() -> None:
    described = {
        "triggers": ["<call"],
        "structures": [
            {"begin": "<call=f>", "schema": {"enum": [7]}, "end": "</call>"},
        ],
    }
    guide = COMPILER.compile(GuidedDecoding("structural_tag", json.dumps(described)))
    for token in tokens("well: <call=f>"):
        guide.accept(token)

    assert allowed(guide) <= set(tokens("7") + tokens(" 7") + tokens("7<"))


def test_compiled_grammars_are_kept_up_to_a_number() -> None:
    compiler = GrammarCompiler(TOKENIZER, VOCAB_SIZE, {EOS})
    for number in range(MAX_COMPILED + 5):
        compiler.compile(GuidedDecoding("regex", f"a{{{number}}}b"))
    kept = [guided.source for guided in compiler._compiled]

    assert len(kept) == MAX_COMPILED
    assert kept[0] == "a{5}b"


def test_threads_compile_side_by_side() -> None:
    compiler = GrammarCompiler(TOKENIZER, VOCAB_SIZE, {EOS})
    made: list[Guide] = []

    def compile_all() -> None:
        made.extend(compiler.compile(GuidedDecoding("regex", f"x{i}")) for i in range(20))

    threads = [threading.Thread(target=compile_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(made) == 80
    assert len(compiler._compiled) == 20
    assert set(grammar._GRAMMARS) == {"json", "regex", "choice", "grammar", "structural_tag"}


LEAVES = st.sampled_from([{"type": "boolean"}, {"enum": ["a", 1, None]}, {"const": {"k": []}}])
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda item: {"type": "array", "items": item, "maxItems": 2}, inner),
        st.builds(
            lambda fields: {
                "type": "object",
                "properties": fields,
                "required": sorted(fields),
                "additionalProperties": False,
            },
            st.dictionaries(st.sampled_from(["x", "y z", "ü"]), inner, max_size=2),
        ),
    ),
    max_leaves=4,
)


@given(schema=SCHEMAS, choices=st.lists(st.integers(0, 10**6), min_size=120, max_size=120))
@settings(max_examples=60, deadline=None)
def test_whatever_is_chosen_of_the_allowed_ends_as_a_valid_document(
    schema: dict[str, Any], choices: list[int]
) -> None:
    guide = COMPILER.compile(GuidedDecoding("json", json.dumps(schema), whitespace=""))
    said: list[int] = []
    complete = False
    while not complete:
        possible = sorted(allowed(guide))
        said.append(possible[choices[len(said)] % len(possible)])
        complete = guide.accept(said[-1])

    jsonschema.validate(json.loads(TOKENIZER.decode(said)), schema)
