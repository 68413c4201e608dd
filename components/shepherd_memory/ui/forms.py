"""What a browser submits, and the proof that one of our own pages held the form.

A page of another site can make a browser send a form here.  Three things keep it
from having an effect: the cookie is not sent along (SameSite=Strict), the
browser says where the form stood, and the form holds a token that only a page of
the same sign-in was given.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

from fastapi import Depends
from starlette.requests import Request

from shepherd_auth.errors import PermissionDeniedError
from shepherd_memory.errors import InvalidParameterError
from shepherd_memory.ui.sign_in import SignIns, cookie_of

MAX_FIELDS = 16
TOKEN = "form_token"  # noqa: S105  a field's name


async def _own(request: Request) -> Mapping[str, str]:
    """The fields of a form that stood on this site.

    Raises:
        InvalidParameterError: it cannot be read.
        PermissionDeniedError: it stood elsewhere.
    """
    if not _is_same_origin(request):
        raise PermissionDeniedError("origin", "the form was not sent from a page of this service")
    body = await request.body()
    try:
        read = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        expected = f"a form of at most {MAX_FIELDS} fields"
        raise InvalidParameterError("body", "", expected, status=400) from error
    return {name: values[0] for name, values in read.items()}


async def _proven(
    request: Request, fields: Annotated[Mapping[str, str], Depends(_own)]
) -> Mapping[str, str]:
    """As `_own`, with the token of this very sign-in.

    Raises:
        PermissionDeniedError: it is missing or another's.
    """
    expected = form_token(request)
    if not hmac.compare_digest(fields.get(TOKEN, "").encode(), expected.encode()):
        raise PermissionDeniedError(
            TOKEN, "the form was made for another sign-in: load the page again"
        )
    return fields


Form = Annotated[Mapping[str, str], Depends(_own)]
"""For signing in, when there is nothing yet that a token could belong to."""
ProvenForm = Annotated[Mapping[str, str], Depends(_proven)]
"""For everything that changes something."""


def form_token(request: Request) -> str:
    """What the forms of this browser show."""
    sign_ins: SignIns = request.app.state.sign_ins
    return sign_ins.form_token(cookie_of(request.headers))


def _is_same_origin(request: Request) -> bool:
    if (site := request.headers.get("sec-fetch-site")) is not None:
        return site == "same-origin"
    origin = request.headers.get("origin", "")
    return bool(origin) and urlsplit(origin).netloc == request.headers.get("host")
