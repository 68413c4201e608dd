"""A chat model that answers what it is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable


class ScriptedModel:
    """Answers in order, the last for ever; does something `before` each answer, where told to."""

    def __init__(
        self, *answers: str | BaseException, before: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        self.answers = list(answers)
        self.before = before
        self.asked: list[str] = []

    async def complete(self, instructions: str, text: str) -> str:
        assert "JSON" in instructions
        self.asked.append(text)
        if self.before is not None:
            await self.before()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer
