"""Import heavy dependencies where they are used, and say how to install a missing one."""

from __future__ import annotations

import importlib
from types import ModuleType

from pedsup.errors import MissingDependencyError


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, which the optional-dependency group `extra` provides.

    Raises:
        MissingDependencyError: it is not installed; the message has the install command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module inside a dependency may be what is missing: name the real one.
        missing = error.name or module
        raise MissingDependencyError(
            f"the Python package for '{missing}' is not installed",
            wanted=f"the optional group '{extra}'",
            remedy=f"pip install 'pedsup[{extra}]'",
        ) from error
