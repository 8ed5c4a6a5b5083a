"""Pages: one file each, readable as HTML, with hostile text as text and nothing to fetch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from pedsup_testing import bench_documents as made
from pedsup_testing.pages import checked

from pedsup_bench.mcqa import html as mcqa_html
from pedsup_bench.mcqa.result import McqaFacts
from pedsup_bench.report import svg
from pedsup_bench.report.document import as_written
from pedsup_bench.safety import html as safety_html
from pedsup_bench.safety.result import SafetyFacts
from pedsup_bench.speed import html as speed_html
from pedsup_bench.speed.result import RunDocument
from pedsup_bench.task import html as task_html
from pedsup_bench.task.result import QualityWithTask

PAGES: list[tuple[Callable[[], dict[str, Any]], Any, Callable[[Any], str], int, list[str]]] = [
    (made.run, RunDocument, speed_html.report, 3, ["11.0 t/s", "own memory (RssAnon), warm"]),
    (made.quality, QualityWithTask, task_html.report, 4,
     ["0.25000", "90.00%", "not a number", "+0.1250", "+10.0%", "flatter the file"]),
    (made.mcqa, McqaFacts, mcqa_html.report, 1, ["65.0%", "43.0% to 82.0%", "70.0%"]),
    (made.safety, SafetyFacts, safety_html.report, 1,
     ["75.0%", "1 of 2", "breaks urges_help", "keeps the rules"]),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "report", "plots", "shown"), PAGES)
def test_a_page_is_whole_and_harmless(
    make: Callable[[], dict[str, Any]], kind: Any, report: Callable[[Any], str], plots: int,
    shown: list[str],
) -> None:  # fmt: skip
    page = checked(report(as_written(kind, make(), "here")))
    assert page.count("svg") == plots
    assert page.count("h1") == 1
    for words in shown:
        assert words in page.words


def test_half_a_surrogate_pair_does_not_break_a_page() -> None:
    """JSON may hold one, UTF-8 may not."""
    document = made.mcqa()
    document["questions"] = "\ud800"
    mcqa_html.report(as_written(McqaFacts, document, "here")).encode("utf-8")


def test_a_bar_shows_its_interval_and_its_mark_on_a_fixed_scale() -> None:
    """Half of a scale from 0 to 1 is half as wide as all of it; whiskers at the ends."""
    half = svg.Bar("half", 0.5, "50 %", (0.25, 1.0), 0.75)
    drawing = ElementTree.fromstring(svg.bars("t", [half, svg.Bar("all", 1.0, "100 %")], top=1.0))
    rects = [r for r in drawing.iter() if r.tag.endswith("rect")][1:]
    left, (first, second) = float(rects[0].attrib["x"]), (float(r.attrib["width"]) for r in rects)
    assert first == pytest.approx(second / 2, abs=0.1)
    whisker, mark = [line for line in drawing.iter() if line.tag.endswith("line")]
    at = [float(whisker.attrib[n]) - left for n in ("x1", "x2")] + [float(mark.attrib["x1"]) - left]
    assert at == pytest.approx([second / 4, second, second * 3 / 4], abs=0.1)


def test_a_page_of_nothing_but_zeros_has_no_infinite_scale() -> None:
    ElementTree.fromstring(svg.bars("t", [svg.Bar("a", 0.0, "0")]))
    ElementTree.fromstring(svg.bars("t", []))
