"""The two static documents: the page and the OpenAPI description, both shipped in the package."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import Final

from pedsup.serve.web import HTML, JSON, Handler, Header, Reply
from pedsup.texts.intended_use import FULL, SHORT

TEXTS: Final = "/*TEXTS*/"
"""Where the page takes the intended-use texts in, so that they are written in one place."""


def page_reply() -> Handler:
    """The handler of `/`."""
    html = (files("pedsup.serve") / "page.html").read_text("utf-8")
    texts = json.dumps({"short": SHORT, "full": FULL}, ensure_ascii=False)
    # In a script element only '<' could end it.
    html = html.replace(TEXTS, texts.replace("<", "\\u003c"))
    reply = Reply(200, HTML, html.encode(), (("Content-Security-Policy", content_policy(html)),))
    return lambda _request, _rest: reply


def openapi_reply() -> Handler:
    """The handler of `/openapi.json`."""
    reply = Reply(200, JSON, (files("pedsup.serve") / "openapi.json").read_bytes())
    return lambda _request, _rest: reply


def content_policy(html: str) -> str:
    """Nothing runs or loads but the page's own inline parts, named by their digests."""
    parts: list[Header] = [
        ("default-src", "'none'"),
        ("script-src", _digests(html, "script")),
        ("style-src", _digests(html, "style")),
        ("img-src", "data:"),
        ("connect-src", "'self'"),
        ("base-uri", "'none'"),
        ("form-action", "'none'"),
        ("frame-ancestors", "'none'"),
        ("require-trusted-types-for", "'script'"),
        ("trusted-types", "'none'"),
    ]
    return "; ".join(" ".join(part) for part in parts)


def _digests(html: str, element: str) -> str:
    found = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
    return " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
        for part in found
    )
