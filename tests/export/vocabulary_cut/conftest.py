"""A full and a cut export of the same tiny model, once per session."""

from __future__ import annotations

from heapq import nlargest
from pathlib import Path

import pytest
from pedsup_testing import cut_models
from pedsup_testing.cut_models import Pair, export_pair
from pedsup_testing.slowly import slow_but


@pytest.fixture
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """wordfreq's lists, cut to their 20,000 most frequent words: all take 12 s a language."""
    wordfreq = pytest.importorskip("wordfreq", reason="pip install 'pedsup[vocabulary]'")
    whole = wordfreq.get_frequency_dict

    def cut(*args: object, **options: object) -> dict[str, float]:
        words = whole(*args, **options)
        return {word: words[word] for word in nlargest(20_000, words, key=words.__getitem__)}

    monkeypatch.setattr(wordfreq, "get_frequency_dict", cut)


class Bases(dict[str, Path]):
    """Folders by kind, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __missing__(self, kind: str) -> Path:
        self[kind] = getattr(cut_models, kind)(self._root / kind)
        return self[kind]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return Bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="session", params=slow_but(["gemma4"], ["gemma4", "llama", "gemma3"]))
def pair(
    request: pytest.FixtureRequest,
    bases: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Pair:
    return export_pair(bases[request.param], tmp_path_factory.mktemp(request.param))
