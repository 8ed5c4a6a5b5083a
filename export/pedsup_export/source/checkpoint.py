"""A Hugging Face checkpoint folder: config.json and safetensors, one file or shards with an index.

Every tensor becomes a `TensorSource`, which gives float32 rows whatever the storage is, so
that the code above never sees a dtype. Nothing is read but headers until rows are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from pedsup.errors import BadFileError, UnsupportedError
from pedsup.files.direct_io import DirectFile, sha256_range
from pedsup.files.source import read_json_object
from pedsup_export.source.nf4 import COMPANIONS, STATE_SUFFIX, open_4bit
from pedsup_export.source.safetensors_file import SafetensorsFile
from pedsup_export.source.tensor_source import PlainSource, TensorSource

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
MAX_JSON: Final = 64 << 20
_INCOMPLETE: Final = "download the whole checkpoint again (all shards and the index)"


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; build it with `Checkpoint.open`.

    Attributes:
        config: config.json as it is.
        tensors: sources by tensor name; the parts of a 4-bit weight count as one tensor.
        files: config, index and shards, in that order.
        shards: the opened weights, in the order of their names.
    """

    folder: Path
    config: Mapping[str, object]
    tensors: Mapping[str, TensorSource] = field(repr=False)
    files: tuple[Path, ...]
    shards: tuple[SafetensorsFile, ...] = field(repr=False)
    listed: frozenset[str] = field(default=frozenset(), repr=False)
    """Tensor names of the index; a head or table among them may be in no shard."""

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Open a folder and check headers, index and names against each other.

        Raises:
            BadFileError: a file is missing, damaged, or disagrees with the index.
            UnsupportedError: PyTorch pickles only, or a quantization other than bitsandbytes 4-bit.
        """
        _check_folder(folder)
        config = read_json(folder / "config.json", "the model's configuration")
        _check_quantization(config, folder / "config.json")
        index = folder / INDEX
        # The order of transformers: a single file wins over an index.
        if (folder / SINGLE).exists():
            paths, listed = [folder / SINGLE], None
        elif index.exists():
            listed = read_weight_map(index)
            paths = [folder / shard for shard in sorted(set(listed.values()))]
        else:
            raise _no_weights(folder)
        shards = tuple(SafetensorsFile(path) for path in paths)
        by_tensor = _by_tensor(shards)
        if listed is not None:
            _compare_index(listed, by_tensor, index)
        files = (folder / "config.json", *([index] if listed is not None else []), *paths)
        return cls(
            folder, config, _sources(by_tensor, folder), files, shards, frozenset(listed or ())
        )

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by tensor name."""
        return {name: source.shape for name, source in self.tensors.items()}

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of all tensors on disk."""
        return sum(entry.n_bytes for shard in self.shards for entry in shard.tensors.values())

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {}

    def digest(self) -> dict[str, str]:
        """Hex SHA-256 of every file, by file name; read once, then remembered."""
        opened = {shard.path: shard for shard in self.shards}
        for path in self.files:
            if path.name in self._digests:
                continue
            if path in opened:
                self._digests[path.name] = opened[path].sha256()
                opened[path].require_unchanged(self._digests[path.name])
            else:
                size = path.stat().st_size
                self._digests[path.name] = sha256_range(DirectFile(path), 0, size)
        return dict(self._digests)


def read_json(path: Path, what: str) -> dict[str, object]:
    """A JSON object from a file of bounded size.

    Raises:
        BadFileError: missing, too large, not JSON, or not an object.
    """
    if not path.is_file():
        raise BadFileError(
            f"{what} is missing", where=path, remedy="download the complete model folder again"
        )
    remedy = "the file is damaged: download it again"
    return read_json_object(path, what, MAX_JSON, remedy=remedy)


def read_weight_map(index: Path) -> dict[str, str]:
    """`weight_map` of an index: tensor name to shard, every shard a file beside the index.

    Raises:
        BadFileError: not an index, a shard outside the folder, or shards that are not there.
    """
    value = read_json(index, "the index of the shards").get("weight_map")
    if not isinstance(value, dict) or not value:
        raise BadFileError("the index has no 'weight_map'", where=index, remedy=_INCOMPLETE)
    for name, shard in value.items():
        if (
            not isinstance(shard, str)
            or not shard.endswith(".safetensors")
            or any(c in shard for c in "/\\\0")
        ):
            raise BadFileError(
                f"the index places '{name}' in {shard!r}",
                where=index,
                wanted="the plain name of a .safetensors file in the same folder",
                remedy="do not use this checkpoint: its index points outside the folder",
            )
    missing = sorted({s for s in value.values() if not (index.parent / s).is_file()})
    if missing:
        n = len(set(value.values()))
        raise BadFileError(
            f"{len(missing)} of {n} shards are missing: {', '.join(missing[:4])}",
            where=index,
            wanted="every shard that the index names",
            remedy=_INCOMPLETE,
        )
    return value


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise BadFileError(
            "there is no such folder",
            where=folder,
            wanted="a Hugging Face model folder",
            remedy="check the path; download the model first",
        )
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise BadFileError(
            "this is a LoRA adapter, not a base model",
            where=folder,
            wanted="the folder of the base model",
            remedy="give the adapter with --adapter and its base with --base",
        )


def _no_weights(folder: Path) -> BadFileError | UnsupportedError:
    names = sorted(p.name for p in folder.iterdir())
    if any(n.endswith((".bin", ".pt", ".pth")) for n in names):
        return UnsupportedError(
            "PyTorch pickle weights only, which can run code when they are opened",
            where=folder,
            wanted=f"{SINGLE}, or {INDEX} and its shards",
            remedy="on a machine with transformers: AutoModelForCausalLM.from_pretrained(DIR)"
            ".save_pretrained(NEW_DIR), then use NEW_DIR",
        )
    shards = [n for n in names if n.endswith(".safetensors")]
    return BadFileError(
        f"shards without their index {INDEX}" if shards else "no weights in this folder",
        where=folder,
        wanted=f"{SINGLE}, or {INDEX} and its shards",
        remedy=_INCOMPLETE,
    )


def _check_quantization(config: Mapping[str, object], path: Path) -> None:
    """Refuse every quantization other than bitsandbytes 4-bit, by name."""
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict):
        return
    method = quantization.get("quant_method", "bitsandbytes")
    eight = bool(quantization.get("load_in_8bit") or quantization.get("_load_in_8bit"))
    if method != "bitsandbytes" or eight:
        raise UnsupportedError(
            f"a base quantized with {'bitsandbytes 8-bit' if eight else method}",
            where=path,
            wanted="16-bit weights, or bitsandbytes 4-bit (NF4, FP4)",
            remedy="export from the bf16 checkpoint of this model",
        )


def _by_tensor(files: Sequence[SafetensorsFile]) -> dict[str, SafetensorsFile]:
    result: dict[str, SafetensorsFile] = {}
    for file in files:
        for name in file.tensors:
            if name in result:
                raise BadFileError(
                    f"tensor '{name}' is in two shards",
                    where=f"{result[name].path.name} and {file.path.name}",
                    remedy=_INCOMPLETE,
                )
            result[name] = file
    return result


_MAY_BE_SHARED: Final = ("lm_head.weight", "embed_tokens.weight")


def _compare_index(
    listed: Mapping[str, str], by_tensor: Mapping[str, SafetensorsFile], index: Path
) -> None:
    for name, shard in listed.items():
        if name not in by_tensor and name.endswith(_MAY_BE_SHARED):
            continue  # the index names both of two tied tensors; `embeddings.resolve` decides
        if name not in by_tensor or by_tensor[name].path.name != shard:
            raise BadFileError(
                f"tensor '{name}' is not in its shard {shard}", where=index, remedy=_INCOMPLETE
            )
    extra = sorted(by_tensor.keys() - listed.keys())
    if extra:
        raise BadFileError(
            f"{len(extra)} tensors that the index does not name, first '{extra[0]}'",
            where=by_tensor[extra[0]].path,
            wanted="shards and index of one checkpoint",
            remedy=_INCOMPLETE,
        )


_FOREIGN: Final = {
    ".SCB": "bitsandbytes 8-bit",
    ".weight_format": "bitsandbytes 8-bit",
    ".qweight": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors",
    ".weight_scale_inv": "fp8",
}


def _sources(by_tensor: Mapping[str, SafetensorsFile], folder: Path) -> dict[str, TensorSource]:
    """One source per weight; the companions of 4-bit weights are folded into theirs."""
    four_bit = {n.partition(STATE_SUFFIX)[0]: n for n in by_tensor if STATE_SUFFIX in n}
    parts = {f"{w}.{part}" for w in four_bit for part in COMPANIONS} | set(four_bit.values())
    result: dict[str, TensorSource] = {}
    for name, file in by_tensor.items():
        kind = next((k for suffix, k in _FOREIGN.items() if name.endswith(suffix)), None)
        dtype = file.entry(name).dtype
        if kind is not None or dtype.startswith(("F8_", "F6_")) or dtype == "F4":
            raise UnsupportedError(
                f"weights quantized with {kind or dtype}",
                where=f"{file.path}: {name}",
                wanted="16-bit weights, or bitsandbytes 4-bit (NF4, FP4)",
                remedy="export from the bf16 checkpoint of this model",
            )
        if name in four_bit:
            result[name] = open_4bit(name, four_bit[name], by_tensor)
        elif name not in parts:
            result[name] = PlainSource(file, file.entry(name))
    lost = sorted(four_bit.keys() - result.keys())
    if lost:
        raise BadFileError(
            f"the packed weight '{lost[0]}' is missing beside its quantization state",
            where=folder,
            remedy=_INCOMPLETE,
        )
    return result
