"""The page in headless Chromium, 360 pixels wide, on the real server with a scripted engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pedsup_testing.browser import ask, choose_language, colours, complaints, open_page, shown, wait
from pedsup_testing.fake_engine import END

from pedsup.texts.intended_use import FULL, SHORT
from pedsup.texts.language import translated
from pedsup.texts.notices import GUARDS, NOTICES

pytestmark = pytest.mark.slow
LONG = [*(" ".join(str(i * i) for i in range(2000))), END]
MARKDOWN = (
    "**Alarma**: <script>document.title='hacked'</script><img src=x onerror=alert(1)>\n\n"
    "1. uno\n2. dos **fuerte**\n   - dentro\n\n### Título\n`15 mg/kg`; 5*2*3 = 30\n"
    "```\n<b>x</b>\n```\n"
)


def thought(text: str, answer: str) -> list[str]:
    return ["<|channel>", "thought", "\n", *text, "<channel|>", *answer, END]


def sentence(text: str) -> str:
    """As the page shows a notice."""
    return text[0].upper() + text[1:]


def test_the_first_run_and_a_conversation(scripted: Any, browser: Any, tmp_path: Path) -> None:
    server = scripted(thought("Pienso. " * 3, "Sí."), thought("x", "No."), accepted=False)
    browser.get(server.url)
    wait(browser, "document.getElementById('consent').open")
    assert browser.execute_script("return location.href") == f"http://127.0.0.1:{server.port}/"
    assert shown(browser, "#consent .full")[0].split() == FULL["en"].split()
    browser.find_element("id", "other").click()
    assert shown(browser, "#consent .full")[0].split() == FULL["es"].split()
    browser.find_element("id", "agree").click()
    wait(browser, "!document.getElementById('question').disabled")
    assert json.loads((tmp_path / "data/pedsup/intended-use.json").read_text())["how"] == "page"
    assert shown(browser, "#short") == [SHORT["es"]]

    ask(browser, "¿Fiebre?")
    assert shown(browser, ".asked .who") == ["Usted"]
    assert shown(browser, ".asked .said") == ["¿Fiebre?"]
    assert shown(browser, ".answer") == ["Sí."]
    # The reasoning is folded, counted, and opens.
    details = browser.find_element("css selector", "details")
    assert details.get_attribute("open") is None
    assert shown(browser, "summary") == ["Razonamiento (3 palabras)"]
    browser.find_element("css selector", "summary").click()
    assert shown(browser, "details > div")[0].strip() == "Pienso. Pienso. Pienso."
    assert shown(browser, "#status") == ["Respondido."]

    choose_language(browser, "en")
    assert shown(browser, "summary") == ["Reasoning (3 words)"]
    assert shown(browser, "#short") == [SHORT["en"]]
    assert browser.execute_script("return document.documentElement.lang") == "en"
    browser.find_element("id", "think").click()
    ask(browser, "And cough?")
    wait(browser, "!page.busy")
    # A reload shows the same again, in the language that was chosen.
    before = shown(browser, ".said, .answer")
    browser.refresh()
    wait(browser, "document.querySelectorAll('.answer').length === 2")
    assert shown(browser, ".said, .answer") == before
    assert complaints(browser) == []
    browser.find_element("id", "new").click()
    assert shown(browser, ".answer") == []
    (path,) = (tmp_path / "sessions").glob("*.jsonl")
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_the_model_writes_is_text_and_never_markup(scripted: Any, browser: Any) -> None:
    hostile = "<b onclick=alert(1)>hm</b>\u202ereversed"
    server = scripted(thought(hostile, MARKDOWN))
    open_page(browser, server)
    ask(browser, "<img src=x onerror=document.title='hacked'>")
    wait(browser, "!page.busy")
    assert browser.title == "pedsup"
    assert browser.find_elements("css selector", "#log img, #log script, #log b") == []
    assert "<img src=x" in shown(browser, ".asked")[0]
    assert browser.find_elements("css selector", "#log strong")[1].text == "fuerte"
    assert shown(browser, "#log code") == ["15 mg/kg"]
    assert shown(browser, "#log pre") == ["<b>x</b>"]
    assert shown(browser, "#log ul li") == ["dentro"]
    numbers = "return [...document.querySelectorAll('#log ol > li')].map((n) => n.value)"
    assert browser.execute_script(numbers) == [1, 2]
    assert shown(browser, "#log h3") == ["Título"]
    assert "<script>document.title='hacked'</script>" in shown(browser, ".answer")[0]
    assert "5*2*3 = 30" in shown(browser, ".answer")[0]
    thought_text = browser.execute_script(
        "return document.querySelector('details > div').textContent"
    )
    assert thought_text == "<b onclick=alert(1)>hm</b>reversed"
    assert complaints(browser) == []


def test_the_policy_lets_nothing_else_run(scripted: Any, browser: Any) -> None:
    """Even code that got into the page could not run a script, load or send anything."""
    open_page(browser, scripted())
    outcome = browser.execute_async_script("""
        const done = arguments[0], found = [];
        const note = (event) => found.push(event.effectiveDirective);
        document.addEventListener("securitypolicyviolation", note);
        try { document.body.innerHTML += "<p>"; } catch { found.push("trusted-types"); }
        // Later: the test driver's own call may do this.
        setTimeout(() => { try { eval("1"); } catch { found.push("eval"); } });
        const script = document.createElement("script");
        try { script.textContent = "document.title = 'hacked'"; } catch { found.push("script"); }
        const image = new Image();
        image.src = "http://127.0.0.1:9/x";
        fetch("http://127.0.0.1:9/x").catch(() => setTimeout(() => done(found), 200));
    """)
    assert {"trusted-types", "eval", "script", "img-src", "connect-src"} <= set(outcome)
    assert browser.title == "pedsup"


def test_stop_by_button_and_by_escape(scripted: Any, browser: Any) -> None:
    server = scripted(LONG, LONG, delay_s=0.01)
    open_page(browser, server)
    browser.find_element("id", "think").click()
    ask(browser, "Largo", answered=False)
    wait(browser, "document.querySelector('.answer').textContent.length > 10")
    assert browser.find_element("css selector", ".turn").get_attribute("aria-busy") == "true"
    browser.find_element("id", "stop").click()
    wait(browser, "!page.busy")
    assert "Stopped." in shown(browser, ".turn")[0]
    ask(browser, "Again", answered=False)
    wait(browser, "document.querySelectorAll('.answer')[1].textContent.length > 10")
    browser.find_element("css selector", "body").send_keys("\ue00c")
    wait(browser, "!page.busy")
    assert "Stopped." in shown(browser, ".turn")[1]
    assert browser.find_element("id", "send").is_displayed()


def test_a_page_without_the_key_says_where_it_is(scripted: Any, browser: Any) -> None:
    server = scripted()
    for url in (f"http://127.0.0.1:{server.port}/", f"http://127.0.0.1:{server.port}/#guess"):
        browser.get("about:blank")
        browser.get(url)
        wait(browser, "document.querySelector('.empty')")
        assert "Open the link" in shown(browser, ".empty")[0]
        assert not browser.find_element("id", "question").is_enabled()


def test_a_server_that_is_gone_is_said(scripted: Any, browser: Any) -> None:
    server = scripted(thought("x", "Sí."))
    open_page(browser, server)
    server.finish()
    ask(browser, "¿Hola?")
    wait(browser, "!page.busy")
    assert "connection to pedsup was lost" in shown(browser, ".turn")[0]


def test_notices_and_cut_answers_are_told(scripted: Any, browser: Any) -> None:
    server = scripted(["ha " for _ in range(200)])
    open_page(browser, server)
    browser.find_element("id", "think").click()
    ask(browser, "x")
    wait(browser, "!page.busy")
    assert sentence(NOTICES["loop"]) in shown(browser, ".turn")[0]


def test_an_emergency_sign_is_told_before_the_model_speaks(scripted: Any, browser: Any) -> None:
    server = scripted(thought("x", "Espere."))
    open_page(browser, server)
    ask(browser, "Mi hijo convulsiona y no respira")
    wait(browser, "!page.busy")
    assert shown(browser, ".alarm") == [sentence(GUARDS["guard_emergency"])]
    assert browser.find_element("css selector", ".alarm").aria_role == "alert"
    assert browser.execute_script("""
        const [alarm] = document.getElementsByClassName("alarm");
        const [answer] = document.getElementsByClassName("answer");
        return alarm.getBoundingClientRect().bottom <= answer.getBoundingClientRect().top""")
    choose_language(browser, "es")
    browser.refresh()
    wait(browser, "document.querySelector('.alarm')")
    said = translated(GUARDS["guard_emergency"], "es")
    assert shown(browser, ".alarm") == [sentence(said)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(scripted: Any, browser: Any, scheme: str) -> None:
    """No sideways scrolling at 360 pixels, targets of 40 pixels, contrast of WCAG AA, labels."""
    server = scripted(thought("palabra " * 40, "W" * 300 + "\n```\n" + "x" * 200 + "\n```"))
    colours(browser, scheme)
    open_page(browser, server)
    ask(browser, "Q" * 200)
    wait(browser, "!page.busy")
    width = browser.execute_script(
        "return [document.documentElement.scrollWidth, scroll.scrollWidth ?? 0, innerWidth]"
    )
    assert width[0] <= 360 == width[2]
    small = browser.execute_script("""
        return [...document.querySelectorAll("button, textarea")].filter((n) => n.offsetParent &&
          (n.offsetHeight < 40 || n.offsetWidth < 40)).map((n) => n.id)""")
    assert small == []
    for element in ("question", "send", "new", "open-list", "open-more", "notice", "think"):
        node = browser.find_element("id", element)
        assert node.accessible_name.strip(), element
    assert browser.find_element("id", "live").aria_role == "status"
    low = browser.execute_script(CONTRAST)
    assert low == []


CONTRAST = """
const light = (c) => { const [r, g, b] = c.map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const rgb = (text) => { const n = text.match(/[0-9.]+/g).map(Number);
  return n.length > 3 && n[3] === 0 ? null : n.slice(0, 3); };
const found = [];
for (const node of document.querySelectorAll("body *")) {
  const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!own || !node.offsetParent || node.closest(":disabled")) continue;
  let at = node, back = null;
  while (at && !(back = rgb(getComputedStyle(at).backgroundColor))) at = at.parentElement;
  const a = light(rgb(getComputedStyle(node).color)), b = light(back);
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) found.push([node.className || node.tagName, ratio]);
}
return found;
"""
"""The elements with text whose contrast is below 4.5 : 1 (WCAG 2.2, 1.4.3)."""
