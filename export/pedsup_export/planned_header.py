"""The header of a planned file through the door that every model file passes, before it is written.

What llama.cpp would not load is refused while it is still a plan, by the inputs' names.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from pedsup.errors import BadFileError, UnsupportedError
from pedsup.gguf_file.architecture import check_architecture
from pedsup.gguf_file.header import parse_header
from pedsup.gguf_file.tokenizer import check_tokenizer
from pedsup_export.gguf_out import KV, TensorSlot, header_bytes

_PLANNED = Path("the planned file")


def check_planned(metadata: Sequence[KV], slots: Sequence[TensorSlot], size: int) -> None:
    """Check metadata, tokenizer and tensor table as `validate_model` does for a file of `size`.

    Raises:
        BadFileError, UnsupportedError: llama.cpp could not use such a file; which inputs to mend.
    """
    try:
        header = parse_header(io.BytesIO(header_bytes(metadata, slots)), size, _PLANNED)
        check_architecture(header, drafter=True)
        check_tokenizer(header)
    except (BadFileError, UnsupportedError) as error:
        of_tokenizer = "tokenizer" in f"{error.found} {error.where}"
        source = "tokenizer.json and tokenizer_config.json" if of_tokenizer else "config.json"
        error.where = f"the header of the planned file, made from {source} of the base"
        error.remedy = f"correct {source}: nothing has been written"
        raise
