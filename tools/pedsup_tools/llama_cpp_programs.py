"""llama.cpp's own programs and libmtmd, compiled for the libraries of llama-cpp-python.

    python -m pedsup_tools.llama_cpp_programs programs|pictures|source

The source is the sdist of the same release. libggml and libllama are not compiled again: they are
copied from the package, so that the programs compute with the very bytes that users have.

* `programs` (`make native`): llama-server, llama-quantize and others, the oracle of the tests.
* `pictures` (`make pictures`): libmtmd alone, put into the package. With it, pictures are seen in
  the process.
* `source`: nothing is compiled; llama.cpp's converter lies there.
"""

from __future__ import annotations

import base64
import csv
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Final

from pedsup.engine.vector_units import VERSION
from pedsup_bench.speed.native import native_programs, native_root
from pedsup_tools.llama_cpp import LOCK, build_environment, requirements

ROOT: Final = native_root()
BIN: Final = native_programs()
BUILD: Final = BIN.parent
PROGRAMS: Final = (
    "llama-server", "llama-bench", "llama-quantize", "llama-imatrix", "llama-perplexity",
)  # fmt: skip
MTMD: Final = "libmtmd.dylib" if sys.platform == "darwin" else "libmtmd.so"
OPTIONS: Final = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_ALL_WARNINGS=OFF",
)
BESIDE_THE_LIBRARIES: Final = (
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    f"-DCMAKE_INSTALL_RPATH={'@loader_path' if sys.platform == 'darwin' else '$ORIGIN'}",
    f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={Path(__file__).with_name('llama_cpp_programs.cmake')}",
)
"""Programs and libmtmd find libllama in their own folder, wherever that is."""
_LOADS: Final = (
    "from pedsup.engine.llama_cpp import bindings, mtmd; mtmd.load_mtmd(bindings.load())"
)


def fetch() -> Path:
    """llama.cpp's source tree; the sdist is downloaded with pip where it is not there yet."""
    tree, folder = ROOT / "src", ROOT / "download"
    if (tree / "convert_hf_to_gguf.py").is_file():
        return tree
    for remains in (tree, folder):  # of one that was interrupted
        shutil.rmtree(remains, ignore_errors=True)
    folder.mkdir(parents=True)
    wanted = folder / "wanted.txt"
    wanted.write_text(requirements(LOCK, ["llama-cpp-python"]), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary",
         "llama-cpp-python", "--require-hashes", "-d", folder, "-r", wanted],
        check=True, env=build_environment(os.environ),
    )  # fmt: skip
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (unpacked,) = folder.glob("llama_cpp_python-*/vendor/llama.cpp")
    unpacked.rename(tree)
    shutil.rmtree(folder)
    return tree


def build(targets: Sequence[str]) -> None:
    """Compile programs, or `mtmd`, for the package's libraries; what is there is left alone.

    Raises:
        SystemExit: llama-cpp-python is not installed, or in another version than the source's.
        subprocess.CalledProcessError: CMake or the compiler failed.
    """
    _copy_libraries(package_libraries())
    if all((BIN / (MTMD if name == "mtmd" else name)).is_file() for name in targets):
        return
    env, tree = build_environment(os.environ), fetch()
    folder = str(BUILD)
    configure = ["cmake", "-S", str(tree), "-B", folder, *OPTIONS, *BESIDE_THE_LIBRARIES]
    subprocess.run(configure, check=True, env=env)
    jobs = str(len(os.sched_getaffinity(0)))
    command = ["cmake", "--build", folder, "-j", jobs, "--target", *targets]
    subprocess.run(command, check=True, env=env)


def package_libraries() -> Path:
    """The installed llama-cpp-python's folder of libraries."""
    try:
        found = metadata.distribution("llama-cpp-python")
    except metadata.PackageNotFoundError:
        raise SystemExit("llama-cpp-python is not installed: run `make setup`") from None
    if found.version != VERSION:
        raise SystemExit(f"llama-cpp-python is {found.version}, not {VERSION}: run `make setup`")
    return Path(str(found.locate_file("llama_cpp/lib")))


def _copy_libraries(source: Path) -> None:
    """Bring the package's libraries, without libmtmd, into the programs' folder."""
    BIN.mkdir(parents=True, exist_ok=True)
    for library in source.glob("lib*"):
        if library.name.startswith("libmtmd"):
            continue
        place = BIN / library.name
        if not place.is_file() or place.read_bytes() != library.read_bytes():
            _copy(library, place)


def _copy(source: Path, place: Path) -> None:
    """Never half a library, and never through a link to another one."""
    partial = place.with_name(f"{place.name}.partial")
    shutil.copy(source, partial)
    partial.replace(place)


def add_pictures() -> None:
    """Build libmtmd and put it into the package, as one of its files.

    Raises:
        SystemExit: the package cannot be written, or cannot load it.
    """
    libraries, package = package_libraries(), metadata.distribution("llama-cpp-python")
    library = libraries / MTMD
    if absent := not library.is_file():
        for folder in (libraries, _record(package).parent):
            if not os.access(folder, os.W_OK):
                raise SystemExit(f"{folder} cannot be written: take an environment of your own")
        build(["mtmd"])
        _copy(BIN / MTMD, library)
    if not any(library == Path(str(f.locate())) for f in package.files or ()):
        record_file(package, library)
    if not _loads():
        if absent:
            for damaged in (library, BIN / MTMD):
                damaged.unlink()
        remedy = "was removed again" if absent else "remove it, and run `make pictures` again"
        raise SystemExit(f"{library} cannot be loaded (see above): {remedy}")


def _loads() -> bool:
    """Whether the package's own library and its libmtmd can be loaded."""
    env = {k: v for k, v in os.environ.items() if k != "LLAMA_CPP_LIB_PATH"}
    return subprocess.run([sys.executable, "-c", _LOADS], env=env, check=False).returncode == 0


def record_file(package: metadata.Distribution, file: Path) -> None:
    """Name a file in the RECORD of an installed package, so that pip removes it with the package.

    Raises:
        SystemExit: the package has no RECORD.
    """
    path = _record(package)
    root, content = Path(str(package.locate_file(""))), file.read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    name = file.relative_to(root).as_posix()
    with path.open(encoding="utf-8", newline="") as record:
        rows = [row for row in csv.reader(record) if row and row[0] != name]
    partial = path.with_name("RECORD.partial")
    with partial.open("w", encoding="utf-8", newline="") as record:
        written = csv.writer(record, lineterminator="\n")
        written.writerows([*rows, [name, f"sha256={digest}", len(content)]])
    partial.replace(path)


def _record(package: metadata.Distribution) -> Path:
    """The list of a package's files."""
    for file in package.files or ():
        if file.name == "RECORD" and file.parent.suffix == ".dist-info":
            return Path(str(file.locate()))
    raise SystemExit(f"{package.name} was not installed by pip: run `make setup`")


@contextmanager
def _alone() -> Iterator[None]:
    """Wait for another one: all checkouts of a user share the source and CMake's folder."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with (ROOT / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str]) -> None:
    """Entry point."""
    with _alone():
        match arguments:
            case ["programs"]:
                build(PROGRAMS)
            case ["pictures"]:
                add_pictures()
                print("llama-cpp-python sees pictures now: pedsup-run MODEL --image FILE")
            case ["source"]:
                fetch()
            case _:
                raise SystemExit("wanted: programs, pictures or source")


if __name__ == "__main__":
    main(sys.argv[1:])
