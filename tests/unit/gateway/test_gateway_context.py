"""What is sent upstream: stable prefixes, nothing lost, NOTICEs where they first became due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shepherd_gateway.anchors import MAX_BRANCHES, Anchors
from shepherd_gateway.archived import KeptTurn, SessionNotice, SessionView, found_in
from shepherd_gateway.context import MAX_TOLD, OnEviction, Policy, context_of, numbered
from shepherd_gateway.conversation import Message, keys_of, turns_of

SYSTEM = {"role": "system", "content": "Be brief."}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def calling(name: str, arguments: str, call_id: str = "c1") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def result(text: str, call_id: str = "c1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def kept(
    ordinal: int, *said: tuple[str, str], archived: bool = True, started: int = 0, name: str = ""
) -> KeptTurn:
    return KeptTurn(name or f"id{ordinal}", ordinal, archived, said, started or ordinal * 100)


def notice(number: int, *ordinals: int, created: int) -> SessionNotice:
    ids = frozenset(f"id{each}" for each in ordinals)
    return SessionNotice(f"n{number}", f"NOTICE {number}", ids, created)


def told(number: int) -> dict[str, Any]:
    return {
        "role": "tool",
        "name": "context_eviction",
        "tool_call_id": "context_eviction",
        "content": f"NOTICE {number}",
    }


TALK = [
    SYSTEM,
    *(user("one?"), assistant("1")),
    *(user("two?"), assistant("2")),
    *(user("three?"), assistant("3")),
    user("four?"),
]
ROWS = tuple(
    kept(number, ("user", f"{word}?"), ("assistant", str(number)), archived=number < 3)
    for number, word in enumerate(("one", "two", "three"), start=1)
)
VIEW = SessionView(ROWS, (notice(1, 1, 2, created=350),))


def sent(
    messages: Sequence[Message],
    view: SessionView,
    policy: Policy | None = None,
    anchors: Mapping[str, tuple[str, ...]] | None = None,
) -> list[Message]:
    return context_of(messages, view, policy or Policy(), anchors or {}).messages


def test_archived_turns_are_dropped_and_the_notice_stands_before_the_newest_question() -> None:
    context = context_of(TALK, VIEW, Policy(), {})

    assert context.messages == [
        *(SYSTEM, user("three?"), assistant("3")),
        *(told(1), user("four?")),
    ]
    assert context.dropped == (0, 1)
    assert context.anchors == {"n1": keys_of(turns_of(TALK))[3]}


def test_a_prompt_that_leaves_turns_out_says_which_turn_it_is() -> None:
    rows = tuple(replace(row, ordinal=row.ordinal + 10) for row in ROWS)
    view = replace(VIEW, turns=rows)

    assert context_of(TALK, SessionView(), Policy(), {}).newest_ordinal == 0
    assert context_of(TALK, view, Policy(), {}).newest_ordinal == 14
    assert context_of([*TALK[:5], user("four?")], view, Policy(), {}).newest_ordinal == 13


def test_the_number_stands_before_what_the_client_annotates() -> None:
    body = {"model": "m", "nvext": {"ignore_eos": True, "annotations": ["session_turn:1", "x"]}}

    assert numbered(body, 4) == {
        "model": "m",
        "nvext": {"ignore_eos": True, "annotations": ["session_turn:4", "session_turn:1", "x"]},
    }
    assert numbered({}, 4) == {"nvext": {"annotations": ["session_turn:4"]}}
    for left_alone in (body, {"nvext": 3}, {"nvext": {"annotations": "x"}}):
        assert numbered(left_alone, 0) == left_alone
    assert numbered({"nvext": 3}, 4) == {"nvext": 3}
    assert numbered({"nvext": {"annotations": "x"}}, 4) == {"nvext": {"annotations": "x"}}


def test_a_notice_stays_where_it_first_stood_when_the_conversation_goes_on() -> None:
    first = context_of(TALK, VIEW, Policy(), {})
    anchors = {name: (key,) for name, key in first.anchors.items()}
    later = sent([*TALK, assistant("4"), user("five?")], VIEW, anchors=anchors)

    assert later == [*first.messages, assistant("4"), user("five?")]


def test_after_a_restart_time_tells_where_a_notice_stood() -> None:
    rows = (*ROWS, kept(4, ("user", "four?"), ("assistant", "4"), archived=False, started=400))
    later = sent([*TALK, assistant("4"), user("five?")], replace(VIEW, turns=rows))

    assert later == [*sent(TALK, VIEW), assistant("4"), user("five?")]


def test_a_notice_outlives_the_turn_that_it_stood_in() -> None:
    rows = (
        *(ROWS[0], ROWS[1], replace(ROWS[2], is_archived=True)),
        kept(4, ("user", "four?"), ("assistant", "4"), started=400),
    )
    notices = (VIEW.notices[0], notice(2, 3, 4, created=450))
    later = sent([*TALK, assistant("4"), user("five?")], SessionView(rows, notices))

    assert later == [SYSTEM, told(1), told(2), user("five?")]


def test_no_more_notices_without_a_turn_stay_than_is_told() -> None:
    num = MAX_TOLD + 3
    rows = tuple(
        kept(each, ("user", f"q{each}"), ("assistant", f"a{each}")) for each in range(1, num + 1)
    )
    notices = tuple(notice(each, each, created=each * 100 + 50) for each in range(1, num + 1))
    talk = [m for each in range(1, num + 1) for m in (user(f"q{each}"), assistant(f"a{each}"))]
    messages = sent([*talk, user("now?")], SessionView(rows, notices))

    assert [m["content"] for m in messages[-3:]] == [f"NOTICE {num - 1}", f"NOTICE {num}", "now?"]
    assert len(messages) == MAX_TOLD + 1


def test_an_edited_turn_is_not_the_archived_one_and_stays() -> None:
    edited = [SYSTEM, user("one?"), assistant("another answer"), *TALK[3:]]

    assert sent(edited, VIEW)[:3] == edited[:3]


def test_a_turn_with_an_image_is_never_dropped() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,x"}}
    seen = {"role": "user", "content": [{"type": "text", "text": "one?"}, image]}

    assert sent([SYSTEM, seen, *TALK[2:]], VIEW)[1] == seen


def test_white_space_and_parts_of_text_make_no_other_turn() -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": " one?\n"}]}

    assert sent([SYSTEM, parts, assistant("1 "), *TALK[3:]], VIEW) == sent(TALK, VIEW)


def test_a_call_is_dropped_with_its_result_where_the_archive_holds_both() -> None:
    talk = [user("sum?"), calling("add", '{"a": 1}'), result("2"), assistant("It is 2."), user("x")]
    row = kept(
        1,
        ("user", "sum?"),
        ("assistant", '<tool_call>\n{"name": "add", "arguments": {"a":1}}\n</tool_call>'),
        ("tool", "2"),
        ("assistant", "It is 2."),
    )
    view = SessionView((row,), (notice(1, 1, created=150),))

    assert sent(talk, view) == [told(1), user("x")]
    other = [talk[0], talk[1], result("3"), *talk[3:]]
    assert sent(other, view) == [*other[:-1], told(1), user("x")]


def test_an_answer_that_was_streamed_around_a_recall_is_that_of_the_archive() -> None:
    talk = [user("name?"), assistant("Let me look. It is Ada."), user("x")]
    row = kept(
        1,
        ("user", "name?"),
        ("assistant", 'Let me look. <tool_call>{"name": "search_memory"}</tool_call>'),
        ("assistant", "It is Ada."),
    )

    assert sent(talk, SessionView((row,), (notice(1, 1, created=150),))) == [told(1), user("x")]


def test_the_same_words_twice_are_two_turns() -> None:
    talk = [user("go on"), assistant("ok"), user("go on"), assistant("ok"), user("x")]
    rows = (
        kept(1, ("user", "go on"), ("assistant", "ok"), archived=False),
        kept(2, ("user", "go on"), ("assistant", "ok")),
    )
    found = found_in(rows, turns_of(talk))

    assert [row.archive_id if row else None for row in found] == ["id1", "id2", None]


def test_a_client_that_sends_its_last_message_alone_is_told_of_what_is_archived() -> None:
    assert sent([user("four?")], VIEW) == [told(1), user("four?")]


def test_recompute_leaves_the_context_alone() -> None:
    assert sent(TALK, VIEW, Policy(OnEviction.RECOMPUTE)) == TALK


def test_adaptive_waits_until_a_recomputation_would_cost_too_much() -> None:
    view = SessionView(ROWS, (notice(1, 1, created=250), notice(2, 2, created=350)))
    cost = ROWS[0].num_tokens

    assert sent(TALK, view, Policy(OnEviction.ADAPTIVE, 2 * cost)) == TALK
    assert sent(TALK, view, Policy(OnEviction.ADAPTIVE, cost)) == [
        *(SYSTEM, user("three?"), assistant("3")),
        *(told(1), told(2), user("four?")),
    ]


def test_a_notice_may_speak_in_the_role_that_a_template_takes() -> None:
    messages = sent(TALK, VIEW, Policy(notice_role="user"))

    assert messages[-2] == {"role": "user", "content": "NOTICE 1"}


def test_two_branches_at_once_are_both_told_and_remembered() -> None:
    anchors = Anchors()
    branches = [[*TALK[:-1], user("four?")], [*TALK[:-1], user("another?")]]
    before = [context_of(each, VIEW, Policy(), anchors.of("t", "s")) for each in branches]
    for each in before:
        anchors.remember("t", "s", each.anchors)
    for branch, context in zip(branches, before, strict=True):
        more = [assistant("yes"), user("and?")]
        later = sent([*branch, *more], VIEW, anchors=dict(anchors.of("t", "s")))

        assert later == [*context.messages, *more]


def test_what_is_remembered_has_bounds() -> None:
    anchors = Anchors(max_sessions=2)
    for number in range(20):
        anchors.remember("t", "s", {"n": f"key{number}"})
    anchors.remember("t", "other", {"n": "key"})
    anchors.remember("t", "third", {"n": "key"})

    assert len(anchors) == 2
    assert anchors.of("t", "s") == {}
    for number in range(20):
        anchors.remember("t", "other", {"n": f"key{number}"})
    assert len(anchors.of("t", "other")["n"]) == MAX_BRANCHES


def test_messages_without_a_user_are_sent_as_they_are() -> None:
    assert sent([SYSTEM], VIEW) == [SYSTEM]
    assert sent([], VIEW) == []


class Conversation(RuleBasedStateMachine):
    """A client that appends, a memory that archives, a gateway that may restart."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0
        self.talk: list[Message] = [SYSTEM]
        self.rows: list[KeptTurn] = []
        self.notices: list[SessionNotice] = []
        self.anchors = Anchors()
        self.before: list[Message] = []
        self.since = 0
        """How many notices there were when `before` was sent."""

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def view(self) -> SessionView:
        return SessionView(tuple(self.rows), tuple(self.notices))

    @rule(
        question=st.sampled_from(["go on", "why?", "what is it?"]),
        with_tool=st.booleans(),
    )
    def ask(self, question: str, with_tool: bool) -> None:
        self.talk.append(user(question))
        context = context_of(self.talk, self.view(), Policy(), self.anchors.of("t", "s"))
        self.anchors.remember("t", "s", context.anchors)
        if self.since == len(self.notices):
            assert context.messages[: len(self.before)] == self.before
        self.check(context.messages)
        self.before, self.since = list(context.messages), len(self.notices)
        ordinal = len(self.rows) + 1
        answer = f"answer {ordinal}"
        calls = [calling("f", f'{{"n": {ordinal}}}'), result(f"r{ordinal}")] if with_tool else []
        said = [("user", question)]
        if with_tool:
            call = f'<tool_call>{{"name": "f", "arguments": {{"n": {ordinal}}}}}</tool_call>'
            said += [("assistant", call), ("tool", f"r{ordinal}")]
        self.talk += [*calls, assistant(answer)]
        self.rows.append(
            kept(ordinal, *said, ("assistant", answer), archived=False, started=self.tick())
        )

    @precondition(lambda self: len(self.rows) > 1)
    @rule(data=st.data())
    def archive(self, data: st.DataObject) -> None:
        live = [row.ordinal for row in self.rows[:-1] if not row.is_archived]
        if not live:
            return
        gone = data.draw(st.lists(st.sampled_from(live), min_size=1, unique=True))
        self.rows = [
            replace(row, is_archived=row.is_archived or row.ordinal in gone) for row in self.rows
        ]
        self.notices.append(notice(len(self.notices), *gone, created=self.tick()))

    @rule()
    def restart(self) -> None:
        self.anchors = Anchors()

    def check(self, messages: Sequence[Message]) -> None:
        texts = [each["content"] for each in messages if each.get("name") == "context_eviction"]
        assert sorted(texts) == sorted(each.text for each in self.notices)
        turns = turns_of(self.talk)
        left = [m for m in messages if m.get("name") != "context_eviction"]
        expected: list[Message] = [SYSTEM]
        for place, turn in enumerate(turns):
            if place >= len(self.rows) or not self.rows[place].is_archived:
                expected += turn.messages
        assert left == expected

    @invariant()
    def tool_calls_have_their_results(self) -> None:
        for place, message in enumerate(self.before):
            if message.get("tool_calls"):
                assert self.before[place + 1]["role"] == "tool"


Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestConversation = Conversation.TestCase
