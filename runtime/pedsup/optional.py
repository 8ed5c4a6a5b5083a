"""Import heavy dependencies where they are used, and say how to install a missing one."""

from __future__ import annotations

import importlib
from types import ModuleType

from pedsup.errors import MissingDependencyError
from pedsup.messages import message


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
            message("the Python package for '{name}' is not installed", name=missing),
            wanted=message("the optional group '{name}'", name=extra),
            remedy=message("pip install 'pedsup[{name}]'", name=extra),
        ) from error
