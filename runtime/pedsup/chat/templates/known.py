"""The chat formats that pedsup knows: by the digest of their template, or by what it renders.

Google and unsloth have published several revisions of the Gemma 4 templates (tool calls,
comments), and a revision changes the digest. What reaches the model from a plain dialogue is
the same in all of them and short enough to be written down here. A template with an unknown
digest is recognised when it renders a set of probe dialogues exactly so. From then on the family
renders and the template does not run: one that behaves in probes and would misbehave in the clinic
never gets the chance.

The template of Gemma 4 E2B/E4B itself could not be had when this was written: its family is
derived from the 31B one by leaving out the empty thought channel, as Google documents it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypedDict


class Message(TypedDict):
    """One message of the history; `content` is the answer without reasoning for the assistant."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class ThoughtMarkers:
    """How a model writes its reasoning: `opening` + `header` + reasoning + `closing`."""

    opening: str
    header: str
    closing: str


Renderer = Callable[[Sequence[Message], str, bool, bool], str]
"""(messages, bos, think, add_generation_prompt) to the prompt's text."""


@dataclass(frozen=True)
class Family:
    """One chat format; `render` is its definition."""

    name: str
    digests: frozenset[str]
    render: Renderer
    thought: ThoughtMarkers | None = None
    stops: tuple[str, ...] = ()
    """Texts that begin another turn: the model's own turn ends where it writes one."""


GEMMA4_THOUGHT: Final = ThoughtMarkers("<|channel>", "thought\n", "<channel|>")
GEMMA4_STOPS: Final = ("<|turn>", "<turn|>", "<|think|>", "<|tool_call>", "<|tool_response>")


def _without_thoughts(text: str) -> str:
    """An answer as the Gemma 4 templates put it into the history."""
    parts = (part.split("<|channel>")[0] for part in text.split("<channel|>"))
    return "".join(parts).strip()


def _gemma4(*, empty_thought: bool, think_line: str) -> Renderer:
    """Gemma 4's format.

    Args:
        empty_thought: the larger models are told not to reason by a thought that is closed at once.
        think_line: what asks for reasoning; the first revisions of the template had no newline.
    """

    def render(messages: Sequence[Message], bos: str, think: bool, prompt: bool) -> str:
        out = [bos]
        system = messages[0]["content"].strip() if messages[0]["role"] == "system" else None
        if think or system is not None:
            out += ["<|turn>system\n", think_line if think else "", system or "", "<turn|>\n"]
        for message in messages[1:] if system is not None else messages:
            if message["role"] == "assistant":
                out += ["<|turn>model\n", _without_thoughts(message["content"]), "<turn|>\n"]
            else:
                out += [f"<|turn>{message['role']}\n", message["content"].strip(), "<turn|>\n"]
        if prompt:
            out.append("<|turn>model\n")
            if empty_thought and not think:
                out.append("<|channel>thought\n<channel|>")
        return "".join(out)

    return render


def _smollm2(messages: Sequence[Message], bos: str, think: bool, prompt: bool) -> str:
    out = []
    if messages[0]["role"] != "system":
        default = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
        out.append(f"<|im_start|>system\n{default}<|im_end|>\n")
    out += [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
    return "".join(out) + ("<|im_start|>assistant\n" if prompt else "")


_FIRST, _LATER = "<|think|>", "<|think|>\n"

FAMILIES: Final = (
    # E2B and E4B
    Family(
        "gemma4-edge",
        frozenset(),
        _gemma4(empty_thought=False, think_line=_LATER),
        GEMMA4_THOUGHT,
        GEMMA4_STOPS,
    ),
    Family(
        "gemma4-edge-first",
        frozenset(),
        _gemma4(empty_thought=False, think_line=_FIRST),
        GEMMA4_THOUGHT,
        GEMMA4_STOPS,
    ),
    # 26B-A4B and 31B: models/templates/google-gemma-4-31B-it.jinja and -interleaved.jinja of
    # llama.cpp, then the one in its ggml-vocab-gemma-4.gguf
    Family(
        "gemma4-large",
        frozenset(
            {
                "85a08664d16d8f3be4416c92427b3ac10df1024ac566cc0b4bc3bab409393f98",
                "65f93a25708c952457106a30e185ba7beffddd726121c8d7e3f3e08b23c16c67",
            }
        ),
        _gemma4(empty_thought=True, think_line=_LATER),
        GEMMA4_THOUGHT,
        GEMMA4_STOPS,
    ),
    Family(
        "gemma4-large-first",
        frozenset({"2dfbfc7d538912f4ea11d29d85b4e25d7bc26386e53f57529f1d707c28b5828c"}),
        _gemma4(empty_thought=True, think_line=_FIRST),
        GEMMA4_THOUGHT,
        GEMMA4_STOPS,
    ),
    Family(
        "smollm2",
        frozenset({"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788"}),
        _smollm2,
        stops=("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    ),
)

PROBES: Final[tuple[tuple[Message, ...], ...]] = (
    ({"role": "user", "content": "  ¿Qué dosis?\n"},),
    ({"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Why?"}),
    (
        {"role": "system", "content": "Responde en español."},
        {"role": "user", "content": "Niño de 3 años, 14 kg, fiebre."},
        {"role": "assistant", "content": "<|channel>thought\nhm<channel|> Observe. "},
        {"role": "user", "content": "¿Y mañana?"},
    ),
)
"""Dialogues that tell the families apart and show each thing that they do to a message."""
