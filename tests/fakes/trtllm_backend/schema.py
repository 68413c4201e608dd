"""Classes made from the facts: dataclasses and pydantic models with the real names."""

from __future__ import annotations

import copy
from dataclasses import field, make_dataclass
from typing import Any

import pydantic

from trtllm_backend.variants import class_fields


def dataclass_of(name: str, module: str, bases: tuple[type, ...] = ()) -> Any:
    """A keyword-only dataclass of the facts' class `name`."""
    fields = [
        (each, Any) if default is ... else (each, Any, field(default_factory=_fresh(default)))
        for each, default in class_fields(name).items()
    ]
    made = make_dataclass(name, fields, bases=bases, kw_only=True)
    made.__module__ = module
    return made


def model_of(name: str, module: str, key: str = "fields") -> Any:
    """A pydantic model of the facts' class `name` that refuses unknown names."""
    fields: dict[str, Any] = {
        each: (Any, default) for each, default in class_fields(name, key).items()
    }
    private = {each: fields.pop(each) for each in tuple(fields) if each.startswith("_")}
    del private  # pydantic has no fields with an underscore
    settings = pydantic.ConfigDict(extra="forbid", protected_namespaces=())
    return pydantic.create_model(name, __config__=settings, __module__=module, **fields)


def _fresh(default: Any) -> Any:
    return lambda: copy.copy(default)
