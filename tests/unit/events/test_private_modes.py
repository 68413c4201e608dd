"""Whose files with secrets are private enough: ours alone, or root's as Kubernetes mounts Secrets."""

from __future__ import annotations

import pytest

from shepherd_events.key_files import others_may_use

ROOT, ME, SOMEBODY = 0, 1000, 1001


@pytest.mark.parametrize(
    ("mode", "owner", "user", "others_may"),
    [
        (0o600, ME, ME, False),
        (0o400, ME, ME, False),
        (0o640, ME, ME, True),
        (0o440, SOMEBODY, ME, True),
        (0o440, ROOT, ME, False),
        (0o640, ROOT, ME, False),
        (0o660, ROOT, ME, True),
        (0o444, ROOT, ME, True),
        (0o440, ROOT, ROOT, True),
        (0o600, ROOT, ROOT, False),
    ],
)
def test_a_secret_is_private_to_its_owner_or_to_the_group_that_root_gave_it(
    mode: int, owner: int, user: int, others_may: bool
) -> None:
    assert others_may_use(mode, owner, user) == others_may
