"""A full and a cut export of the same tiny model, once per session."""

from __future__ import annotations

from pathlib import Path

import pytest
from pedsup_testing import cut_models
from pedsup_testing.cut_models import Pair, export_pair
from pedsup_testing.slowly import slow_but


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {
        "gemma4": cut_models.gemma4(root / "gemma4"),
        "llama": cut_models.llama(root / "llama"),
        "gemma3": cut_models.gemma3(root / "gemma3"),
    }


@pytest.fixture(scope="session", params=slow_but(["gemma4"], ["gemma4", "llama", "gemma3"]))
def pair(
    request: pytest.FixtureRequest,
    bases: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    return export_pair(bases[request.param], tmp_path_factory.mktemp(request.param))
