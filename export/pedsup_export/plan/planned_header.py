"""Check the header of a planned file before it is written, as every model file is checked.

What llama.cpp would not load is refused while it is still a plan, by the inputs' names.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from pedsup.errors import BadFileError, UnsupportedError
from pedsup.gguf_file.architecture import check_architecture
from pedsup.gguf_file.header import parse_header
from pedsup.gguf_file.projector import DEFAULT_TOKENS, validate_projector
from pedsup.gguf_file.tokenizer import check_tokenizer
from pedsup.memory.picture import projector_bytes


def check_planned_projector(header: bytes, size: int) -> int:
    """Check the header of a planned projector as `validate_projector` does.

    Returns:
        Bytes of memory that it takes with one picture.

    Raises:
        BadFileError, UnsupportedError: llama.cpp could not use it.
    """
    try:
        with tempfile.NamedTemporaryFile(suffix=".gguf-header") as file:
            file.write(header)
            file.truncate(size)  # a hole where the tensors will be
            file.flush()
            return projector_bytes(validate_projector(file.name), DEFAULT_TOKENS)
    except (BadFileError, UnsupportedError) as error:
        error.where = "the header of the planned projector, made from config.json of the base"
        error.remedy = "correct config.json, or give --mmproj off: nothing has been written"
        raise


def check_planned(header: bytes, size: int) -> None:
    """Check metadata, tokenizer and tensor table as `validate_model` does.

    Raises:
        BadFileError, UnsupportedError: llama.cpp could not use such a file; the error names
            the inputs to correct.
    """
    try:
        # In a file, because the arrays of a header are read again by its name.
        with tempfile.NamedTemporaryFile(suffix=".gguf-header") as file:
            file.write(header)
            file.flush()
            path = Path(file.name)
            with path.open("rb") as written:
                parsed = parse_header(written, size, path)
            check_architecture(parsed, drafter=True)
            check_tokenizer(parsed)
    except (BadFileError, UnsupportedError) as error:
        of_tokenizer = "tokenizer" in f"{error.found} {error.where}"
        source = "tokenizer.json and tokenizer_config.json" if of_tokenizer else "config.json"
        error.where = f"the header of the planned file, made from {source} of the base"
        error.remedy = f"correct {source}: nothing has been written"
        raise
