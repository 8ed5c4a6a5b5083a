"""llama.cpp's own converter in one process that forks for each model.

Most of a conversion of a tiny model is the import of torch and transformers (6 s). The process
loads `convert_hf_to_gguf.py` once; for each request a child of it runs the script's own `main()`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path


class Converter:
    """The process, started when it is first needed; it ends with `close` or when the tests do."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._process: subprocess.Popen[str] | None = None

    def _start(self) -> subprocess.Popen[str]:
        env = {k: v for k, v in os.environ.items() if k != "NO_LOCAL_GGUF"}
        return subprocess.Popen(
            [sys.executable, __file__, self._source / "convert_hf_to_gguf.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**env, "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip

    def __call__(self, folder: Path, out: Path, outtype: str = "f32", *options: str) -> Path:
        """Convert a Hugging Face folder, or copy what came of the same one before.

        Args:
            options: more of the script's, such as `--mmproj`.

        Raises:
            AssertionError: the converter failed; what it wrote is the message.
        """
        from pedsup_testing import kept

        # The source's folder is named by its version; the file's name is in what it writes.
        made_by = [str(self._source), kept.digest(self._source / "convert_hf_to_gguf.py")]
        with kept.entry(*made_by, folder.name, kept.digest(folder), outtype, *options) as (
            place,
            there,
        ):
            if not there:
                self._convert(folder, out, outtype, *options)
                shutil.copyfile(out, place)
            shutil.copyfile(place, out)
        return out

    def _convert(self, folder: Path, out: Path, outtype: str, *options: str) -> None:
        arguments = [str(folder), "--outtype", outtype, "--outfile", str(out), *options]
        self._process = self._process or self._start()
        with tempfile.NamedTemporaryFile("r", suffix=".log") as log:
            assert self._process.stdin is not None and self._process.stdout is not None
            print(json.dumps([log.name, *arguments]), file=self._process.stdin, flush=True)
            status = self._process.stdout.readline().strip()
            assert status == "0", f"convert_hf_to_gguf.py: {status}\n{log.read()}"

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()

    def __enter__(self) -> Converter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(script: str) -> None:
    """Answer each line of stdin, a JSON list of a log's name and arguments, with an exit code."""
    import runpy

    # Beside the script lies what it imports, as when it is started as a program.
    sys.path[0] = str(Path(script).parent)
    main = runpy.run_path(script, run_name="converter")["main"]

    for line in sys.stdin:
        log, *arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_convert(main, script, log, arguments))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _convert(main: object, script: str, log: str, arguments: list[str]) -> int:
    to = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(to, 1)
    os.dup2(to, 2)
    sys.argv = [script, *arguments]
    code = 1
    try:
        main()  # type: ignore[operator]
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve(sys.argv[1])
