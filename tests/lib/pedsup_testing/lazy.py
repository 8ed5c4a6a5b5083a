"""A heavy package that tests need, imported at its first use: collecting stays quick."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


class Lazy:
    """Stands for a module; a test that uses it is skipped where it is not installed."""

    def __init__(self, name: str, reason: str) -> None:
        self._name, self._reason = name, reason

    def __getattr__(self, attribute: str) -> Any:
        try:
            module = importlib.import_module(self._name)
        except ImportError:
            pytest.skip(self._reason)
        return getattr(module, attribute)
