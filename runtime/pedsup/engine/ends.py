"""Which tokens end a generation.

llama.cpp takes more tokens for an end than a file declares: it knows them by their text. Asking
it about each of 262144 tokens takes 0.1 s on a desktop and more on a phone; asking for these
texts takes none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

DECLARED_ENDS: Final = ("eos", "eot", "eom")
"""`tokenizer.ggml.<name>_token_id`."""
END_TEXTS: Final = (
    "<eos>", "</s>", "<turn|>", "<|tool_response>", "<end_of_turn>", "<|im_end|>",
    "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|end_of_text|>", "<reponame>",
)  # fmt: skip
"""Token texts that llama.cpp takes for the end of generation, whatever the file declares."""


class _Tokenizer(Protocol):
    def tokenize(self, text: str, *, parse_special: bool) -> list[int]: ...


def end_tokens(engine: _Tokenizer, is_end: Callable[[int], bool] | None = None) -> frozenset[int]:
    """The tokens of `END_TEXTS` that the vocabulary has (and that `is_end` confirms)."""
    found = (engine.tokenize(text, parse_special=True) for text in END_TEXTS)
    single = (tokens[0] for tokens in found if len(tokens) == 1)
    return frozenset(token for token in single if is_end is None or is_end(token))
