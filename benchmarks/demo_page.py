"""The demo's summary as one page that needs no other file."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from markdown_it import MarkdownIt

STYLES = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
img { max-width: 100%; } table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .2rem .8rem; border-bottom: 1px solid #ccc; }
code { background: #eee; padding: 0 .2rem; }
"""


def page(markdown: str, folder: Path) -> str:
    """HTML of a text; the images that it shows, files in `folder`, are inside."""
    body = MarkdownIt("commonmark").enable("table").render(markdown)

    def inside(found: re.Match) -> str:
        encoded = base64.b64encode((folder / found[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{encoded}"'

    body = re.sub(r'src="([^"]+\.png)"', inside, body)
    head = f'<meta charset="utf-8"><title>BiGain demo</title><style>{STYLES}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}</body></html>\n'
