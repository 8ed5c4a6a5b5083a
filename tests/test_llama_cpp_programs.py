"""llama.cpp's programs and libmtmd beside the installed llama-cpp-python."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
from importlib import metadata
from pathlib import Path

import pytest
from pedsup_testing import native
from pedsup_testing.home import environment

from pedsup.engine.vector_units import reinstall
from pedsup_tools.llama_cpp_programs import package_libraries, record_file

FINDS_NO_LIBMTMD = """
import sys
from pedsup.engine.llama_cpp import bindings, mtmd
from pedsup.errors import MissingDependencyError
lib = bindings.load()
lib._base_path = sys.argv[1]
try:
    mtmd.load_mtmd(lib)
except MissingDependencyError as error:
    print(error)
"""


@pytest.mark.parametrize("packaged", [False, True])
def test_where_libmtmd_is_missing_the_advice_can_be_followed(
    packaged: bool, tmp_path: Path
) -> None:
    env = environment(tmp_path)
    env.pop("LLAMA_CPP_LIB_PATH", None)
    if packaged:
        env["LLAMA_CPP_LIB_PATH"] = str(package_libraries())
    done = subprocess.run(
        [sys.executable, "-c", FINDS_NO_LIBMTMD, str(tmp_path)],
        capture_output=True, text=True, check=True, env=env,
    )  # fmt: skip
    assert "--engine server" in done.stdout
    for command in ("make pictures", reinstall()):
        assert (command in done.stdout) is not packaged


@pytest.mark.slow
def test_pip_removes_a_file_that_was_put_into_a_package(tmp_path: Path) -> None:
    """pip itself is asked: what its RECORD does not name would outlive the package."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    info, library = site / "thing-1.0.dist-info", site / "thing/lib/libmtmd.so"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    (info / "INSTALLER").write_text("pip\n")
    names = [f"{info.name}/{name}" for name in ("METADATA", "INSTALLER", "RECORD")]
    # As installers may leave it: a name that needs quotes, no end of the last line.
    odd = site / 'thing/"odd", in part.txt'
    odd.parent.mkdir()
    odd.touch()
    rows = ['"thing/""odd"", in part.txt",,', *(f"{name},," for name in names)]
    (info / "RECORD").write_text("\n".join(rows))
    library.parent.mkdir()
    for content in (b"an older one", b"\x7fELF"):
        library.write_bytes(content)
        record_file(metadata.Distribution.at(info), library)
    (recorded,) = (f for f in metadata.Distribution.at(info).files or () if f.name == library.name)
    assert recorded.size == 4
    pip = [sys.executable, "-m", "pip", "--python", python]
    subprocess.run([*pip, "uninstall", "--yes", "--quiet", "thing"], check=True)
    assert not any(path.exists() for path in (library, odd, info))


def test_a_package_that_pip_did_not_install_is_not_written_to(tmp_path: Path) -> None:
    info = tmp_path / "thing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    with pytest.raises(SystemExit, match="thing was not installed by pip"):
        record_file(metadata.Distribution.at(info), tmp_path / "lib.so")


INTERRUPTED = """
import sys
from pathlib import Path
from pedsup_tools import llama_cpp_programs
for name in ("src/ggml", "download/llama_cpp_python-0"):  # what a killed one may leave
    (llama_cpp_programs.ROOT / name).mkdir(parents=True)
sdist = Path(sys.argv[1])
def download(command, **_):
    (Path(command[command.index("-d") + 1]) / sdist.name).write_bytes(sdist.read_bytes())
llama_cpp_programs.subprocess.run = download
llama_cpp_programs.main(["source"])
llama_cpp_programs.main(["source"])
"""
"""Only pip is left out: what it downloads is an archive of one file."""


def test_an_interrupted_download_is_begun_again(tmp_path: Path) -> None:
    converter = tmp_path / "convert_hf_to_gguf.py"
    converter.write_text("# the converter")
    sdist, root = tmp_path / "llama_cpp_python-0.tar.gz", tmp_path / "a folder"
    with tarfile.open(sdist, "w:gz") as tar:
        tar.add(converter, "llama_cpp_python-0/vendor/llama.cpp/convert_hf_to_gguf.py")
    subprocess.run(
        [sys.executable, "-c", INTERRUPTED, sdist], check=True,
        env={**environment(tmp_path), "PEDSUP_NATIVE": str(root)},
    )  # fmt: skip
    found = {path.relative_to(root).as_posix() for path in root.rglob("*")}
    assert found == {"lock", "src", "src/convert_hf_to_gguf.py"}


def test_the_programs_compute_with_the_libraries_of_the_package(native_tool) -> None:  # type: ignore[no-untyped-def]
    native_tool("llama-server")
    for name in ("ggml-base", "ggml-cpu", "ggml", "llama"):
        ours, theirs = (
            next(folder.glob(f"lib{name}.*")).read_bytes()
            for folder in (package_libraries(), native.BIN)
        )
        assert ours == theirs, f"lib{name}: run `make native`"
