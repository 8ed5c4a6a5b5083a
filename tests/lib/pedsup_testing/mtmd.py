"""llama.cpp's library for pictures: the package's own, or the one built with the programs.

`make setup` leaves it out of llama-cpp-python, to compile less. `make native` builds it for the
package's libraries, as a part of llama-server, and `make pictures` puts it into the package.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from pedsup.engine.llama_cpp import bindings
from pedsup.engine.llama_cpp.mtmd import load_mtmd
from pedsup_testing import native


@cache
def _folder() -> tuple[Path, bool]:
    """Where libmtmd lies, and whether that is the package's own folder."""
    own = Path(bindings.load()._base_path)
    if any(own.glob("libmtmd.*")):
        return own, True
    built = native.BIN
    if not (built / "libmtmd.so").is_file():
        pytest.skip("llama.cpp's library for pictures is not built: run `make native`")
    return built, False


def require() -> ModuleType:
    """Its declarations, in this process; skips the test where neither build has the library.

    The libllama that it asks for has the name of the one that is loaded, and is therefore that one.
    """
    lib = bindings.load()
    lib._base_path, _ = _folder()
    return load_mtmd(lib)


def libraries() -> dict[str, str]:
    """What a child process needs in its environment to have it."""
    folder, own = _folder()
    return {} if own else {"LLAMA_CPP_LIB_PATH": str(folder)}
