"""The page on which one tries the model: one file, that asks nobody but its server."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

PARTS = Path(__file__).parent / "static"


@dataclass(frozen=True, slots=True)
class Page:
    """The page, and the headers with which it is sent."""

    html: str
    headers: dict[str, str]


def page() -> Page:
    """The page with its style and its script in it, which alone may run."""
    html, style, script = ((PARTS / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js"))
    html = html.replace("/* page.css */", style).replace("/* page.js */", script)
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(
        html,
        {
            "content-security-policy": policy,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-store",
        },
    )


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
