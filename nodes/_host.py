"""What nodes share with the host: its versions, the types they exchange, progress, messages."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

from comfy.utils import ProgressBar
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..bigain_core.listener import Listener

Alpha = io.Custom("BIGAIN_ALPHA")
Prompts = io.Custom("BIGAIN_PROMPTS")
Result = io.Custom("BIGAIN_RESULT")

_SCHEMA_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def schema(menu: str, **fields) -> io.Schema:
    """A schema of this pack in a part of its menu, without what an older host does not know."""
    known = {name: value for name, value in fields.items() if name in _SCHEMA_FIELDS}
    return io.Schema(category=f"BiGain/{menu}", **known)


class CallBar(Listener):
    """The bar under a node; it is full when so many evaluations of a network are done."""

    def __init__(self, calls: int):
        self.bar = ProgressBar(calls)

    def on_calls(self, calls: int) -> None:
        self.bar.update(calls)


def sender(event: str) -> Callable[[dict], None]:
    """Messages about the node that is being executed now, also later, to the browser that waits."""
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)

    def send(content: dict) -> None:
        if context and server:
            server.send_sync(event, {"node": context.node_id, **content}, server.client_id)

    return send


def send(event: str, content: dict) -> None:
    """A message about the node that is being executed, to the browser that queued it."""
    sender(event)(content)


def announce(text: str) -> None:
    """Log a line and show it under the node that is being executed, if a server is running."""
    logging.info(text)
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context and server:
        server.send_progress_text(text, context.node_id)
