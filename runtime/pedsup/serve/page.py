"""What is read without a token: the page, its manifest and the OpenAPI description.

The page is one response without any other part: `page_parts` holds what it is made of.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import Final
from urllib.parse import quote

from pedsup.serve.web import HTML, JSON, Handler, Header, Reply
from pedsup.texts.intended_use import FULL, SHORT

MANIFEST: Final = "application/manifest+json"
SCRIPTS: Final = (
    "words", "server", "markdown", "scroll", "turn", "photo", "ask", "list", "more", "main",
)  # fmt: skip
"""In their order in the page."""
_ICON: Final = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
    "<rect width='16' height='16' fill='#0b6b61'/>"
    "<path d='M5 13V4h4a2.5 2.5 0 0 1 0 5H6' fill='none' stroke='white' stroke-width='1.7'/></svg>"
)
ICON: Final = "data:image/svg+xml," + quote(_ICON, safe="=:/' ")


def page_reply() -> Handler:
    html = page_html()
    reply = Reply(200, HTML, html.encode(), (("Content-Security-Policy", content_policy(html)),))
    return lambda _request, _rest: reply


def page_html() -> str:
    texts = {"short": SHORT, "full": FULL, "page": json.loads(_part("texts.json"))}
    script = '"use strict";\n' + "".join(_part(f"{name}.js") for name in SCRIPTS)
    parts = {
        "/*ICON*/": ICON,
        "/*STYLE*/": _part("page.css"),
        # In a script element only '<' could end it.
        "/*TEXTS*/": json.dumps(texts, ensure_ascii=False).replace("<", "\\u003c"),
        "/*SCRIPT*/": script,
    }
    found = re.split(r"(/\*[A-Z]+\*/)", _part("page.html"))
    return "".join(parts.get(part, part) for part in found)


def manifest_reply() -> Handler:
    """The handler of `/manifest.webmanifest`, which puts the page on the home screen.

    It begins at `/`, without a token: the page keeps the one of the run that goes on.
    """
    document: dict[str, object] = {
        "id": "/",
        "name": "pedsup",
        "short_name": "pedsup",
        "start_url": "/",
        "scope": "/",
        "display": "standalone",
        "background_color": "#f4f6f6",
        "theme_color": "#0b6b61",
        "icons": [
            {"src": ICON, "type": "image/svg+xml", "sizes": "any", "purpose": "any maskable"}
        ],
    }
    reply = Reply(200, MANIFEST, json.dumps(document).encode())
    return lambda _request, _rest: reply


def openapi_reply() -> Handler:
    reply = Reply(200, JSON, (files("pedsup.serve") / "openapi.json").read_bytes())
    return lambda _request, _rest: reply


def content_policy(html: str) -> str:
    """Nothing runs or loads but the page's own inline parts, named by their digests."""
    parts: list[Header] = [
        ("default-src", "'none'"),
        ("script-src", _digests(html, "script")),
        ("style-src", _digests(html, "style")),
        ("img-src", "data:"),
        ("manifest-src", "'self'"),
        ("connect-src", "'self'"),
        ("base-uri", "'none'"),
        ("form-action", "'none'"),
        ("frame-ancestors", "'none'"),
        ("require-trusted-types-for", "'script'"),
        ("trusted-types", "'none'"),
    ]
    return "; ".join(" ".join(part) for part in parts)


def _part(name: str) -> str:
    return (files("pedsup.serve") / "page_parts" / name).read_text("utf-8")


def _digests(html: str, element: str) -> str:
    found = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
    return " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
        for part in found
    )
