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
from typing import Final, Literal, NotRequired, TypedDict

from pedsup.pictures.picture import Picture


class Message(TypedDict):
    """One message of the history; `content` is the answer without reasoning for the assistant."""

    role: Literal["system", "user", "assistant"]
    content: str
    pictures: NotRequired[tuple[Picture, ...]]
    """Of a user's message; they stand before its text. No renderer sees them: `chat.prompt`
    puts them where they belong."""


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
    asks: bool = True
    """Whether the format asks for reasoning, or for none. Where it does not, reasoning that the
    model writes unasked is still told from the answer."""


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


MEDGEMMA_THOUGHT: Final = ThoughtMarkers("<unused94>", "thought\n", "<unused95>")
"""What MedGemma 1.5 writes when it reasons; Gemma 3 itself never does (`asks` is False: of 104
published experiments with system prompts and sampling 22 made the 4B model reason)."""
GEMMA3_STOPS: Final = ("<start_of_turn>", "<end_of_turn>")
QWEN3_THOUGHT: Final = ThoughtMarkers("<think>", "\n", "</think>")
CHATML_STOPS: Final = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


def _gemma3(messages: Sequence[Message], bos: str, think: bool, prompt: bool) -> str:
    """Gemma 3's format: the system prompt stands before the first question."""
    system = messages[0]["content"] + "\n\n" if messages[0]["role"] == "system" else ""
    out = [bos]
    for message in messages[1:] if system else messages:
        role = "model" if message["role"] == "assistant" else message["role"]
        out += [f"<start_of_turn>{role}\n", system, message["content"].strip(), "<end_of_turn>\n"]
        system = ""
    return "".join(out) + ("<start_of_turn>model\n" if prompt else "")


def _chatml(default_system: str) -> Renderer:
    """The format of SmolLM2 and Qwen2, which write a system prompt where none is given."""

    def render(messages: Sequence[Message], bos: str, think: bool, prompt: bool) -> str:
        first: list[Message] = [{"role": "system", "content": default_system}]
        shown = messages if messages[0]["role"] == "system" else [*first, *messages]
        out = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in shown]
        return "".join(out) + ("<|im_start|>assistant\n" if prompt else "")

    return render


def _qwen3(messages: Sequence[Message], bos: str, think: bool, prompt: bool) -> str:
    """Qwen3's format: answers keep their reasoning only behind the last question."""
    last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=len(messages))
    out = []
    for i, message in enumerate(messages):
        content = message["content"]
        if message["role"] == "assistant":
            reasoning, closed, answer = content.rpartition("</think>")
            content = answer.lstrip("\n") if closed else content
            if i > last and i == len(messages) - 1:
                reasoning = reasoning.rstrip("\n").rpartition("<think>")[2].strip("\n")
                content = f"<think>\n{reasoning}\n</think>\n\n{content.lstrip(chr(10))}"
        out.append(f"<|im_start|>{message['role']}\n{content}<|im_end|>\n")
    if prompt:
        out.append("<|im_start|>assistant\n")
        out.append("" if think else "<think>\n\n</think>\n\n")
    return "".join(out)


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
        _chatml("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
        stops=CHATML_STOPS,
    ),
    # Gemma 3 and MedGemma; recognised by what they render.
    Family("gemma3", frozenset(), _gemma3, MEDGEMMA_THOUGHT, asks=False, stops=GEMMA3_STOPS),
    # llama.cpp's ggml-vocab-qwen2.gguf, then its Qwen-Qwen2.5-7B-Instruct.jinja and
    # Qwen-Qwen3-0.6B.jinja
    Family("qwen2", frozenset(), _chatml("You are a helpful assistant"), stops=CHATML_STOPS),
    Family(
        "qwen2.5",
        frozenset({"cd8e9439f0570856fd70470bf8889ebd8b5d1107207f67a5efb46e342330527f"}),
        _chatml("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
        stops=CHATML_STOPS,
    ),
    Family(
        "qwen3",
        frozenset({"87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5"}),
        _qwen3,
        QWEN3_THOUGHT,
        stops=CHATML_STOPS,
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
    (
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\n4"},
        {"role": "user", "content": "3 + 3?"},
    ),
)
"""Dialogues that tell the families apart and show each thing that they do to a message."""
