"""The document that is served is what is enforced: requests are generated from it, answers held to it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from memory_doors import Tenants, house

WAITING = "/v1/notices/wait"
UNENDING = "/v1/notices/stream"
"""Its answer ends only with the service; its parameters are those of the wait."""


class Served:
    """The doors in a thread of their own."""

    def __init__(self, directory: Path) -> None:
        self.tenants = Tenants(directory)
        self.key = self.tenants.key("acme")
        self.url = self.admin_url = ""
        self._directory = directory / "data"
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with house(self._directory, **self.tenants.options) as door:
            door.talk("s", tenant=self.tenants.archive_of("acme"))
            door.evict(tenant=self.tenants.archive_of("acme"))
            self.url, self.admin_url = door.url, str(door.admin._base_url)
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("openapi")) as opened:
        yield opened


@pytest.fixture
def public(served: Served) -> Any:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json").exclude(path=UNENDING)


@pytest.fixture
def admin(served: Served) -> Any:
    return schemathesis.openapi.from_url(f"{served.admin_url}/openapi.json")


FEW = settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


def exercise(schema: Any, key: str) -> int:
    """Every operation with requests that fit the document and with such that do not."""
    headers = {"Authorization": f"Bearer {key}"}
    operations = [found.ok() for found in schema.get_all_operations()]
    for operation in operations:
        for mode in GenerationMode:

            @FEW
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                if case.path == WAITING:
                    waits = str((case.query or {}).get("timeout", 0)).isdecimal()
                    case.query = (case.query or {}) | ({"timeout": 0} if waits else {})
                case.call_and_validate(headers=headers, timeout=20)

            try:
                ask()
            except Unsatisfiable:
                assert mode is GenerationMode.NEGATIVE  # nothing can be wrong with it
    return len(operations)


def test_the_tenants_interface_keeps_to_its_document(public: Any, served: Served) -> None:
    assert exercise(public, served.key) >= 25


def test_the_operators_interface_keeps_to_its_document(admin: Any, served: Served) -> None:
    assert exercise(admin, served.tenants.operator) >= 11


def test_every_refusal_of_the_document_is_a_problem(public: Any) -> None:
    document = public.raw_schema
    schema = document["components"]["schemas"]["Problem"]
    jsonschema.validate({"title": "t", "status": 422, "detail": "d"}, schema)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if "open" in operation["tags"]:
                continue
            assert operation["security"], path
            refusals = [each for each in operation["responses"] if each >= "400"]
            assert {"401", "403", "422", "429"} <= set(refusals)
            for status in refusals:
                assert list(operation["responses"][status]["content"]) == [
                    "application/problem+json"
                ]
