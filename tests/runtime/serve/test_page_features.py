"""What the page offers beside a question and its answer, in headless Chromium."""

from __future__ import annotations

import json
import re
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
from pedsup_testing.fake_engine import END
from pedsup_testing.page_pictures import ANSWERS

from pedsup.guards import check_question
from pedsup.serve import page
from pedsup.session.files import find_session, new_session
from pedsup.session.history import replay
from pedsup.session.transcript import read_records
from pedsup.texts.intended_use import SHORT

MODEL = {"model": {"digest": "d" * 64, "name": "Scripted"}}
LINES = [line + "\n" for line in (f"Párrafo {n}.\n" for n in range(200))]
STOPS = {"end", "interrupted", "killed", "failed", "context", "loop"}
"""Reasons why an answer ended, which are keys of texts."""
KEYBOARD = 300
"""Pixels that Android's takes of 740."""


def plain(*answers: str) -> list[list[str]]:
    return [[*answer, END] for answer in answers]


def click(browser: Any, selector: str) -> None:
    browser.find_element("css selector", selector).click()


def think_off(browser: Any) -> None:
    browser.execute_script("setThink(false)")


def kept(folder: Path, question: str, answer: str) -> str:
    session = new_session(folder, MODEL)
    session.ask(question)
    session.finish(answer, "", "end")
    session.close()
    return session.id


# ---- without a browser ----


def texts() -> dict[str, dict[str, str]]:
    return dict(json.loads(page._part("texts.json")))


def test_every_text_of_the_page_is_used_and_in_both_languages() -> None:
    found = texts()
    source = page._part("page.html") + "".join(page._part(f"{name}.js") for name in page.SCRIPTS)
    for key, both in found.items():
        assert set(both) == {"en", "es"}, key
        assert (
            key == "end" or both["en"] != both["es"] or both["en"] == "tokens/s" or key == "tokens"
        )
        used = key in STOPS or re.search(rf"""["']{key}["']|\b{key}:""", source)
        assert used, f"{key} is not used"
    used = set(re.findall(r'data-(?:text|label|hint)="(\w+)"', source))
    used |= set(re.findall(r"""\b(?:say|status)\("(\w+)"[,)]""", source))
    assert used - set(found) == set()


def test_no_example_alarms_a_guard() -> None:
    for key, both in texts().items():
        if key.startswith("example"):
            assert [check_question(text) for text in both.values()] == [[], []]


def test_the_page_is_one_small_response_and_holds_no_marker() -> None:
    html = page.page_html()
    assert len(html.encode()) < 80_000
    assert not re.search(r"/\*[A-Z]+\*/", html)
    assert "innerHTML" not in html
    assert html.count("<script>") == html.count("</script>") - 1 == 1


# ---- conversations ----


@pytest.mark.slow
def test_the_list_of_conversations(scripted: Any, browser: Any, tmp_path: Path) -> None:
    folder = tmp_path / "sessions"
    server = scripted(*plain("Sí."))
    kept(folder, "¿Cuándo dar zinc?", "En la deshidratación.")
    old = kept(folder, "<img src=x onerror=alert(1)>", "nada")
    open_page(browser, server)
    wait(browser, "document.querySelector('.empty .last')")
    click(browser, "#open-list")
    wait(browser, "document.querySelectorAll('#rows li').length === 2")
    assert browser.find_elements("css selector", "#rows img") == []
    browser.find_element("id", "search").send_keys("DESHIDRATACION")
    wait(browser, "document.querySelectorAll('#rows li').length === 1")
    assert "deshidratación" in shown(browser, "#rows small")[0]
    click(browser, "#rows .open")
    wait(browser, "!document.getElementById('list').open")
    assert shown(browser, ".answer") == ["En la deshidratación."]
    # The focus is back where the panel was opened.
    assert browser.execute_script("return document.activeElement.id") == "open-list"
    think_off(browser)
    ask(browser, "¿Y en la fiebre?")
    assert shown(browser, ".answer") == ["En la deshidratación.", "Sí."]

    click(browser, "#open-list")
    wait(browser, "document.querySelectorAll('#rows li').length === 2")
    click(browser, "#rows li:first-child .rename")
    name = browser.find_element("id", "new-name")
    name.clear()
    name.send_keys("Zinc")
    click(browser, "#rename .main")
    wait(browser, "document.querySelector('#rows .open span').textContent === 'Zinc'")
    # Cancel by Escape leaves it; then both are deleted, also the one that is open.
    click(browser, "#rows li:last-child .erase")
    browser.switch_to.active_element.send_keys("\ue00c")
    wait(browser, "!document.getElementById('erase').open")
    assert (folder / f"{old}.jsonl").exists()
    for left in (1, 0):
        click(browser, "#rows li:last-child .erase")
        click(browser, "#erase .bad")
        wait(browser, f"document.querySelectorAll('#rows li').length === {left}")
    assert list(folder.iterdir()) == []
    assert shown(browser, "#list-note") == ["Deleted."]
    click(browser, "#list [data-close]")
    assert shown(browser, ".answer") == []
    assert complaints(browser) == []


@pytest.mark.slow
def test_after_the_tab_was_closed_it_opens_again(scripted: Any, browser: Any) -> None:
    """Without the link, from the history or the home screen; while pedsup runs."""
    server = scripted(*plain("Sí."))
    open_page(browser, server)
    think_off(browser)
    ask(browser, "¿Fiebre?")
    browser.switch_to.new_window("tab")
    browser.get(f"http://127.0.0.1:{server.port}/")
    wait(browser, "document.querySelector('.empty .last')")
    assert browser.execute_script("return location.href") == f"http://127.0.0.1:{server.port}/"
    assert "¿Fiebre?" in shown(browser, ".empty .last")[0]
    click(browser, ".empty .last")
    wait(browser, "document.querySelector('.answer')")
    assert shown(browser, ".answer") == ["Sí."]


@pytest.mark.slow
def test_the_manifest_holds_no_key(scripted: Any, browser: Any) -> None:
    server = scripted()
    open_page(browser, server)
    found = browser.execute_cdp_cmd("Page.getAppManifest", {})
    assert found["errors"] == []
    assert found["url"] == f"http://127.0.0.1:{server.port}/manifest.webmanifest"
    assert server.token not in found["data"] + found["url"]
    document = json.loads(found["data"])
    assert (document["start_url"], document["display"]) == ("/", "standalone")
    status, headers, body = server.call("GET", "/manifest.webmanifest", Authorization="")
    assert (status, headers["content-type"]) == (200, "application/manifest+json")
    assert server.token.encode() not in body
    assert complaints(browser) == []


# ---- asking again ----


@pytest.mark.slow
def test_another_answer_and_an_edited_question(scripted: Any, browser: Any, tmp_path: Path) -> None:
    server = scripted(*plain("Uno.", "Dos.", "Tres."))
    open_page(browser, server)
    think_off(browser)
    ask(browser, "¿A?")
    click(browser, ".turn .last-only")
    wait(browser, "!page.busy && document.querySelector('.answer').textContent === 'Dos.'")
    assert shown(browser, ".said") == ["¿A?"]
    click(browser, ".asked button")
    assert browser.find_element("id", "question").get_attribute("value") == "¿A?"
    assert browser.find_element("id", "editing").is_displayed()
    browser.find_element("id", "question").clear()
    ask(browser, "¿B?")
    assert shown(browser, ".said, .answer") == ["¿B?", "Tres."]
    assert not browser.find_element("id", "editing").is_displayed()
    browser.refresh()
    wait(browser, "document.querySelector('.answer')")
    assert shown(browser, ".said, .answer") == ["¿B?", "Tres."]
    session = replay(read_records(find_session(tmp_path / "sessions", "last")))
    assert [m["content"] for m in session.messages()] == ["¿B?", "Tres."]


@pytest.mark.slow
def test_after_an_error_the_question_is_kept_and_asked_again(scripted: Any, browser: Any) -> None:
    server = scripted([*"Un", "DIE"], *plain("Sí."))
    open_page(browser, server)
    think_off(browser)
    ask(browser, "¿Fiebre?")
    assert "killed" in shown(browser, ".note.bad")[0]
    assert browser.execute_script("return document.activeElement.innerText") == "Try again"
    browser.switch_to.active_element.click()
    wait(browser, "!page.busy && document.querySelector('.answer').textContent === 'Sí.'")
    assert shown(browser, ".said") == ["¿Fiebre?"]
    server.finish()
    ask(browser, "¿Otra?")
    assert "connection to pedsup was lost" in shown(browser, ".note.bad")[0]
    # What is being written survives a reload.
    browser.find_element("id", "question").send_keys("a medias")
    browser.execute_script("$('question').dispatchEvent(new Event('input'))")
    assert browser.execute_script("return stored(sessionStorage, 'draft')") == "a medias"


@pytest.mark.slow
def test_a_conversation_that_was_deleted_elsewhere(scripted: Any, browser: Any) -> None:
    """Asked again, the question begins a new one: what the model does not see is not shown."""
    server = scripted(*plain("Uno.", "Dos."))
    open_page(browser, server)
    think_off(browser)
    ask(browser, "¿A?")
    name = browser.execute_script("return page.conversation")
    assert server.call("POST", "/page/delete", {"conversation": name})[0] == 200
    ask(browser, "¿B?")
    assert shown(browser, ".note.bad") == [texts()["gone"]["en"]]
    click(browser, ".mend .main")
    wait(browser, "!page.busy && document.querySelector('.answer').textContent === 'Dos.'")
    assert shown(browser, ".said") == ["¿B?"]


@pytest.mark.slow
def test_a_full_context_is_told_in_words_of_the_page(scripted: Any, browser: Any) -> None:
    server = scripted(ctx=256)
    open_page(browser, server)
    ask(browser, "largo " * 100)
    (told,) = shown(browser, ".note.bad")
    assert told == texts()["too_long"]["en"]
    assert not re.search(r"(?<!\w)/\w", told)


# ---- settings, copy, export ----


@pytest.mark.slow
def test_settings_are_kept_and_used(scripted: Any, browser: Any, tmp_path: Path) -> None:
    server = scripted(*plain(" ".join(str(n * n) for n in range(200))))
    open_page(browser, server)
    click(browser, "#open-more")
    browser.execute_script("""
        for (const [id, value] of [["set-length", "150"], ["set-temperature", "0.3"]]) {
          $(id).value = value; $(id).dispatchEvent(new Event("change")); }""")
    browser.find_element("id", "set-system").send_keys("Sea breve.")
    click(browser, "#set-think")
    click(browser, "#more-panel [data-close]")
    ask(browser, "¿A?")
    assert len(shown(browser, ".answer")[0]) == 150
    assert "Answer at most" in shown(browser, ".note.bad")[0]
    records = read_records(find_session(tmp_path / "sessions", "last"))
    (settings,) = [r["settings"] for r in records if r["type"] == "settings"]
    assert (settings["temperature"], settings["max_tokens"]) == (0.3, 150)
    assert settings["think"] is False
    assert [r["text"] for r in records if r["type"] == "system"] == ["Sea breve."]
    browser.refresh()
    wait(browser, "document.querySelector('.answer')")
    assert browser.execute_script("return [$('set-length').value, $('think').checked]") == [
        "150",
        False,
    ]
    browser.execute_script("restoreDefaults()")
    assert browser.execute_script("return [$('set-length').value, $('think').checked]") == [
        "",
        True,
    ]


@pytest.mark.slow
def test_copy_and_export(scripted: Any, browser: Any, tmp_path: Path) -> None:
    server = scripted(*plain("Una **tabla**."))
    downloads = tmp_path / "downloads"
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
    )
    browser.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    open_page(browser, server)
    click(browser, "#open-more")
    click(browser, "#export-md")
    wait(browser, "document.getElementById('more-note').textContent")
    assert shown(browser, "#more-note") == [texts()["nothingYet"]["en"]]
    click(browser, "#more-panel [data-close]")
    think_off(browser)
    ask(browser, "¿A?")
    click(browser, ".turn .actions button")
    wait(browser, "document.getElementById('status').textContent === 'Copied.'")
    read = "navigator.clipboard.readText().then(arguments[0], (e) => arguments[0](String(e)))"
    assert browser.execute_async_script(read) == "Una **tabla**."
    for button, ending, held in (("md", ".md", "## Question 1"), ("txt", ".txt", "Question:\n¿A?")):
        click(browser, "#open-more")
        click(browser, f"#export-{button}")
        wait(browser, f"document.getElementById('more-note').textContent.endsWith('{ending}')")
        name = shown(browser, "#more-note")[0].split()[-1]
        for _ in range(100):
            if (downloads / name).is_file():
                break
            wait(browser, "true")
        text = (downloads / name).read_text("utf-8")
        assert held in text
        assert "Research only" in text
        click(browser, "#more-panel [data-close]")
    assert complaints(browser) == []


@pytest.mark.slow
def test_share_where_the_browser_can(scripted: Any, browser: Any) -> None:
    """Chromium on Linux cannot; on Android it can. What is shared says what it is not for."""
    server = scripted(*plain("Sí."))
    open_page(browser, server)
    assert not browser.find_element("id", "share").is_displayed()
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {
        "source": "window.sent = []; navigator.share = async (data) => { sent.push(data); };",
    })  # fmt: skip
    browser.refresh()
    wait(browser, "!document.getElementById('question').disabled")
    think_off(browser)
    ask(browser, "¿A?")
    browser.execute_script("document.querySelectorAll('.turn .actions button')[1].click()")
    click(browser, "#open-more")
    click(browser, "#share")
    wait(browser, "sent.length === 2")
    answer, whole = (sent["text"] for sent in browser.execute_script("return sent"))
    assert answer.startswith("Sí.")
    assert "Question:\n¿A?\n\nAnswer:\nSí." in whole
    assert SHORT["en"] in answer
    assert SHORT["en"] in whole


# ---- Markdown ----


@pytest.mark.slow
def test_markdown_is_built_and_never_parsed_as_html(scripted: Any, browser: Any) -> None:
    open_page(browser, scripted())
    cases = {
        "a | b\n--- | --:\n<img src=x> | **2**\nc": (
            '<div tabindex="0" role="region" data-label="table" aria-label="Table" class="grid">'
            '<table><thead><tr><th scope="col">a</th><th class="right" scope="col">b</th></tr>'
            "</thead>"
            '<tbody><tr><td>&lt;img src=x&gt;</td><td class="right"><strong>2</strong></td></tr>'
            "</tbody></table></div><p>c</p>"
        ),
        "| x |\n|---|": "TABLE",
        # A wide head and many short rows: one cell for what each row lacks.
        "|" + "a|" * 50 + "\n|" + "-|" * 50 + "\nb|": (
            '<div tabindex="0" role="region" data-label="table" aria-label="Table" class="grid">'
            "<table><thead><tr>" + '<th scope="col">a</th>' * 50 + "</tr></thead>"
            '<tbody><tr><td>b</td><td colspan="49"></td></tr></tbody></table></div>'
        ),
        "x | y\nno ruler": "<p>x | y\nno ruler</p>",
        "***a*** *b* _c_ ~~d~~ `**e**` 2*3*4 snake_case_x \\*f\\*": (
            "<p><strong><em>a</em></strong> <em>b</em> <em>c</em> <s>d</s> <code>**e**</code> "
            "2*3*4 snake_case_x *f*</p>"
        ),
        "**a *b* c**": "<p><strong>a <em>b</em> c</strong></p>",
        "3. x\n\n4. y\n   - z\n     more\nlast": (
            '<ol><li value="3">x</li><li value="4">y<ul><li>z\nmore\nlast</li></ul></li></ol>'
        ),
        "- a\n1. b": '<div><ul><li>a</li></ul><ol><li value="1">b</li></ol></div>',
        "> a\n> b\n\n---\n\n#no\n# yes #": (
            "<blockquote>a\nb</blockquote><hr><p>#no</p><h3>yes</h3>"
        ),
        "```\n# a\n\n| b |\n": (
            '<pre tabindex="0" role="region" data-label="code" aria-label="Code">'
            "# a\n\n| b |\n</pre>"
        ),
        "[link](javascript:alert(1)) <b>x</b>": (
            "<p>[link](javascript:alert(1)) &lt;b&gt;x&lt;/b&gt;</p>"
        ),
    }
    script = """
        const box = document.createElement("div");
        render(box, arguments[0]);
        const found = new XMLSerializer().serializeToString(box);
        return found.replaceAll(' xmlns="http://www.w3.org/1999/xhtml"', "").slice(5, -6)
          .replace("<hr />", "<hr>");
    """
    for text, wanted in cases.items():
        found = browser.execute_script(script, text)
        if wanted == "TABLE":
            assert "<table>" not in found or "<th" in found
        else:
            assert found == wanted, text
    assert complaints(browser) == []


@pytest.mark.slow
def test_an_answer_that_grows_is_the_same_as_one_that_came_whole(
    scripted: Any, browser: Any
) -> None:
    """And what stands already is not built anew: a selection in it stays."""
    open_page(browser, scripted())
    same = browser.execute_script(
        """
        const text = arguments[0];
        const [grown, whole] = [document.createElement("div"), document.createElement("div")];
        let first = null, kept = true;
        for (let n = 1; n <= text.length; n++) {
          const part = text.slice(0, n);
          render(grown, part);
          if (part.includes("\\n\\n")) first ??= grown.firstChild;
          kept &&= !first || first === grown.firstChild;
        }
        render(whole, text);
        return [grown.isEqualNode(whole), kept];""",
        ANSWERS["es"][2],
    )
    assert same == [True, True]


@pytest.mark.slow
def test_no_text_makes_the_page_slow(scripted: Any, browser: Any) -> None:
    """Patterns that a careless regular expression takes quadratic time for."""
    open_page(browser, scripted())
    browser.set_script_timeout(60)
    for piece in (
        "*",
        "**a ",
        "_a",
        "`",
        "~~",
        "|",
        "| -",
        "- ",
        "   ",
        "\t-",
        "> ",
        "#",
        "1. ",
        "a*",
        "\\",
    ):
        length = browser.execute_script(
            "const box = document.createElement('div');"
            "render(box, arguments[0].repeat(arguments[1])); return box.textContent.length",
            piece, 100_000 // len(piece),
        )  # fmt: skip
        assert length >= 0


# ---- reading ----


@pytest.mark.slow
def test_the_reading_position_does_not_jump(scripted: Any, browser: Any) -> None:
    server = scripted(LINES, delay_s=0.02)
    open_page(browser, server)
    think_off(browser)
    ask(browser, "¿A?", answered=False)
    # The answer fills the screen below its question, which then stays at the top.
    wait(browser, "$('scroll').scrollHeight > 2 * $('scroll').clientHeight")
    top = "return Math.round(document.querySelector('.asked').getBoundingClientRect().top)"
    first = browser.execute_script(top)
    length = browser.execute_script("return $('log').textContent.length")
    wait(browser, f"$('log').textContent.length > {length + 100}")
    assert browser.execute_script(top) == first
    assert (
        0 <= first - browser.execute_script("return $('scroll').getBoundingClientRect().top") < 20
    )
    assert browser.find_element("id", "down").is_displayed()
    # The end, when it is asked for, and then it is followed.
    click(browser, "#down")
    wait(browser, "atEnd() && $('down').hidden")
    length = browser.execute_script("return $('log').textContent.length")
    wait(browser, f"$('log').textContent.length > {length + 100}")
    assert browser.execute_script("return atEnd()")
    # Back to a place in the middle by hand: it stays.
    browser.execute_script("""
        $("scroll").dispatchEvent(new WheelEvent("wheel")); $("scroll").scrollTop = 150""")
    wait(browser, "!$('down').hidden")
    length = browser.execute_script("return $('log').textContent.length")
    wait(browser, f"$('log').textContent.length > {length + 100}")
    assert browser.execute_script("return $('scroll').scrollTop") == 150
    click(browser, "#stop")
    wait(browser, "!page.busy")


@pytest.mark.slow
@pytest.mark.parametrize("language", ["es", "en"])
def test_with_the_keyboard_open_the_conversation_keeps_most_of_the_room(
    scripted: Any, browser: Any, language: str
) -> None:
    server = scripted(*plain("Sí.\n\n" * 40), unsigned=True, name="Pediatric Support G4 E4B Q4_K_M")
    open_page(browser, server)
    browser.execute_script(f"setLanguage('{language}', true)")
    ask(browser, "¿A?")
    room = "return $('scroll').clientHeight"
    resize(browser, 360, 740)
    assert browser.execute_script(room) > 0.7 * 740
    resize(browser, 360, 740 - KEYBOARD)
    wait(browser, "document.body.classList.contains('low')")
    assert browser.execute_script(room) > 0.66 * (740 - KEYBOARD)
    # The notice and the badge are still there, each on one line, and open.
    for opener, dialog in (("notice", "use"), ("trust", "unsigned")):
        assert browser.find_element("id", opener).size["height"] <= 44
        browser.find_element("id", opener).click()
        wait(browser, f"document.getElementById('{dialog}').open")
        browser.switch_to.active_element.send_keys("\ue00c")
        wait(browser, f"!document.getElementById('{dialog}').open")
        assert browser.execute_script("return document.activeElement.id") == opener
    # What is signed and warned of for another reason is not called unsigned.
    badge = "return [$('trust').textContent, $('unsigned-hint').hidden]"
    words = {"en": ("unsigned", "warning"), "es": ("sin firma", "aviso")}[language]
    assert browser.execute_script(badge) == [words[0], False]
    browser.execute_script(f"page.state.signed = true; setLanguage('{language}', true)")
    assert browser.execute_script(badge) == [words[1], True]
    for width in (320, 360, 768, 1280):
        resize(browser, width, 700)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_a_long_prompt_shows_how_far_it_is(scripted: Any, browser: Any) -> None:
    server = scripted(*plain("Sí."), reading=2)
    open_page(browser, server)
    ask(browser, "¿A?", answered=False)
    wait(browser, "!$('bar').hidden && /\\d+ %/.test($('status').textContent)")
    wait(browser, "/about \\d+ s left/.test($('status').textContent)")
    wait(browser, "!page.busy")
    assert not browser.find_element("id", "bar").is_displayed()
    assert re.search(r"first word after [2-9][\d.]* s", shown(browser, ".facts")[0])


@pytest.mark.slow
def test_whole_paragraphs_are_read_out_and_no_single_token(scripted: Any, browser: Any) -> None:
    server = scripted([*"Uno dos.\n\n- tres\n- cuatro\n\nCinco seis.", END], delay_s=0.02)
    open_page(browser, server)
    think_off(browser)
    browser.execute_script("""
        window.heardTexts = [];
        new MutationObserver((all) => { for (const one of all) for (const node of one.addedNodes)
          heardTexts.push(node.textContent); }).observe($("live"), {childList: true});""")
    ask(browser, "¿A?")
    heard = browser.execute_script("return heardTexts")
    assert heard == ["Reading the question…", "Answering…", "Uno dos.", "tres\ncuatro", "Answered.",
                     "Cinco seis."]  # fmt: skip
    assert browser.find_element("id", "log").get_attribute("aria-live") == "off"


# ---- everybody ----


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", ["es", "en"])
def test_axe_finds_nothing(
    scripted: Any, browser: Any, tmp_path: Path, scheme: str, language: str
) -> None:
    """Every state, by the rules of WCAG 2.2 AA and axe's own, at 360 and 1280 pixels."""
    source = axe.script()
    if source is None:
        pytest.skip("axe-core is not here: `make browser` fetches it with npm")
    question, reasoning, answer = ANSWERS[language]
    script = ["<|channel>", "thought", "\n", *reasoning, "<channel|>", *answer, END]
    server = scripted(script, accepted=False, unsigned=True)
    kept(tmp_path / "sessions", "Una", "x")
    found: dict[str, list[str]] = {}

    def look(state: str) -> None:
        wrong = axe.violations(browser, source)
        if wrong:
            found[state] = wrong

    colours(browser, scheme)
    browser.get(server.url)
    wait(browser, "$('consent').open")
    browser.execute_script(f"setLanguage('{language}', true)")
    look("consent")
    click(browser, "#agree")
    wait(browser, "!$('question').disabled")
    wait(browser, "document.querySelector('.empty .last')")
    look("first")
    ask(browser, question)
    click(browser, "summary")
    browser.execute_script("$('question').blur()")
    for width in (360, 1280):
        resize(browser, width, 740)
        look(f"answer {width}")
        for opener, dialog in (("open-list", "list"), ("open-more", "more-panel"),
                               ("notice", "use"), ("trust", "unsigned")):  # fmt: skip
            click(browser, f"#{opener}")
            wait(browser, f"$('{dialog}').open")
            if dialog == "list":
                wait(browser, "document.querySelectorAll('#rows li').length === 2")
                click(browser, "#rows .erase")
                look(f"erase {width}")
                click(browser, "#erase [data-close]")
                click(browser, "#rows .rename")
                look(f"rename {width}")
                click(browser, "#rename [data-close]")
            look(f"{dialog} {width}")
            click(browser, f"#{dialog} [data-close]")
    resize(browser, 360, 440)
    look("keyboard")
    click(browser, ".asked button")
    look("editing")
    click(browser, "#no-edit")
    server.finish()
    ask(browser, "Mi hijo convulsiona")
    look("error")
    assert found == {}


@pytest.mark.slow
def test_the_keyboard_alone_is_enough(scripted: Any, browser: Any) -> None:
    """Tab reaches every control that is shown, in the order of the page, and the focus is seen."""
    from selenium.webdriver import ActionChains

    server = scripted(*plain("| a | b |\n|---|---|\n| 1 | 2 |"), unsigned=True)
    open_page(browser, server)
    choose_language(browser, "en")
    think_off(browser)
    ask(browser, "¿A?")
    browser.execute_script("$('scroll').focus(); $('scroll').blur()")
    reached: list[str] = []
    for _ in range(40):
        ActionChains(browser).send_keys("\ue004").perform()
        name = browser.execute_script("""
            const n = document.activeElement; if (n === document.body) return "";
            const seen = getComputedStyle(n).outlineStyle !== "none";
            return (n.id || n.className || n.innerText) + (seen ? "" : " UNSEEN")""")
        if name in reached:
            break
        reached += (
            [name] if name else []
        )  # nothing has it while it passes through the window's frame
    for wanted in ("open-list", "trust", "new", "open-more", "notice", "grid", "think", "question"):
        assert wanted in reached, reached
    start = reached.index("open-list")
    turned = reached[start:] + reached[:start]
    order = [turned.index(name) for name in ("open-list", "notice", "grid", "question")]
    assert order == sorted(order)
    assert not [name for name in reached if "UNSEEN" in name]
