"""The three commands of the usual export, as people run them, and where their programs lie.

    PEFT merge_and_unload, save_pretrained     -> a 16-bit Hugging Face folder
    convert_hf_to_gguf.py --outtype bf16       -> a 16-bit GGUF
    llama-quantize                             -> the quantized GGUF

The programs are those of the llama.cpp that the Python bindings pin (`make native`). Run as a
script, this module is the first step, or the third one where `llama-quantize` is not built.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.cli.border import border
from pedsup.errors import EngineError, MissingDependencyError, UsageError
from pedsup_maintain import child_environment
from pedsup_tools.llama_cpp_programs import BIN, ROOT

TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def converter() -> Path:
    """llama.cpp's `convert_hf_to_gguf.py`.

    Raises:
        MissingDependencyError: it is not here.
    """
    path = ROOT / "src" / "convert_hf_to_gguf.py"
    if not path.is_file():
        raise MissingDependencyError(
            "llama.cpp's converter is not here", where=path, remedy="run `make native`"
        )
    return path


def vocabulary_file() -> Path:
    """The GGUF with Gemma 4's vocabulary; it may be absent."""
    return ROOT / "src" / "models" / "ggml-vocab-gemma-4.gguf"


@dataclass(frozen=True)
class Step:
    """One command to measure."""

    name: str
    command: tuple[str | Path, ...]
    reads: tuple[Path, ...]
    """Its input folders or files, to drop from the page cache before it starts."""


@dataclass(frozen=True)
class Job:
    """What is exported, and where to."""

    base: Path
    adapter: Path
    out: Path
    """Folder for the result and whatever lies beside it."""
    quant: str
    threads: int


def peer_steps(job: Job) -> list[Step]:
    """The usual pipeline; its two intermediate models stay until the end, as they do for people.

    Raises:
        MissingDependencyError: llama.cpp's sources are not here.
    """
    merged, wide = job.out / "merged", job.out / "merged-bf16.gguf"
    result = job.out / f"peer-{job.quant}.gguf"
    here: tuple[str | Path, ...] = (sys.executable, "-m", "pedsup_maintain.exporting.steps")
    tool = BIN / "llama-quantize"
    quantize: tuple[str | Path, ...] = (tool,) if tool.is_file() else (*here, "quantize")
    return [
        Step(
            "PEFT merge, save",
            (*here, "merge", job.base, job.adapter, merged),
            (job.base, job.adapter),
        ),
        Step(
            "convert_hf_to_gguf bf16",
            (sys.executable, converter(), merged, "--outtype", "bf16", "--outfile", wide),
            (merged,),
        ),
        Step(
            f"{'llama-quantize' if tool.is_file() else 'llama_model_quantize'} {job.quant}",
            (*quantize, wide, result, job.quant, str(job.threads)),
            (wide,),
        ),
    ]


def our_step(job: Job) -> Step:
    """The same with pedsup: one command."""
    command: tuple[str | Path, ...] = (
        sys.executable, "-m", "pedsup_export", "run", "--base", job.base, "--adapter", job.adapter,
        "--quant", job.quant, "--out", job.out / f"pedsup-{job.quant}.gguf", "--force",
        "--threads", str(job.threads),
    )  # fmt: skip
    return Step(f"pedsup-export run {job.quant}", command, (job.base, job.adapter))


def environment(threads: int, temporary: Path) -> dict[str, str]:
    """The environment of every measured command: as many threads, temporary files in our sight."""
    found = {k: v for k, v in child_environment().items() if k != "NO_LOCAL_GGUF"}
    return {
        **found,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TMPDIR": str(temporary),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def merge(base: Path, adapter: Path, out: Path) -> None:
    """PEFT's merge in bf16, as its documentation shows it; tokenizer files are copied."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    merged.save_pretrained(out)
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copy(base / name, out / name)


def quantize_with_bindings(source: Path, out: Path, quant: str, threads: int) -> None:
    """`llama_model_quantize` through llama-cpp-python, where the program is not built.

    Raises:
        EngineError: llama.cpp reports a failure.
    """
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quant}")
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), params)
    if code:
        raise EngineError(f"llama_model_quantize returned {code}", where=source)


def _main(arguments: Sequence[str]) -> None:
    match list(arguments):
        case ["merge", base, adapter, out]:
            merge(Path(base), Path(adapter), Path(out))
        case ["quantize", source, out, quant, threads]:
            quantize_with_bindings(Path(source), Path(out), quant, int(threads))
        case _:
            raise UsageError("usage: merge BASE ADAPTER OUT | quantize GGUF OUT TYPE THREADS")


if __name__ == "__main__":
    border(lambda: _main(sys.argv[1:]))
