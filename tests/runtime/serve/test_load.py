"""100 clients at once on the real server with SmolLM2: a short form for CI, and the full minute."""

from __future__ import annotations

from typing import Any

import pytest
from pedsup_testing import load

CLIENTS = 100
GROWTH_KIB = 24 << 10
"""The first connections and answers make threads' stacks and caches; a leak would go on growing."""


def run(server: Any, seconds: float) -> load.Report:
    wanted = load.serial(server)
    assert len(set(wanted.values())) > len(wanted) * 0.8, "the answers must tell questions apart"
    report = load.hammer(server, wanted, clients=CLIENTS, seconds=seconds)
    print(load.summary(report))
    assert report.wrong == []
    assert report.threads_after == report.threads_before
    assert report.rss_after_kib - report.rss_before_kib < GROWTH_KIB
    assert server.finish()[0] == 0
    return report


@pytest.mark.slow
def test_a_hundred_clients_for_some_seconds(start: Any) -> None:
    assert run(start("--ctx", "512"), seconds=6).answers > 0


@pytest.mark.huge
def test_a_hundred_clients_for_a_minute(start: Any) -> None:
    report = run(start("--ctx", "512"), seconds=60)
    assert report.answers > 100
    assert report.rss_after_kib - report.rss_half_kib < 4 << 10
