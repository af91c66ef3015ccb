"""Web addresses are refused: gradio would fetch them for a visitor."""

from __future__ import annotations

from typing import Any, final

import gradio as gr
from starlette.responses import PlainTextResponse

_WEB = ("http:", "https:")


@final
class NoAddresses:
    """Refuses to fetch a web address for a visitor, which gradio's `/file=` would do."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer 403, or pass a request on."""
        asked = scope.get("path", "").partition("/file=")[2].lstrip("/").lower()
        if asked.startswith(_WEB):
            await PlainTextResponse("No address is fetched.", 403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


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
