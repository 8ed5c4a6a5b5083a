"""An HTML page of pedsup-bench as a browser would see it, and what must hold of each."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

VOID = {"meta", "img", "br", "hr", "link", "input"}
FETCHING = {"script", "img", "link", "iframe", "object", "embed", "a", "base", "form", "video"}


class Page(HTMLParser):
    """What a browser would see: tags with attributes, text; the nesting is checked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(self.text)

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


def checked(text: str) -> Page:
    """A page that fetches nothing, runs nothing, and shows what is hostile as text."""
    text.encode("utf-8")
    found = Page(text)
    assert not FETCHING & {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        assert not {n for n in attributes if n in ("src", "href", "style") or n.startswith("on")}, (
            tag
        )
    assert not re.search(r"url\(|@import", text)
    (policy,) = [a["content"] for t, a in found.tags if a.get("http-equiv")]
    assert str(policy).startswith("default-src 'none'")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert "prefers-color-scheme:dark" in text
    assert "<script>alert(1)</script>" in found.words, "shown as it is"
    assert "Research only, not a medical device." in found.words
    for drawing in re.findall(r"<svg.*?</svg>", text):
        ElementTree.fromstring(drawing)
    return found
