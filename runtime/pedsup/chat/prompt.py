"""From messages to the tokens that an engine reads, with as little re-reading as possible."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pedsup.chat.templates.template import ChatTemplate, Message
from pedsup.engine.api import Engine
from pedsup.engine.llama_cpp.kv_cache import common_prefix
from pedsup.pictures.picture import Picture

MAX_RESYNC: Final = 64
"""Tokens: how far two tokenizations of one text may run apart before they are compared no more."""

_MARKER: Final = re.compile(r"<\|[^\s<>|]{1,24}\|?>|<[^\s<>|]{1,24}\|>")
"""`<|turn>`, `<turn|>`, `<|"|>`, `<|im_end|>`: the shapes of control tokens."""
_PICTURE: Final = "\ue002"
"""Stands for a picture while the template renders: a character for private use."""


class Tokenizer(Protocol):
    """Of an engine, or of a model that is judged."""

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """See `pedsup.engine.api.Engine.tokenize`."""


@dataclass(frozen=True)
class Prompt:
    """The tokens to read, and how many of them the next turn's prompt will share."""

    tokens: list[int]
    keep: int


def build_prompt(
    engine: Engine, template: ChatTemplate, messages: Sequence[Message], *, think: bool
) -> Prompt:
    """Render and tokenize a dialogue that ends with the user's message."""
    pictures = [p for message in messages for p in message.get("pictures", ())]
    # Text that could be mistaken for something else.
    contents = [message["content"] for message in messages]
    if any(has_control_text(engine, c) or (pictures and _PICTURE in c) for c in contents):
        tokens = _tokenize_apart(engine, template, messages, think=think)
        return Prompt(tokens, len(tokens))
    shown = [_marked(message) for message in messages]
    text = template.render(shown, think=think)
    tokens = _tokenize(engine, template, text, pictures)
    answered: list[Message] = [*shown, {"role": "assistant", "content": "x"}]
    history = template.render(answered, think=think, add_generation_prompt=False)
    keep = len(tokens)
    if not history.startswith(text):
        # The prompt ends with something that the history will not have (an empty thought).
        shared = _tokenize(engine, template, _common_text(text, history), pictures)
        keep = common_prefix(tokens, shared)
    adopted = adopt_cached(engine, tokens, engine.cached)
    return Prompt(adopted, keep + len(adopted) - len(tokens))


def dialogue_tokens(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], *, think: bool
) -> list[int]:
    """The prompt of a dialogue without pictures, for a model that keeps no history.

    As in `build_prompt`, control tokens come from the template, never from a message.
    """
    if not any(has_control_text(tokenizer, message["content"]) for message in messages):
        return tokenizer.tokenize(template.render(messages, think=think), parse_special=True)
    tokens: list[int] = []
    *before, last = _around(template, messages, think=think)
    for text, message in zip(before, messages, strict=True):
        tokens += tokenizer.tokenize(text, parse_special=True)
        tokens += text_tokens(tokenizer, message["content"].strip())
    return tokens + tokenizer.tokenize(last, parse_special=True)


def _marked(message: Message) -> Message:
    """The message with a mark for each picture before its text."""
    n = len(message.get("pictures", ()))
    content = message["content"].strip() if n else message["content"]
    return {"role": message["role"], "content": _PICTURE * n + content}


def _tokenize(
    engine: Engine, template: ChatTemplate, text: str, pictures: Sequence[Picture]
) -> list[int]:
    """The tokens of a rendered dialogue, with the pictures in the places of their marks."""
    if not pictures:
        return engine.tokenize(text, parse_special=True)
    around = template.around_picture
    first, *rest = text.replace(_PICTURE, f"{around}{_PICTURE}{around}").split(_PICTURE)
    tokens = engine.tokenize(first, parse_special=True)
    # A dialogue that is cut short has fewer marks than pictures.
    for picture, part in zip(pictures, rest, strict=False):
        tokens += [*engine.see(picture), *engine.tokenize(part, parse_special=True)]
    return tokens


def single_tokens(engine: Engine, *texts: str) -> tuple[int, ...]:
    """The tokens of those texts that are one token."""
    found = [engine.tokenize(text, parse_special=True) for text in texts]
    return tuple(tokens[0] for tokens in found if len(tokens) == 1)


def has_control_text(tokenizer: Tokenizer, content: str) -> bool:
    """Whether a message spells one of the model's control tokens, as a pasted note may."""
    if "<" not in content:
        return False
    spelled = tokenizer.tokenize(content, parse_special=True)
    if spelled != tokenizer.tokenize(content, parse_special=False):
        return True
    return len(_cut_markers(tokenizer, content)) > 1


def _cut_markers(tokenizer: Tokenizer, content: str) -> list[str]:
    """The text, cut after the first character of each spelled marker.

    Some markers, such as Gemma 4's `<|channel>` and `<|tool_call>`, are "user defined" tokens,
    which llama.cpp finds in any text, `parse_special` or not. Only a cut keeps them text.
    """
    is_token: dict[str, bool] = {}
    parts, at = [], 0
    for found in _MARKER.finditer(content):
        marker = found[0]
        if marker not in is_token:
            is_token[marker] = len(tokenizer.tokenize(marker, parse_special=False)) == 1
        if is_token[marker]:
            parts.append(content[at : found.start() + 1])
            at = found.start() + 1
    return [*parts, content[at:]]


def text_tokens(tokenizer: Tokenizer, content: str) -> list[int]:
    """The tokens of a text, none of them one of the model's control tokens."""
    parts = _cut_markers(tokenizer, content)
    return [token for part in parts for token in tokenizer.tokenize(part, parse_special=False)]


def _tokenize_apart(
    engine: Engine, template: ChatTemplate, messages: Sequence[Message], *, think: bool
) -> list[int]:
    """The prompt with control tokens from the template only, never from a message.

    transformers' own rendering would let a pasted `<|im_end|>` end the user's turn.
    """
    tokens: list[int] = []
    *before, last = _around(template, messages, think=think)
    for text, message in zip(before, messages, strict=True):
        pictures = message.get("pictures", ())
        tokens += _tokenize(engine, template, text + _PICTURE * len(pictures), pictures)
        tokens += text_tokens(engine, message["content"].strip())
    return tokens + engine.tokenize(last, parse_special=True)


def _around(template: ChatTemplate, messages: Sequence[Message], *, think: bool) -> list[str]:
    """What the template writes before each message, and after the last."""
    marks = [f"\ue000{i}\ue001" for i in range(len(messages))]
    masked: list[Message] = [
        {"role": message["role"], "content": mark}
        for mark, message in zip(marks, messages, strict=True)
    ]
    texts = []
    rest = template.render(masked, think=think)
    for mark in marks:
        before, _, rest = rest.partition(mark)
        texts.append(before)
    return [*texts, rest]


def stable_prefix(
    engine: Engine, template: ChatTemplate, system: Sequence[Message], *, think: bool
) -> list[int]:
    """The tokens that every dialogue starting with `system` begins with."""
    first: Message = {"role": "user", "content": "a"}
    second: Message = {"role": "user", "content": "¿1"}
    texts = [template.render([*system, message], think=think) for message in (first, second)]
    shared = _common_text(*texts)
    tokens = [engine.tokenize(text, parse_special=True) for text in texts]
    # Tokens at the seam may join what follows: only those that both prompts have are stable.
    n = common_prefix(engine.tokenize(shared, parse_special=True), tokens[0])
    return tokens[0][: min(n, common_prefix(tokens[0], tokens[1]))]


def adopt_cached(engine: Engine, tokens: list[int], cached: Sequence[int]) -> list[int]:
    """`tokens`, with the cached tokenization where it stands for the same bytes.

    A model does not always write a word as its tokenizer would split it. Its own tokens are in
    the cache; the same text split otherwise would be read again from there on.
    """
    out = list(tokens)
    at = common_prefix(out, cached)
    while at < len(out) and at < len(cached):
        span = _resync(engine, out[at : at + MAX_RESYNC], cached[at : at + MAX_RESYNC])
        if span is None:
            break
        ours, theirs = span
        out[at : at + ours] = cached[at : at + theirs]
        at += theirs
        at += common_prefix(out[at:], cached[at:])
    return out


def _resync(engine: Engine, ours: Sequence[int], theirs: Sequence[int]) -> tuple[int, int] | None:
    """The shortest starts (in tokens) of both that are the same bytes of ordinary text."""
    i = j = 0
    a = b = b""
    while True:
        if a and a == b:
            return i, j
        if len(a) <= len(b):
            if i == len(ours) or ours[i] < 0:  # a picture is not text
                return None
            piece, i = engine.piece(ours[i]), i + 1
            a += piece
        else:
            if j == len(theirs) or theirs[j] < 0:
                return None
            piece, j = engine.piece(theirs[j]), j + 1
            b += piece
        # '<' may be a control token, whose text is not its meaning; U+FFFD may stand for
        # anything; an empty piece would never end.
        if not piece or b"<" in piece or b"\xef\xbf\xbd" in piece:
            return None
        if not (a.startswith(b) or b.startswith(a)):
            return None


def _common_text(a: str, b: str) -> str:
    return a[: common_prefix(a, b)]
