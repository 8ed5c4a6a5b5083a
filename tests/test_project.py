"""What the project promises about itself: layout, direction of imports, documented options."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest
from pedsup_testing.slowly import slow_but

ROOT = Path(__file__).parents[1]
ROOTS = {
    "pedsup": ROOT / "runtime",
    "pedsup_export": ROOT / "export",
    "pedsup_train": ROOT / "train",
    "pedsup_bench": ROOT / "bench",
}


def imported(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_the_phone_s_package_imports_no_other_stage_and_nothing_heavy() -> None:
    heavy = {"numpy", "torch", "transformers", "gguf", "peft", *ROOTS} - {"pedsup"}
    for path in sorted((ROOTS["pedsup"] / "pedsup").rglob("*.py")):
        assert not imported(path) & heavy, path


def test_the_roots_are_no_packages() -> None:
    for root in ROOTS.values():
        assert not (root / "__init__.py").exists()


@pytest.mark.parametrize("name", slow_but(["pedsup"], ROOTS))
def test_importing_has_no_effects(name: str, tmp_path: Path) -> None:
    """Every module imports silently, without a file, and without the heavy libraries."""
    modules = [
        ".".join(p.relative_to(ROOTS[name]).with_suffix("").parts).removesuffix(".__init__")
        for p in sorted((ROOTS[name] / name).rglob("*.py"))
        if p.name != "__main__.py"
    ]
    code = (
        f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\n"
        "print(sorted({'torch', 'transformers', 'peft', 'llama_cpp'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cli", ["pedsup.cli.main", "pedsup_export.cli", "pedsup_bench.cli"])
def test_help_waits_for_no_heavy_package(cli: str) -> None:
    code = (
        f"import contextlib, sys, {cli}\n"
        "sys.argv[1:] = ['--help']\n"
        f"with contextlib.suppress(SystemExit): {cli}.main()\n"
        "print(sorted({'numpy', 'numba', 'gguf'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout and done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("stage", ["pedsup_export", "pedsup_bench"])
def test_the_list_of_commands_says_what_each_command_s_help_says(stage: str) -> None:
    """It is read from the source: importing every command for it would take seconds."""
    group = importlib.import_module(f"{stage}.cli").cli
    context = click.Context(group)
    shown = dict(group.summaries(context))
    assert list(shown) == group.list_commands(context)
    for name, text in shown.items():
        assert text == group.get_command(context, name).get_short_help_str(limit=1000)


def options(command: click.Command) -> set[str]:
    return {
        name
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in parameter.opts
        if name.startswith("--")
    }


def test_the_export_page_lists_every_option() -> None:
    from pedsup_export.cli import cli

    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    table = page.partition("## Options")[2].partition("\n## ")[0]
    documented = set(re.findall(r"`(--[a-z0-9-]+)`", table))
    command = cli.get_command(click.Context(cli), "run")
    assert command is not None
    assert documented == options(command) - {"--help"}


def test_the_readme_s_tree_names_folders_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.partition("## Folders")[2].partition("```")[2].partition("```")[0]
    named = [line.split()[0] for line in tree.strip().splitlines()]
    assert named
    for name in named:
        assert (ROOT / name).exists(), name


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def without_code(text: str) -> str:
    """Fenced blocks and code spans hold no links and no headings."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    fenced = re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.S | re.M)
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.+?) *$", fenced, re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.append(f"{slug}-{n}" if (n := found.count(slug)) else slug)
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_and_anchor_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^()\s]+)\)", without_code(page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), f"{page.name}: no file for {target}"
        assert file.is_relative_to(ROOT), f"{page.name}: {target} leaves the repository"
        assert not anchor or anchor in anchors(file), f"{page.name}: no heading for {target}"


def test_the_index_links_every_page_and_the_readme_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    linked = re.findall(r"^\d+\. \[[^\]]+\]\(([\w-]+\.md)\): ", index, re.MULTILINE)
    pages = {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"}
    assert sorted(linked) == sorted(pages)
    assert "](docs/README.md)" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("page", ["SECURITY.md", "docs/threat-model.md", "docs/signing.md"])
def test_each_test_that_holds_a_promise_exists(page: str) -> None:
    """A file (`test_x.py`, or `test_x` for one of tests/runtime/serve) or a test by its name."""
    text = (ROOT / page).read_text(encoding="utf-8")
    files = list((ROOT / "tests").rglob("test_*.py"))
    tests = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    known = tests | {file.stem for file in files if file.parent.name == "serve"}
    paths = [str(file.relative_to(ROOT)) for file in files]
    for name in re.findall(r"`([\w/]*test_\w+(?:\.py)?)`", text):
        if name.endswith(".py"):
            assert any(path.endswith("/" + name) or path == name for path in paths), name
        else:
            assert name in known, name
    for file in re.findall(r"`((?:tests|runtime|export|tools|bench|train)/[\w/.-]+)`", text):
        assert (ROOT / file).exists(), file


@pytest.mark.slow
def test_the_wheel_holds_four_packages_and_their_data(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("pedsup-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.partition("/")[0] for n in names if ".dist-info" not in n} == set(ROOTS)
    for root in ROOTS:
        assert f"{root}/py.typed" in names
    assert any(n.startswith("pedsup_train/data/") and n.endswith(".jsonl") for n in names)
