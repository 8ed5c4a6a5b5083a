"""What the modules of this package give, and what they share. Source: llama.cpp's converter
(conversion/base.py, `MmprojModel`) and its loader (tools/mtmd/clip.cpp)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, replace
from math import prod
from typing import Final

from pedsup.errors import BadFileError, UnsupportedError
from pedsup.gguf_file import ValueType
from pedsup.gguf_file.ggml_types import BY_NAME, GGMLType
from pedsup_export.arch.base import Config, Dropped, OutputTensor, Shape, check_shape, name_map
from pedsup_export.gguf.header import KV, array, boolean, f32, u32
from pedsup_export.projector.processor import channels
from pedsup_export.source.checkpoint import Checkpoint
from pedsup_export.source.tensor_source import PlainSource

TYPES: Final[Mapping[str, int]] = {"BF16": 32, "F16": 1, "Q8_0": 7}
"""Type of the matrices -> llama.cpp's number of the file type."""
MAX_LAYERS: Final = 128
"""Layers for which the converter has names."""
BOUNDS: Final = (".input_max", ".input_min", ".output_max", ".output_min")
"""Suffixes of what clips a layer's input and output; an infinite one clips nothing."""
_SUFFIXES: Final = (".weight", ".bias", *BOUNDS)


@dataclass(frozen=True)
class Towers:
    """The towers of one checkpoint, ready to be planned.

    Attributes:
        entries: the `clip.*` metadata, in the converter's order.
        tensors: in the order of the checkpoint.
        kept_wide: tensor -> its type where the converter never takes that of the file.
        left_out: tensors of the towers that no file holds.
        notes: what the user should know.
    """

    entries: tuple[KV, ...]
    tensors: tuple[OutputTensor, ...]
    kept_wide: Mapping[str, str]
    vision: bool
    audio: bool
    left_out: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()

    def type_of(self, tensor: OutputTensor, file_type: str) -> GGMLType:
        """The type that the converter gives a tensor (`ModelBase.prepare_tensors`)."""
        wide = self.kept_wide.get(tensor.name)
        if wide is None and tensor.name == "v.patch_embd.weight":
            wide = "F16" if file_type == "F16" else "F32"
        plain = (
            len(tensor.shape) <= 1
            or not tensor.name.endswith(".weight")
            or tensor.name.endswith(("_norm.weight", ".position_embd.weight"))
        )
        kind = BY_NAME["F32" if plain else wide or file_type]
        return BY_NAME["F16"] if tensor.ggml_shape[0] % kind.block_size else kind


@dataclass(frozen=True)
class Placer:
    """How the tensors of a family find their names.

    Attributes:
        plain: name in the checkpoint -> the name that gguf-py's table knows, None for no place.
        make: name, shape and source -> the output tensor.
        expected: name -> its shape in the checkpoint, where it is known.
        required: names without which llama.cpp cannot load the file.
        left_out: name in the checkpoint -> why no file holds it, None where it does.
    """

    plain: Callable[[str], str | None]
    make: Callable[[str, Shape, str], OutputTensor]
    expected: Mapping[str, Shape]
    required: frozenset[str]
    left_out: Callable[[str], str | None]


def _twice(source: str, other: str | None) -> BadFileError:
    return BadFileError(
        f"'{source}' and '{other}' are the same part of a tower",
        wanted="each part once",
        remedy="download the base again",
    )


def place(
    placer: Placer, shapes: Mapping[str, Shape] | None, names: Iterable[str]
) -> tuple[tuple[OutputTensor, ...], tuple[Dropped, ...]]:
    """Place the tensors of the towers.

    Args:
        shapes: None for towers that are known by their configuration alone: then all of them follow
            from it, under the file's names.
        names: which of `shapes` belong to them.

    Raises:
        UnsupportedError: a tensor has no place.
        MismatchError: a tensor is not as config.json says.
        BadFileError: one is missing, or two have one name.
    """
    if shapes is None:
        return tuple(placer.make(n, s, n) for n, s in placer.expected.items()), ()
    look_up = name_map("clip", MAX_LAYERS, _SUFFIXES)
    placed: dict[str, OutputTensor] = {}
    dropped, unknown = [], []
    for source in names:
        if (reason := placer.left_out(source)) is not None:
            dropped.append(Dropped(source, shapes[source], reason))
            continue
        plain = placer.plain(source)
        name = look_up(plain) if plain is not None else None
        if name is None:
            unknown.append(source)
            continue
        if (wanted := placer.expected.get(name)) is not None:
            check_shape(source, shapes[source], wanted)
        if name in placed:
            raise _twice(source, placed[name].source)
        placed[name] = placer.make(name, shapes[source], source)
    if unknown:
        shown = ", ".join(unknown[:3]) + (", ..." if unknown[3:] else "")
        raise UnsupportedError(f"{len(unknown)} of them have no place in it ({shown})")
    _refuse_incomplete(placer.required - placed.keys())
    return tuple(placed.values()), tuple(dropped)


def _refuse_incomplete(missing: Set[str]) -> None:
    if missing:
        raise BadFileError(
            f"the towers of the base lack {len(missing)} tensors: {', '.join(sorted(missing)[:3])}",
            wanted="a whole checkpoint",
            remedy="download the base again, or give --mmproj off",
        )


def flattened(checkpoint: Checkpoint, tensors: Iterable[OutputTensor]) -> Checkpoint:
    """The checkpoint with tables and kernels of more than two axes as rows of the file's rows."""
    sources = dict(checkpoint.tensors)
    for tensor in tensors:
        source = sources[str(tensor.source)]
        if len(source.shape) > 2 and isinstance(source, PlainSource):
            width = tensor.shape[-1]
            entry = replace(source.entry, shape=(prod(source.shape) // max(1, width), width))
            sources[source.name] = PlainSource(source.file, entry)
    return replace(checkpoint, tensors=sources)


def layers(prefix: str, n_layers: int, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The same parts in every layer: full name -> shape."""
    return {
        f"{prefix}.blk.{i}.{part}": shape for i in range(n_layers) for part, shape in shapes.items()
    }


def text_width(config: Mapping[str, object]) -> int:
    """Width of the text model's embeddings, which the projector ends in."""
    text = Config(config).mapping("text_config")
    return Config({**config, **text}).integer("hidden_size", high=1 << 20)


def tower_config(config: Mapping[str, object], key: str, model_type: str) -> Config:
    """A tower's part of config.json.

    Raises:
        UnsupportedError: there is none, or it is of another type.
    """
    tower = Config(Config(config).mapping(key))
    if not tower.values:
        raise UnsupportedError(f"config.json has no '{key}'")
    tower.one_of("model_type", (model_type,), default=model_type, what="a tower")
    return tower


def vision_entries(
    vision: Config, processor: Mapping[str, object], *, width: int, image_size: int
) -> list[KV]:
    """The entries that every vision tower has."""
    return [
        boolean("clip.has_vision_encoder", True),
        u32("clip.vision.projection_dim", width),
        u32("clip.vision.image_size", image_size),
        u32("clip.vision.patch_size", vision.integer("patch_size", high=1024)),
        u32("clip.vision.embedding_length", vision.integer("hidden_size", high=1 << 16)),
        u32("clip.vision.feed_forward_length", vision.integer("intermediate_size", high=1 << 20)),
        u32("clip.vision.block_count", vision.integer("num_hidden_layers", high=MAX_LAYERS)),
        u32("clip.vision.attention.head_count", vision.integer("num_attention_heads", high=4096)),
        array("clip.vision.image_mean", ValueType.FLOAT32, channels(processor, "image_mean")),
        array("clip.vision.image_std", ValueType.FLOAT32, channels(processor, "image_std")),
    ]


def epsilon(tower: Config, name: str) -> KV:
    """The entry that the converter writes, from a key that Gemma 4's towers do not have."""
    return f32(f"clip.{name}.attention.layer_norm_epsilon", tower.number("layer_norm_eps", 1e-6))


def require(tower: Config, key: str, wanted: float, *, where: str) -> None:
    """Refuse a number that llama.cpp's graph has built in.

    Raises:
        UnsupportedError: the tower has another one.
    """
    found = tower.number(key, float(wanted))
    if abs(found - wanted) > abs(wanted) * 1e-6:
        raise UnsupportedError(
            f"{where} with '{key}' {found:g}", wanted=f"{wanted:g}: llama.cpp computes nothing else"
        )
