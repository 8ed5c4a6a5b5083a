"""The content of a message in OpenAI's protocol: a text, or parts with texts and pictures."""

from __future__ import annotations

from pedsup.pictures.picture import Picture
from pedsup.serve.faults import bad_value, unsupported
from pedsup.serve.fields import Fields
from pedsup.serve.pictures import Pictures


def content_of(found: object, where: str, pictures: Pictures) -> tuple[str, tuple[Picture, ...]]:
    """A message's text and its pictures, from a text or a list of parts.

    Raises:
        ApiError: a part is of another type, or a picture is not taken.
    """
    if isinstance(found, str):
        return found, ()
    if not isinstance(found, list) or not found:
        raise bad_value(where, f"'{where}' must be a text or a list of parts")
    texts, seen = [], []
    for i, part in enumerate(found):
        name = f"{where}[{i}]"
        fields = Fields(part if isinstance(part, dict) else {}, name)
        match fields.take("type"):
            case "text":
                texts.append(fields.text("text", longest=1 << 22) or "")
            case "image_url":
                seen.append(_picture(fields, name, pictures))
            case _:
                raise unsupported(name, "only parts of type 'text' and 'image_url' are supported")
        fields.end()
    return "\n".join(texts), tuple(seen)


def _picture(fields: Fields, where: str, pictures: Pictures) -> Picture:
    """One part with a picture: only as a data URL."""
    inner = Fields(fields.mapping("image_url") or {}, f"{where}.image_url")
    url = inner.take("url")
    inner.only("detail", "auto")
    inner.end()
    return pictures.take(url, f"{where}.image_url.url")
