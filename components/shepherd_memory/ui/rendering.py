"""Templates to pages.

Every value is escaped by the templates' engine; a name that a template uses and
nobody gives is an error.  Half a character becomes a question mark.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from shepherd_auth.identity import Scope
from shepherd_memory.api.access import Caller, gate_of
from shepherd_memory.ui.forms import TOKEN, form_token

HERE = Path(__file__).parent


def _when(unix_ns: int) -> str:
    """A time as people read it, to the second, in UTC."""
    return _utc(unix_ns).strftime("%Y-%m-%d %H:%M:%S")


def _iso(unix_ns: int) -> str:
    return _utc(unix_ns).isoformat(timespec="seconds")


def _size(num_bytes: int) -> str:
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _utc(unix_ns: int) -> datetime:
    try:
        return datetime.fromtimestamp(unix_ns // 10**9, UTC)
    except (OverflowError, ValueError):
        return datetime.max.replace(tzinfo=UTC)


_TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {"when": _when, "iso": _iso, "size": _size}


def page(
    request: Request, template: str, *, caller: Caller | None, status: int = 200, **values: Any
) -> HTMLResponse:
    """A page for somebody, or with no caller for anybody."""
    is_open = gate_of(request).authenticator.is_open
    text = _TEMPLATES.get_template(f"{template}.jinja").render(
        base=request.scope.get("root_path", ""),
        view=template,
        signed_in=caller is not None and not is_open,
        tenant=caller.identity.tenant if caller is not None else "",
        may_write=caller is not None and Scope.WRITE in caller.identity.scopes,
        token_name=TOKEN,
        token=form_token(request),
        **values,
    )
    return HTMLResponse(text.encode("utf-8", "replace"), status)
