"""The files that say how a model's text becomes tokens, as text that can travel.

Knows where Hugging Face puts each fact, and nothing of what the facts mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
SPECIAL_TOKENS = "special_tokens_map.json"
GENERATION_CONFIG = "generation_config.json"

ASSET_FILES = (TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE, SPECIAL_TOKENS, GENERATION_CONFIG)
"""Every file that is taken along where it exists; only the first must."""

_READ_TEMPLATES = ("default", "tool_use")
"""Of several named templates, those that chat completions are rendered with."""


class TokenizerNotFoundError(FileNotFoundError):
    """A model directory, or what came over the network, has no `tokenizer.json`."""

    def __init__(self, place: str) -> None:
        self.place = place
        super().__init__(f"{place} has no {TOKENIZER}: name a directory in Hugging Face layout")


@dataclass(frozen=True, slots=True)
class TokenizerAssets:
    """The files that say how text becomes tokens, by name."""

    files: dict[str, str]

    @classmethod
    def from_directory(cls, path: Path | str) -> Self:
        """Take the files of a model directory.

        Raises:
            TokenizerNotFoundError: there is no `tokenizer.json` in it.
        """
        directory = Path(path)
        present = [name for name in ASSET_FILES if (directory / name).is_file()]
        if TOKENIZER not in present:
            raise TokenizerNotFoundError(str(directory))
        return cls({name: (directory / name).read_text(encoding="utf-8") for name in present})

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> Self:
        """What `to_json` made, possibly elsewhere; files of other names are left out.

        Raises:
            TokenizerNotFoundError: there is no `tokenizer.json` in it.
            TypeError: a file's content is not text.
        """
        files: dict[str, str] = {}
        for name in ASSET_FILES:
            content = fields.get(name)
            if content is None:
                continue
            if not isinstance(content, str):
                raise TypeError(f"{name} is a {type(content).__name__}: expected its text")
            files[name] = content
        if TOKENIZER not in files:
            raise TokenizerNotFoundError("the received tokenizer")
        return cls(files)

    def to_json(self) -> dict[str, str]:
        """The files by name; JSON knows how to carry that."""
        return dict(self.files)

    def chat_templates(self) -> tuple[str, ...]:
        """The Jinja texts that conversations are rendered with; none for a base model."""
        if CHAT_TEMPLATE in self.files:
            return (self.files[CHAT_TEMPLATE],)
        found = self._parse(TOKENIZER_CONFIG).get("chat_template")
        if isinstance(found, str):
            return (found,)
        if isinstance(found, list):
            return tuple(each["template"] for each in found if each["name"] in _READ_TEMPLATES)
        return ()

    def special_tokens(self) -> dict[str, str]:
        """`bos_token`, `eos_token` and their like by name, as chat templates see them."""
        named = self._parse(SPECIAL_TOKENS) | self._parse(TOKENIZER_CONFIG)
        tokens: dict[str, str] = {}
        for name, token in named.items():
            content = token.get("content") if isinstance(token, dict) else token
            if name.endswith("_token") and isinstance(content, str):
                tokens[name] = content
        return tokens

    def eos_token_ids(self) -> frozenset[int]:
        """What `generation_config.json` says an answer may end with."""
        ids = self._parse(GENERATION_CONFIG).get("eos_token_id")
        if isinstance(ids, int):
            return frozenset((ids,))
        return frozenset(ids or ())

    def _parse(self, name: str) -> dict[str, Any]:
        parsed = json.loads(self.files.get(name, "{}"))
        if not isinstance(parsed, dict):
            raise ValueError(f"{name} is not a JSON object")  # noqa: TRY004 - a broken file
        return parsed
