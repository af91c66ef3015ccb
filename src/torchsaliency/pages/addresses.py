"""What the page refuses before it does anything: addresses to fetch, and requests of other pages.

Gradio would fetch a web address in place of an upload, and by `/file=`. A page of the web may send
requests to this machine, by name (its Origin is another) or by a name of its own that it resolves
to this machine (the Host is another).
"""

from __future__ import annotations

from typing import Any, final
from urllib.parse import urlsplit

import gradio as gr
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

_WEB = ("http:", "https:")
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")


@final
class RequestGuard:
    """Refuses requests of other pages, and those that make gradio fetch an address."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 403, or pass a request on."""
        refused = _find_fault(scope) if scope["type"] == "http" else ""
        app = PlainTextResponse(refused, 403) if refused else self.app
        await app(scope, receive, send)


def _find_fault(scope: Any) -> str:
    """Return why a request is refused; "" if it is not."""
    headers = Headers(scope=scope)
    names = [urlsplit(f"//{headers.get('host', '')}").hostname]
    if "origin" in headers:
        names.append(urlsplit(headers["origin"]).hostname)
    if not {*names} <= {*_THIS_MACHINE}:
        return "Open the page by its address on this machine."
    asked = scope["path"].partition("/file=")[2].lstrip("/").lower()
    return "No address is fetched." if asked.startswith(_WEB) else ""


def refuse_addresses(part: Any) -> None:
    """Let a part of the page keep files alone, and fetch no web address in place of an upload."""
    keep = part.async_move_resource_to_block_cache

    async def refuse(path: Any) -> str | None:
        if str(path).strip().lower().startswith(_WEB):
            raise gr.Error(
                "An address was given in place of a file; save the file and choose it.",
                print_exception=False,
            )
        kept: str | None = await keep(path)
        return kept

    part.async_move_resource_to_block_cache = refuse
