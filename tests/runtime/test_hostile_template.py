"""Templates that attack: nothing executes, everything ends, and the message says why."""

# ruff: noqa: E501  (payloads as they were published)

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pedsup_testing.slowly import slow_but

from pedsup.chat.templates import process as template_process
from pedsup.chat.templates import sandbox, worker
from pedsup.chat.templates.process import TemplateProcess
from pedsup.chat.templates.template import ChatTemplate, Message
from pedsup.errors import BadFileError, PedsupError, UnsupportedError

HELLO: list[Message] = [{"role": "user", "content": "x"}]
PLAIN = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"

# What has been published against templates in model files and against jinja2's sandbox. Each
# would make the file `sentinel` in the working directory.
_SHELL = "touch sentinel"
ESCAPES = {
    # CVE-2024-34359 (llama-cpp-python), the published payload and its variants
    "subclasses": "{% for x in ().__class__.__base__.__subclasses__() %}"
    "{% if 'warning' in x.__name__ %}"
    f"{{{{ x()._module.__builtins__['__import__']('os').popen('{_SHELL}').read() }}}}"
    "{% endif %}{% endfor %}",
    "mro": f"{{{{ ''.__class__.__mro__[1].__subclasses__()[132].__init__.__globals__['system']('{_SHELL}') }}}}",
    "cycler": f"{{{{ cycler.__init__.__globals__.os.system('{_SHELL}') }}}}",
    "joiner": f"{{{{ joiner.__init__.__globals__.os.popen('{_SHELL}').read() }}}}",
    "namespace": f"{{{{ namespace.__init__.__globals__.os.popen('{_SHELL}').read() }}}}",
    "lipsum": f"{{{{ lipsum.__globals__['os'].popen('{_SHELL}').read() }}}}",
    "self": f"{{{{ self.__init__.__globals__.__builtins__.__import__('os').system('{_SHELL}') }}}}",
    "self-dict": f"{{{{ self._TemplateReference__context.cycler.__init__.__globals__.os.system('{_SHELL}') }}}}",
    "request": f"{{{{ config.__class__.from_envvar.__globals__.__builtins__.exec('{_SHELL}') }}}}",
    "raise": f"{{{{ raise_exception.__globals__['__builtins__']['__import__']('os').system('{_SHELL}') }}}}",
    "strftime": "{{ strftime_now.__globals__['__builtins__']['open']('sentinel', 'w') }}",
    "range": "{{ range.__class__.__base__.__subclasses__() | map(attribute='__init__') | list }}",
    "macro": f"{{% macro m() %}}{{% endmacro %}}{{{{ m.__call__.__globals__['sys'].modules['os'].system('{_SHELL}') }}}}",
    "loop": f"{{% for i in [1] %}}{{{{ loop.__init__.__globals__['t'].os.system('{_SHELL}') }}}}{{% endfor %}}",
    # CVE-2016-10745 and CVE-2019-10906: attributes through a format string
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "format_map": "{{ '{x.__class__.__mro__}'.format_map({'x': messages}) }}",
    # CVE-2024-56326: an indirect reference to str.format
    "indirect-format": "{% set f = '{0.__class__.__init__.__globals__}'.format %}"
    "{{ [messages] | map(f) | list }}",
    # CVE-2025-27516: str.format through |attr
    "attr-format": "{{ ('{0.__class__.__base__}'|attr('format'))(messages) }}",
    # CVE-2024-56201: a filename and content in the hands of the attacker, at compile time
    "compile": "{% macro x(a='') %}{% endmacro %}{% from '\\nimport os;os.system(\"touch sentinel\")' import y %}",
    "attr-filter": f"{{{{ messages | attr('__class__') | attr('__init__') | attr('__globals__') }}}}{_SHELL}",
    "map-attribute": "{{ [messages] | map(attribute='__class__.__mro__') | list }}",
    "getitem": "{{ messages['__class__']['__mro__'] }}",
    "unicode": "{{ ''['\\x5f\\x5fclass\\x5f\\x5f'].mro()[1].__subclasses__() }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.system('touch sentinel') }}",
    "extends": "{% extends '/proc/self/environ' %}",
    "mutation": "{{ messages.append('x') }}",
    "dict-mutation": "{{ messages[0].update({'role': 'system'}) }}",
    "groupby": "{{ messages | groupby('__class__') }}",
    "sum": "{{ [messages] | sum(attribute='__class__', start='') }}",
    "debug": "{% debug %}",
    "do": "{% do messages.clear() %}",
}

HARMLESS = ("", _SHELL, "[]", "[Undefined]", f"[(Undefined, {HELLO})]")

# Templates that would go on for hours, or take all memory.
ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "recursive loop": "{% for a in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "huge range": "{% for a in range(10**9) %}x{% endfor %}",
    "folded constants": "{{ 'a' | replace('a', 'b' * 65536) "
    + "| replace('b', 'ccccccccccccccccccccccccccccccccc') " * 9
    + "}}",
    "list of ranges": "{{ (range(99999) | list * 60000) | length }}",
}
GREEDY = {
    "doubling": "{% set n = namespace(x='a') %}"
    "{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "doubling by join": "{% set n = namespace(x='a') %}"
    "{% for i in range(60) %}{% set n.x = [n.x, n.x] | join %}{% endfor %}{{ n.x }}",
    "doubling lists": "{% set n = namespace(x=[1]) %}"
    "{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}{{ n.x | length }}",
    "multiplication": "{{ 'a' * 1000000000 }}",
    "multiplied twice": "{{ 'a' * 65536 * 65536 * 65536 }}",
    "power": "{{ 10 ** 10 ** 10 }}",
    "percent": "{{ '%01000000000d' % 1 }}",
    "replace": "{{ ('a' * 65536) | replace('a', 'b' * 65536) | replace('b', 'c' * 65536) }}",
    "indent": "{{ {'a': [1]} | tojson(indent=1000000000) }}",
    "date": "{{ strftime_now('%Y' * 65536 * 60) }}",
    "macro recursion": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "output": "{% for a in range(99999) %}{{ 'a' * 60000 }}{% endfor %}",
    "nesting": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "center": "{{ 'a' | center(1000000000) }}",
    "batch": "{{ range(99999) | batch(1) | list }}",
}


@pytest.fixture(autouse=True)
def sandbox_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process as users have it: coverage in it has imported what the sandbox keeps out."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


def attack(source: str) -> str:
    """What comes of a template that the user allowed: text, or the first line of the error."""
    template = None
    try:
        template = ChatTemplate.from_model(source, allow_unknown=True)
        return template.render(HELLO, think=False)
    except (UnsupportedError, BadFileError) as error:
        assert error.remedy
        return f"! {error.found}"
    finally:
        if template is not None:
            template.close()


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", slow_but([*ESCAPES][::3], ESCAPES))
def test_an_injection_never_executes(name: str, empty_folder: Path) -> None:
    """Refused, or undefined and so empty; never a file, never a name of the interpreter's."""
    outcome = attack(ESCAPES[name])
    assert outcome.startswith("! ") or outcome in HARMLESS, outcome
    assert not list(empty_folder.iterdir())


@pytest.mark.parametrize(
    "name",
    slow_but(["power", "replace", "macro recursion", "output", "nesting", "center"], GREEDY),
)
def test_a_greedy_template_is_refused(name: str) -> None:
    assert attack(GREEDY[name]).startswith("! the ")


@pytest.mark.parametrize("name", slow_but(["huge range", "recursive loop"], ENDLESS))
def test_an_endless_template_ends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "MAX_SECONDS", 0.5)
    started = time.monotonic()
    with pytest.raises(PedsupError, match=r"cannot be rendered|no valid template"):
        template = ChatTemplate.from_model(ENDLESS[name], allow_unknown=True)
        template.render(HELLO, think=False)
    # A sanity limit, not a measurement: the loops would take hours.
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_the_bounds_hold_in_a_thread_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server renders in threads, where no signal could stop it."""
    monkeypatch.setattr(template_process, "MAX_SECONDS", 0.5)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(attack(ENDLESS["nested loops"])))
    thread.start()
    thread.join(60)
    assert found == ["! the chat template cannot be rendered"]


def test_several_threads_get_their_own_texts() -> None:
    template = ChatTemplate.from_model(PLAIN, allow_unknown=True)
    found: dict[int, list[str]] = {}

    def ask(number: int) -> None:
        message: Message = {"role": "user", "content": f"niño {number}"}
        found[number] = [template.render([message], think=False) for _ in range(20)]

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {n: [f"[user] niño {n}"] * 20 for n in range(8)}
    template.close()


# ---- the walls behind the sandbox ------------------------------------------------------------

BROKEN_SANDBOX = """
import os
from pedsup.chat.templates import sandbox, worker
sandbox._Sandbox.is_safe_attribute = lambda *a: True
sandbox._Sandbox.is_safe_callable = lambda *a: True
worker.main()
"""


class BrokenProcess(TemplateProcess):
    """The worker with a sandbox that lets everything through."""

    command = (sys.executable, "-P", "-c", BROKEN_SANDBOX)


OS = "raise_exception.__globals__['json'].codecs.builtins"


@pytest.mark.parametrize(
    ("payload", "event"),
    [
        (f"{{{{ {OS}.__import__('os').system('touch sentinel') }}}}", "os.system"),
        (f"{{{{ {OS}.open('sentinel', 'w') }}}}", "open"),
        pytest.param(f"{{{{ {OS}.eval('1+1') }}}}", "compile", marks=pytest.mark.slow),
        pytest.param(
            f"{{{{ {OS}.__import__('socket').socket() }}}}", "import", marks=pytest.mark.slow
        ),
        pytest.param(
            f"{{{{ {OS}.__import__('os').remove('kept') }}}}", "os.remove", marks=pytest.mark.slow
        ),
        pytest.param(
            f"{{{{ {OS}.__import__('os').kill(1, 0) }}}}", "os.kill", marks=pytest.mark.slow
        ),
        pytest.param(f"{{{{ {OS}.__import__('os').fork() }}}}", "os.fork", marks=pytest.mark.slow),
    ],
)
def test_breaking_out_of_the_sandbox_ends_the_process(
    payload: str, event: str, empty_folder: Path
) -> None:
    (empty_folder / "kept").touch()
    process = BrokenProcess(payload)
    with pytest.raises(UnsupportedError, match="tried to leave its sandbox") as caught:
        process.render([{"messages": HELLO}])
    assert event in caught.value.found or "import" in caught.value.found
    assert [path.name for path in empty_folder.iterdir()] == ["kept"]
    process.close()


def test_the_broken_sandbox_of_these_tests_is_broken() -> None:
    """Else the test above would show nothing."""
    process = BrokenProcess("{{ ''.__class__.__mro__[1] }}")
    assert process.render([{}]) == ["<class 'object'>"]
    process.close()


def test_the_worker_can_open_no_file_and_start_no_program(empty_folder: Path) -> None:
    """The limits alone, without sandbox and audit hook."""
    program = (
        "import os\n"
        "from pedsup.chat.templates import worker as template_worker\n"
        "template_worker._warm_up()\n"
        "template_worker._limit()\n"
        "for attempt in (lambda: open('sentinel', 'w'), lambda: os.pipe(),\n"
        "                lambda: bytearray(1 << 30)):\n"
        "    try:\n"
        "        attempt()\n"
        "    except (OSError, MemoryError) as error:\n"
        "        print(type(error).__name__, getattr(error, 'errno', ''))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.stdout.split() == ["OSError", "24", "OSError", "24", "MemoryError"], done.stderr
    assert not list(empty_folder.iterdir())


# ---- anything at all ------------------------------------------------------------------------

PARTS = (
    "{{", "}}", "{%", "%}", "{#", "#}", "for", "in", "if", "endif", "endfor", "set", "macro", "x",
    "endmacro", "messages", "loop", "namespace", "()", "[0]", ".content", "|", "join", "map", "~",
    "'a'", "1", "*", "%", "==", "-", "range(9)", "None", "self", "super()", "raw", "endraw", "=",
    "filter", "call", "block", "import", "from", "recursive", "break", "\n", " ", ",", "not", "é",
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=14))
@example(parts=["{% set None = 1 %}"])
@example(parts=["{% for x in messages %}{{ loop(1) }}{% endfor %}"])
@example(parts=["{{ messages | map('no') }}"])
def test_any_template_is_text_or_an_exception(parts: list[str]) -> None:
    """Here and not in a process, for speed: what is caught there is all that comes out."""
    source = " ".join(parts)
    try:
        compiled = sandbox.compile_template(source)
        text = sandbox.render(compiled, {"messages": HELLO})
    except Exception as error:
        assert isinstance(error, sandbox.ERRORS)
    else:
        assert isinstance(text, str)


# ---- the process ------------------------------------------------------------------------------


def pid_of(template: ChatTemplate) -> int:
    program = template._program
    assert isinstance(program, TemplateProcess)
    assert program._child is not None
    return program._child.process.pid


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_process_serves_a_session_and_ends_with_it() -> None:
    template = ChatTemplate.from_model(PLAIN, allow_unknown=True)
    pid = pid_of(template)
    for _ in range(3):
        template.render(HELLO, think=False)
    assert pid_of(template) == pid
    del template
    gc.collect()
    assert not is_alive(pid)


def test_a_killed_process_is_started_again() -> None:
    template = ChatTemplate.from_model(PLAIN, allow_unknown=True)
    os.kill(pid_of(template), 9)
    with pytest.raises(UnsupportedError, match="cannot be rendered"):
        template.render(HELLO, think=False)
    assert template.render(HELLO, think=False) == "[user] x"
    template.close()


def test_an_idle_process_leaves_and_comes_back() -> None:
    class Impatient(TemplateProcess):
        command = (
            sys.executable,
            "-c",
            "from pedsup.chat.templates import worker as template_worker\n"
            "template_worker.IDLE_SECONDS = 0.05\n"
            "template_worker.main()",
        )

    process = Impatient(PLAIN)
    assert process.render([{"messages": HELLO}]) == ["[user] x"]
    assert process._child is not None
    process._child.process.wait(30)
    assert process.render([{"messages": HELLO}]) == ["[user] x"]
    process.close()


def test_a_known_template_starts_no_process(large_template: str) -> None:
    template = ChatTemplate.from_model(large_template, bos="<bos>")
    assert template.render(HELLO, think=False)
    assert template._program._child is None


def test_a_worker_that_does_not_start_is_an_error() -> None:
    class Missing(TemplateProcess):
        command = (sys.executable, "-c", "raise SystemExit(1)")

    with pytest.raises(PedsupError, match="does not start"):
        Missing(PLAIN).render([{}])


def test_half_a_surrogate_pair_is_text() -> None:
    process = TemplateProcess("{{ '\\ud83e' }}á")
    assert process.render([{}]) == ["\ud83eá"]
    process.close()


def test_half_a_surrogate_pair_never_reaches_the_tokenizer() -> None:
    template = ChatTemplate.from_model("{{ '\\ud83e' }}", allow_unknown=True)
    with pytest.raises(PedsupError, match="cannot be rendered"):
        template.render(HELLO, think=False)
    template.close()


def test_a_long_dialogue_goes_through() -> None:
    """More than a pipe's buffer in both directions."""
    long: list[Message] = [{"role": "user", "content": "¿Cómo está? " * 200_000}]
    template = ChatTemplate.from_model(PLAIN, allow_unknown=True)
    assert template.render(long, think=False) == "[user] " + long[0]["content"]
    template.close()


def test_the_worker_needs_nothing_but_jinja2() -> None:
    assert worker.MEMORY < 256 << 20
    loaded = subprocess.run(
        [sys.executable, "-c", "import pedsup.chat.templates.worker, sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert not {"numpy", "llama_cpp", "click", "torch"} & set(loaded)
