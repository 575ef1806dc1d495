"""Write the report as one web page that needs no network: text, figures and pictures inside one HTML file."""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from cwsam_cli import __version__
from cwsam_cli.files import write_text

PAGE = "report.html"
"""Name of the page in the folder of a report."""
TEMPLATE = Path(__file__).with_name("template")
"""Folder of the page's text, style and script."""


def write_page(
    path: Path,
    data: dict[str, Any],
    script: Path,
    *,
    title: str,
    origin: str,
    summary: Sequence[str],
    warnings: Sequence[str],
) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        data: plain values that the script draws. All pages have `classes`, `facts` and `limits`.
        script: JavaScript of the page's own parts, which uses the functions of `shared.js`.
        title: heading.
        origin: one line on what was measured.
        summary: sentences of the first paragraph.
        warnings: sentences that are set apart.
    """
    told = " ".join(summary).replace(" ± ", "\u00a0±\u00a0")
    paragraphs = [f"<p>{html.escape(told)}</p>"]
    paragraphs += [f'<p class="warning">{html.escape(text)}</p>' for text in warnings]
    values = {
        "title": html.escape(title),
        "origin": html.escape(origin),
        "summary": "\n".join(paragraphs),
        "footer": html.escape(f"Written by cwsam {__version__}"),
        # Without "<", no text can end the script element or begin a comment in it.
        "data": json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        "style": (TEMPLATE / "page.css").read_text(encoding="utf-8"),
        "script": "\n".join(part.read_text(encoding="utf-8") for part in (TEMPLATE / "shared.js", script)),
    }
    page = Template((TEMPLATE / "page.html").read_text(encoding="utf-8"))
    write_text(path, page.substitute(values))
