"""The photo button of the page, in headless Chromium: what leaves the browser, and what is said."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing import axe
from pedsup_testing.browser import (
    ask,
    choose_language,
    colours,
    complaints,
    open_page,
    resize,
    shown,
    wait,
)
from pedsup_testing.pictures import PLACE, Image, exif, opened, pattern, saved
from PIL import ImageChops, ImageOps, ImageStat

from pedsup.pictures.read import picture_from_bytes
from pedsup.texts.notices import GUARDS

pytestmark = pytest.mark.slow
LONGEST = 1344
_RULE = str(GUARDS["guard_picture"])
RULE = _RULE[0].upper() + _RULE[1:]
"""As the page shows it."""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """As a phone held upright writes it: lying on its side, with place and time."""
    path = tmp_path / "IMG_0001.jpg"
    image = pattern(2000, 1500)
    path.write_bytes(saved(image, "JPEG", exif=exif(6), comment=PLACE, quality=95))
    return path


def choose(browser: Any, *paths: Path) -> None:
    """Through the panel, as a person does."""
    browser.find_element("id", "add-photo").click()
    wait(browser, "$('photo-panel').open")
    files = browser.find_element("id", "files")
    before = len(shown(browser, "#photo-list li"))
    files.send_keys("\n".join(map(str, paths)))
    wait(browser, "!$('photo-panel').open")
    wait(browser, f"$('photo-list').children.length > {before} || $('status').textContent")


def sent(browser: Any, index: int = 0) -> bytes:
    """What went to the server with the last question."""
    url = browser.execute_script("return page.exchanges.at(-1).photos[arguments[0]].url", index)
    assert url.startswith("data:image/jpeg;base64,")
    return base64.b64decode(url.partition(",")[2])


def fits(browser: Any) -> bool:
    """Nothing is wider than the screen."""
    return bool(browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"))


def test_without_eyes_there_is_no_button(scripted: Any, browser: Any) -> None:
    open_page(browser, scripted())
    assert not browser.find_element("id", "add-photo").is_displayed()


def test_a_photo_is_made_small_and_bare_and_shown(
    scripted: Any, browser: Any, photo: Path, tmp_path: Path
) -> None:
    server = scripted(sees=True)
    open_page(browser, server)
    choose(browser, photo)
    assert fits(browser)
    assert shown(browser, "#photo-rule") == [RULE]
    ask(browser, "What is this?")

    data = sent(browser)
    found = opened(data)
    assert found.size == (LONGEST * 3 // 4, LONGEST)
    assert PLACE not in data and not Image.open(io.BytesIO(data)).getexif()
    upright = ImageOps.exif_transpose(Image.open(photo)).convert("RGB").resize(found.size)
    difference = ImageStat.Stat(ImageChops.difference(found, upright))
    assert max(difference.mean) < 3  # another filter, and JPEG twice
    assert shown(browser, ".answer") == [f"[{picture_from_bytes(data, where='').sha256[:8]}]"]
    assert shown(browser, ".alarm") == [RULE]
    assert browser.execute_script("return $('photo-list').children.length") == 0
    assert fits(browser)

    # Another answer, with the picture; after a reload only that there was one is known.
    browser.find_element("css selector", ".turn .last-only").click()
    wait(browser, "!page.busy && page.exchanges.length === 1 && page.exchanges[0].turn === 2")
    assert sent(browser) == data
    assert list((tmp_path / "sessions").glob("*.jsonl"))
    browser.refresh()
    wait(browser, "page.exchanges.length === 1")
    (line,) = shown(browser, ".shots p")
    assert f"({LONGEST * 3 // 4} × {LONGEST})" in line and "still sees it" in line
    assert shown(browser, ".alarm") == [RULE]
    browser.find_element("css selector", ".turn .last-only").click()
    assert "Add it again" in shown(browser, "#status")[0]
    assert browser.execute_script("return $('question').value") == "What is this?"
    assert complaints(browser) == []


def test_what_the_browser_cannot_open_is_named(
    scripted: Any, browser: Any, tmp_path: Path, photo: Path
) -> None:
    server = scripted(sees=True)
    open_page(browser, server)
    other = tmp_path / "IMG_0002.heic"
    other.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    clear = tmp_path / "chart.png"
    clear.write_bytes(saved(Image.new("RGBA", (80, 60), (0, 0, 0, 0)), "PNG"))
    choose(browser, other)
    assert "IMG_0002.heic" in shown(browser, "#status")[0]
    choose(browser, clear, photo)
    wait(browser, "$('photo-list').children.length === 2")
    choose(browser, *[clear] * 7)
    assert "At most 8" in shown(browser, "#status")[0]
    for left in range(7, 1, -1):
        browser.find_element("css selector", "#photo-list li:last-child button").click()
        wait(browser, f"$('photo-list').children.length === {left}")
    ask(browser, "And these?")
    assert ImageStat.Stat(opened(sent(browser, 0))).mean == [255, 255, 255]
    assert opened(sent(browser, 1)).size == (LONGEST * 3 // 4, LONGEST)


def test_an_edited_question_keeps_its_picture(scripted: Any, browser: Any, photo: Path) -> None:
    server = scripted(sees=True)
    open_page(browser, server)
    choose(browser, photo)
    ask(browser, "What is this?")
    data = sent(browser)
    browser.find_element("css selector", ".asked .last-only button").click()
    wait(browser, "$('photo-list').children.length === 1")
    browser.find_element("id", "question").send_keys(" Please.")
    browser.find_element("id", "send").click()
    wait(browser, "!page.busy && page.exchanges.at(-1).turn === 2")
    assert sent(browser) == data
    # A cancelled edit leaves nothing behind for the next question.
    browser.find_element("css selector", ".asked .last-only button").click()
    browser.find_element("id", "no-edit").click()
    assert browser.execute_script("return page.photos.length") == 0


def test_axe_finds_nothing(scripted: Any, browser: Any, photo: Path) -> None:
    source = axe.script()
    if source is None:
        pytest.skip("axe-core is not here: `make browser` fetches it with npm")
    found: dict[str, list[str]] = {}

    def look(state: str) -> None:
        for width, scheme in ((360, "light"), (1280, "dark")):
            colours(browser, scheme)
            resize(browser, width, 740)
            assert fits(browser), state
            if wrong := axe.violations(browser, source):
                found[f"{state}, {width}"] = wrong

    server = scripted(sees=True)
    open_page(browser, server)
    choose_language(browser, "es")
    browser.find_element("id", "add-photo").click()
    look("panel")
    browser.find_element("css selector", "#photo-panel [data-close]").click()
    choose(browser, photo)
    look("chosen")
    alts = browser.execute_script("return [...document.querySelectorAll('img')].map((i) => i.alt)")
    assert alts == ["Imagen 1 que usted añadió"]
    ask(browser, "¿Qué es esto?")
    look("answered")
    browser.refresh()
    wait(browser, "page.exchanges.length === 1")
    look("reopened")
    assert found == {}
