"""Heavy packages that tests need, imported at their first use: collecting stays quick."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest


class Lazy:
    """Stands for a module, or for one of its names; a test that uses it is skipped where it is not
    installed."""

    def __init__(
        self, module: str, reason: str = "pip install 'pedsup[train]'", name: str | None = None
    ) -> None:
        self._module, self._reason, self._name = module, reason, name

    def _target(self) -> Any:
        try:
            module = importlib.import_module(self._module)
        except ImportError:
            pytest.skip(self._reason)
        return module if self._name is None else getattr(module, self._name)

    def __getattr__(self, attribute: str) -> Any:
        # pytest looks at every name of a module for marks of its own (`__pytest_wrapped__`, ...).
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        return getattr(self._target(), attribute)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._target()(*args, **kwargs)


def lazy_names(module: str, *names: str) -> list[Any]:
    """What `from module import names` gives, for functions and classes that are called."""
    return [Lazy(module, name=name) for name in names]


def needs(module: str, reason: str) -> pytest.MarkDecorator:
    """A mark for tests that are skipped where a package is not installed; it is not imported."""
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=reason)


def require(module: str, reason: str) -> None:
    """Skip where a package is not installed; unlike `importorskip`, it is not imported."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(reason)
