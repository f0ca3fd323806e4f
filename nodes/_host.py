"""Differences between host versions, and the types that the pack's nodes exchange."""

from __future__ import annotations

import dataclasses
import logging

from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from server import PromptServer

Alpha = io.Custom("BIGAIN_ALPHA")
Prompts = io.Custom("BIGAIN_PROMPTS")
Result = io.Custom("BIGAIN_RESULT")

_SCHEMA_FIELDS = {field.name for field in dataclasses.fields(io.Schema)}


def schema(**fields) -> io.Schema:
    """A schema of this pack without the fields that an older host does not know."""
    known = {name: value for name, value in fields.items() if name in _SCHEMA_FIELDS}
    return io.Schema(category="BiGain", **known)


class Messenger:
    """Sends messages about the node that is being executed to the browser that queued it."""

    def __init__(self, event: str):
        self.event, self.context = event, get_executing_context()
        self.server = getattr(PromptServer, "instance", None)

    def send(self, content: dict) -> None:
        if self.context and self.server:
            content = {"node": self.context.node_id, **content}
            self.server.send_sync(self.event, content, self.server.client_id)


def announce(text: str) -> None:
    """Log a line and show it under the node that is being executed, if a server is running."""
    logging.info(text)
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context and server:
        server.send_progress_text(text, context.node_id)
