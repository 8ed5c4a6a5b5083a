"""Pictures of the page in its states: `python -m pedsup_testing.page_pictures FOLDER`.

Each is taken from the real server on a scripted engine, in headless Chromium.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pedsup_testing import native, scripted_server
from pedsup_testing.browser import ask, chromium, colours, open_page, resize, wait
from pedsup_testing.fake_engine import END
from pedsup_testing.gemma4_template import edge, large
from pedsup_testing.home import environment
from pedsup_testing.served import Served

ANSWERS = {
    "es": (
        "Compare bronquiolitis y asma del lactante en una tabla.",
        "Piden una comparación. Primero la edad, luego el virus, la respuesta al broncodilatador y "
        "el curso. Conviene advertir que ante duda decide la evaluación clínica.",
        "## Bronquiolitis y asma del lactante\n\n"
        "| | Bronquiolitis | Asma |\n|---|---|---|\n"
        "| Edad | menor de 2 años, sobre todo < 6 meses | más frecuente desde los 2 años |\n"
        "| Causa | virus (**VSR**) | inflamación crónica, alérgenos, virus |\n"
        "| Episodios | el primero | repetidos |\n"
        "| Broncodilatador | no se recomienda de rutina | suele responder |\n\n"
        "**Signos de gravedad** en ambos:\n\n"
        "1. Tiraje marcado, quejido o aleteo nasal\n2. No puede beber o lactar\n"
        "   - vomita todo\n   - está letárgico\n3. Saturación `< 92 %`\n\n"
        "> Revise esta respuesta con su guía local.",
    ),
    "en": (
        "Compare bronchiolitis and asthma in infants in a table.",
        "A comparison is asked for. Age first, then the virus, the response to bronchodilators and "
        "the course. When in doubt the clinical assessment decides.",
        "## Bronchiolitis and asthma in infants\n\n"
        "| | Bronchiolitis | Asthma |\n|---|---|---|\n"
        "| Age | under 2 years, mostly < 6 months | more often from 2 years on |\n"
        "| Cause | virus (**RSV**) | chronic inflammation, allergens, viruses |\n"
        "| Episodes | the first | repeated |\n"
        "| Bronchodilator | not recommended routinely | usually helps |\n\n"
        "**Signs of severity** in both:\n\n"
        "1. Marked chest indrawing, grunting or nasal flaring\n2. Cannot drink or breastfeed\n"
        "   - vomits everything\n   - is lethargic\n3. Saturation `< 92 %`\n\n"
        "> Check this answer against your local guideline.",
    ),
}
MORE = {
    "es": ("¿Qué signos de peligro busca AIEPI?", "¿Cuándo se repite el hemograma?"),
    "en": ("Which danger signs does IMCI look for?", "When is the blood count repeated?"),
}

ALARM = {"es": "Mi hijo convulsiona", "en": "My son is convulsing"}


def thought(reasoning: str, answer: str) -> list[str]:
    """A script with reasoning, as Gemma 4 writes it."""
    return ["<|channel>", "thought", "\n", *reasoning, "<channel|>", *answer, END]


@contextmanager
def serving(home: Path, script: list[list[str]], **options: Any) -> Iterator[Served]:
    """A scripted server in a home of its own."""
    home.mkdir(parents=True, exist_ok=True)
    document = {
        "template": edge(large(native.fetch())), "folder": str(home / "sessions"),
        "script": script, "unsigned": True,
        "name": "Pediatric Support G4 E2B", **options,
    }  # fmt: skip
    (home / "sessions").mkdir(exist_ok=True)
    (home / "config.json").write_text(json.dumps(document), encoding="utf-8")
    accepted = options.get("accepted", True)
    server = Served(
        [scripted_server.__file__, str(home / "config.json")], environment(home, accepted=accepted)
    )
    try:
        yield server
    finally:
        server.finish()


class Album:
    """Takes pictures of a browser in one size, colour and language."""

    def __init__(self, browser: Any, folder: Path, kind: str) -> None:
        self.browser, self.folder, self.kind = browser, folder, kind

    def take(self, name: str) -> None:
        """The window as it is now."""
        data = self.browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"]
        (self.folder / f"{name}-{self.kind}.png").write_bytes(base64.b64decode(data))

    def click(self, selector: str) -> None:
        """Click the first element."""
        self.browser.find_element("css selector", selector).click()


def states(browser: Any, folder: Path, lang: str, screen: tuple[int, int], scheme: str) -> None:
    """Every state of the page."""
    question, reasoning, answer = ANSWERS[lang]
    width, height = screen
    album = Album(browser, folder, f"{lang}-{width}-{scheme}")
    small = width < 700
    script = [thought("Una nota.", "Sí."), thought("Otra.", "No."), thought(reasoning, answer)]
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        with serving(home / "a", script, accepted=False, lang=lang) as server:
            colours(browser, scheme)
            browser.get(server.url)
            wait(browser, "document.getElementById('consent').open")
            browser.execute_script(f"setLanguage('{lang}', true)")
            album.take("consent")
            album.click("#agree")
            wait(browser, "!document.getElementById('question').disabled")
            album.take("first")
            for text in MORE[lang]:
                ask(browser, text)
                album.click("#new")
            ask(browser, question)
            browser.execute_script("document.querySelector('details').open = true")
            browser.execute_script("document.getElementById('scroll').scrollTop = 0")
            album.take("chat")
            browser.execute_script("toEnd()")
            album.take("chat-end")
            if small:
                resize(browser, width, 440)
                browser.execute_script("document.getElementById('question').focus()")
                wait(browser, "document.body.classList.contains('low')")
                album.take("keyboard")
                resize(browser, width, height)
            album.click("#open-list")
            wait(browser, "document.querySelectorAll('#rows li').length >= 3")
            album.take("list")
            album.click("#rows li:last-child .erase")
            album.take("erase")
            album.click("#erase [data-close]")
            album.click("#list [data-close]")
            album.click("#open-more")
            album.take("settings")
            album.click("#more-panel [data-close]")
            album.click("#trust")
            album.take("unsigned")
            album.click("#unsigned [data-close]")
            album.click("#notice")
            album.take("notice")
            album.click("#use [data-close]")
            album.click("#new")
            wait(browser, "document.querySelector('.empty .last')")
            album.take("again")
        ask(browser, question)
        album.take("error")
        slow = [[*answer, END]]
        with serving(home / "b", slow, lang=lang, delay_s=0.02, reading=3) as server:
            browser.get(server.url)
            open_page(browser, server)
            browser.execute_script(f"setLanguage('{lang}', true)")
            ask(browser, ALARM[lang], answered=False)
            wait(browser, "!document.getElementById('bar').hidden")
            album.take("reading")
            wait(browser, "document.querySelector('.answer').textContent.length > 20")
            album.take("answering")
            album.click("#stop")
            wait(browser, "!page.busy")


def main() -> int:
    """All pictures."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    wanted = sys.argv[2:] or ["es-360-light", "en-360-dark", "es-1280-dark", "en-1280-light"]
    for one in wanted:
        lang, width, scheme = one.split("-")
        small = int(width) < 700
        screen = (int(width), 740 if small else 800)
        with (
            tempfile.TemporaryDirectory() as profile,
            chromium(Path(profile), screen, ratio=1, touch=small) as browser,
        ):
            states(browser, folder, lang, screen, scheme)
    return 0


if __name__ == "__main__":
    sys.exit(main())
