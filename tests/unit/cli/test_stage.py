"""What the demo shows, on a terminal and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from shepherd_cli import story
from shepherd_cli.stage import CacheShown, LiveStage, PlainStage, Stage, stage_for

PREFILL = CacheShown("prefill", stored=5, removed=2, capacity=6)


def console(*, terminal: bool, height: int = 16) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    made = Console(file=out, force_terminal=terminal, width=100, height=height, color_system=None)
    return made, out


def play(stage: Stage) -> None:
    with stage:
        stage.act("Ada is back, and asks")
        stage.asks("ada", "What is the name of my cat?")
        stage.answers("Your cat", whole=False)
        stage.answers("Your cat is called Tibbles.", whole=True)
        stage.caches([PREFILL])
        stage.remembers("NOTICE: gone.", "magenta")


def picture(stage: LiveStage, height: int = 16) -> str:
    shown, out = console(terminal=True, height=height)
    shown.print(stage.picture(), height=height)
    return out.getvalue()


def test_a_pipe_gets_whole_lines_and_a_terminal_a_picture() -> None:
    assert isinstance(stage_for(console(terminal=False)[0]), PlainStage)
    assert isinstance(stage_for(console(terminal=True)[0]), LiveStage)


def test_lines_tell_everything_in_its_order_and_answers_once() -> None:
    shown, out = console(terminal=False)
    play(PlainStage(shown))

    assert out.getvalue().splitlines() == [
        "",
        "Ada is back, and asks",
        "   ada  What is the name of my cat?",
        "        Your cat is called Tibbles.",
        "        prefill ███░░░ +5 -2",
        "        NOTICE: gone.",
    ]


def test_a_picture_has_the_conversation_left_and_cache_and_memory_right() -> None:
    stage = LiveStage(console(terminal=True)[0])
    play(stage)
    lines = picture(stage).splitlines()
    left = "\n".join(line[:50] for line in lines)
    right = "\n".join(line[50:] for line in lines)

    assert "Ada is back, and asks" in left
    assert left.count("Your cat is called Tibbles.") == 1
    assert "███░░░ +5 -2" in right
    assert "NOTICE: gone." in right


def test_a_cache_of_many_blocks_is_a_bar_that_fits() -> None:
    stage = LiveStage(console(terminal=True)[0])
    stage.caches([CacheShown("decode", stored=3000, removed=1000, capacity=4000)])
    (line,) = (line for line in picture(stage).splitlines() if "decode" in line)

    assert "+3000 -1000" in line
    assert line.count("█") == line.count("░") > 5


def test_an_answer_that_still_comes_is_shown_so_far() -> None:
    stage = LiveStage(console(terminal=True)[0])
    stage.answers("Your cat", whole=False)
    stage.answers("Your cat is", whole=False)

    assert picture(stage).count("Your cat") == 1
    assert "Your cat is" in picture(stage)


def test_what_there_is_no_room_for_scrolls_away_at_the_top() -> None:
    stage = LiveStage(console(terminal=True)[0])
    for number in range(50):
        stage.asks("ada", f"question {number}")
    shown = picture(stage)

    assert "question 49" in shown
    assert "question 30" not in shown


@pytest.mark.parametrize("guest", story.GUESTS)
def test_guests_ask_questions_of_their_own(guest: str) -> None:
    asked = story.questions_of(guest)
    others = [
        question for each in story.GUESTS if each != guest for question in story.questions_of(each)
    ]

    assert len(set(asked)) == story.TURNS_EACH
    assert set(asked).isdisjoint(others)


def test_the_answer_is_right_where_it_says_what_was_told() -> None:
    assert any(story.ANSWER in fact for fact in story.FACTS)
    assert story.is_right("your cat is called tibbles!")
    assert not story.is_right("I don't know that.")
