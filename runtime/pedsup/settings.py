"""The settings of `pedsup-run`: defaults, then a TOML file, then the command line."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args, get_origin, get_type_hints

from pedsup.engine.api import DEFAULT_DRAFT_MAX
from pedsup.errors import BadFileError, UsageError
from pedsup.files.json_file import read_bounded
from pedsup.files.paths import config_folder
from pedsup.messages import Message, message, reason_of

FILE: Final = "settings.toml"
MAX_BYTES: Final = 1 << 20
Origin: TypeAlias = Literal["command line", "settings file", "a program", "tuned", "default"]
"""Where a value came from; the earlier wins."""


@dataclass(frozen=True)
class Settings:
    """Each field is a key of the settings file and an option of the command line.

    None means: let the model, or the machine, decide.
    """

    engine: Literal["auto", "inprocess", "server"] = "auto"
    ctx: int | None = None
    """Tokens; None takes the largest that fits, up to 8192."""
    threads: int | None = None
    threads_batch: int | None = None
    """For reading prompts; None takes as many as for decoding."""
    pin: Literal["auto", "on", "off"] = "auto"
    """Keep the threads on the big cores."""
    batch: int = 512
    ubatch: int = 512
    extra_buffers: Literal["auto", "on", "off"] = "auto"
    mmap: bool = True
    tuned: bool = True
    """Use what `pedsup-run tune` measured for what is not given."""
    governor: Literal["auto", "on", "off"] = "auto"
    adapter: str | None = None
    """The GGUF of a LoRA adapter, applied to the model as it runs."""
    draft: str = "off"
    """'off', 'lookup' or the path of a draft model; all but 'off' choose `llama-server`."""
    draft_max: int = DEFAULT_DRAFT_MAX
    temp: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    max_tokens: int | None = None
    think: Literal["shown", "hidden", "off"] = "shown"
    think_budget: int | None = None
    system: str | None = None
    lang: Literal["en", "es"] | None = None
    history: bool = True
    history_dir: str | None = None
    cache: bool = True
    """Keep the read system prompt on disk, so that the next start does not read it again."""
    allow_template: bool = False
    allow_paging: bool = False
    strict: bool = False
    """Run only models of the architectures that pedsup can check."""
    require_signature: bool = False
    """Run only models signed by a trusted key."""
    verify: bool = False
    """Read the whole model file at every start, not only at its first."""


_LIMITS: Final[dict[str, tuple[float, float]]] = {
    "ctx": (64, 1 << 22),
    "threads": (1, 512),
    "threads_batch": (1, 512),
    "batch": (1, 1 << 16),
    "ubatch": (1, 1 << 16),
    "draft_max": (1, 64),
    "temp": (0.0, 5.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 1 << 20),
    "seed": (0, (1 << 32) - 1),
    "max_tokens": (1, 1 << 22),
    "think_budget": (0, 1 << 22),
}


def load_settings(path: Path | None, overrides: Mapping[str, Any]) -> Settings:
    """Settings from a file (the user's own when None; it may be absent) and the command line.

    Args:
        overrides: by field name; None values do not override.

    Raises:
        UsageError: the file is missing or no TOML, has an unknown option, or a bad value.
    """
    return load_with_origins(path, overrides)[0]


def load_with_origins(
    path: Path | None, overrides: Mapping[str, Any]
) -> tuple[Settings, dict[str, Origin]]:
    """`load_settings`, and where each value that is no default came from."""
    settings = Settings()
    origins: dict[str, Origin] = {}
    file = path or config_folder() / FILE
    if path is not None or file.is_file():
        values = _read(file)
        settings = from_mapping(values, where=file)
        origins |= dict.fromkeys(values, "settings file")
    given = {name: value for name, value in overrides.items() if value is not None}
    origins |= dict.fromkeys(given, "command line")
    checked = {n: _checked(n, v, message("the command line")) for n, v in given.items()}
    return replace(settings, **checked), origins


def given_names(settings: Settings) -> dict[str, Origin]:
    """What was given, for settings made in a program: the values that are no default."""
    default = Settings()
    names = (field.name for field in fields(Settings))
    return {n: "a program" for n in names if getattr(settings, n) != getattr(default, n)}


def from_mapping(values: Mapping[str, Any], *, where: object) -> Settings:
    """Checked settings from parsed TOML."""
    known = {field.name for field in fields(Settings)}
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            raise UsageError(
                message("unknown option '{name}'", name=name),
                where=where,
                wanted=message("did you mean '{name}'?", name=near[0])
                if near
                else message("one of: {names}", names=", ".join(sorted(known))),
                remedy="correct the name in the settings file, or remove the line",
            )
    return Settings(**{name: _checked(name, value, where) for name, value in values.items()})


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bounded(file, "the settings file", MAX_BYTES).decode("utf-8-sig"))
    except BadFileError as error:
        raise UsageError(error.found, where=file, remedy=error.remedy) from error
    except RecursionError as error:
        raise UsageError(message("the settings file is nested too deeply"), where=file) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            message("the settings file is not valid TOML: {reason}", reason=reason_of(error)),
            where=file,
            wanted="lines like: temp = 0.7",
        ) from error


def _checked(name: str, value: Any, where: object) -> Any:
    allowed = get_type_hints(Settings)[name]
    problem = _problem(name, value, allowed)
    if problem:
        raise UsageError(
            message("the option '{name}' is {value}", name=name, value=repr(value)),
            where=where,
            wanted=problem,
        )
    return float(value) if name in ("temp", "top_p") else value


_KINDS: Final[dict[type, Message]] = {
    bool: message("true or false"),
    int: message("a whole number"),
    float: message("a number"),
}


def _problem(name: str, value: Any, allowed: Any) -> Message | None:
    """What would have been right, or None when the value is."""
    choices = _choices(allowed)
    if choices:
        return None if value in choices else message("one of: {names}", names=", ".join(choices))
    kinds = [kind for kind in (get_args(allowed) or (allowed,)) if kind is not type(None)]
    (kind,) = kinds
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        return _KINDS.get(kind, message("text"))
    if kind is str and not _is_text(value, path=name in ("history_dir", "adapter")):
        return message("UTF-8 text without a zero byte")
    if name in _LIMITS:
        low, high = _LIMITS[name]
        if not low <= value <= high:
            return message("from {low} to {high}", low=f"{low:.12g}", high=f"{high:.12g}")
    return None


def _is_text(value: str, *, path: bool) -> bool:
    """A path may hold bytes that are no UTF-8, as the system's own names may."""
    try:
        value.encode("utf-8", "surrogateescape" if path else "strict")
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def _choices(allowed: Any) -> tuple[str, ...]:
    for kind in (allowed, *get_args(allowed)):
        if get_origin(kind) is Literal:
            return get_args(kind)
    return ()
