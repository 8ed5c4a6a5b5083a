"""The settings of `pedsup-run`, each declared once.

A field is a key of the settings file, an option of the command line (`pedsup.cli.options`) and a
row of the table in docs/run.md (`make option-tables`).
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

from pedsup.files.checks import Check, within
from pedsup.messages import message

V = TypeVar("V")


def _encodable(errors: str) -> Check[str]:
    def holds(value: str) -> bool:
        try:
            value.encode("utf-8", errors)
        except UnicodeEncodeError:
            return False
        return "\0" not in value

    return Check(holds, message("UTF-8 text without a zero byte"))


Text: TypeAlias = Annotated[str, _encodable("strict")]
PathText: TypeAlias = Annotated[str, _encodable("surrogateescape")]
"""A path may hold bytes that are not UTF-8, as the system's own names may."""
Switch: TypeAlias = Literal["auto", "on", "off"]
Threads: TypeAlias = Annotated[int, within(1, 512)]
Batch: TypeAlias = Annotated[int, within(1, 1 << 16)]
Tokens: TypeAlias = Annotated[int, within(1, 1 << 22)]


@dataclass(frozen=True)
class Option:
    """How a setting is shown: as an option of the command line and in the documentation."""

    help: str
    """A sentence for `--help`."""
    meaning: str
    """What the table in docs/run.md says."""
    default: str
    """The default as the table names it."""
    metavar: str | None = None
    """The name of its value in the help, if its type does not give one."""


_KEY: Final = "option"


def option(
    value: V,
    *,
    help: str,
    meaning: str | None = None,
    default: str | None = None,
    metavar: str | None = None,
) -> V:
    """A field with its default and what an option needs.

    Args:
        meaning: what the table says where that is more than the help; None: the help.
        default: how the table names the default; None: as it is.
    """
    word = {"True": "on", "False": "off", "None": "none"}.get(str(value), str(value))
    text = meaning or help[0].lower() + help[1:].removesuffix(".")
    shown = Option(help, text, word if default is None else default, metavar)
    return field(default=value, metadata={_KEY: shown})


def option_of(setting: Field[object]) -> Option:
    found = setting.metadata[_KEY]
    assert isinstance(found, Option)
    return found


@dataclass(frozen=True)
class Settings:
    """Each field is a key of the settings file and an option of the command line.

    None means: let the model, or the machine, decide.
    """

    system: Text | None = option(None, help="System prompt.")
    think: Literal["shown", "hidden", "off"] = option(
        "shown", help="Show the reasoning, hide it, or turn it off."
    )
    think_budget: Annotated[int, within(0, 1 << 22)] | None = option(
        None,
        help="Limit on reasoning tokens.",
        meaning="maximum tokens of reasoning; the answer then begins",
    )
    max_tokens: Tokens | None = option(None, help="Limit on answer tokens.")
    temp: Annotated[float, within(0, 5)] | None = option(
        None, help="Temperature; 0 always takes the most likely token.", default="the model's"
    )
    top_p: Annotated[float, within(0, 1)] | None = option(
        None,
        help="Sample from the most likely tokens whose probabilities add up to this.",
        default="the model's",
    )
    top_k: Annotated[int, within(0, 1 << 20)] | None = option(
        None, help="Sample from this many of the most likely tokens.", default="the model's"
    )
    seed: Annotated[int, within(0, (1 << 32) - 1)] | None = option(
        None,
        help="Random seed; the same seed gives the same text.",
        meaning="same seed, same text; `/stats` and `--json` show the one in use",
        default="random",
    )
    engine: Literal["auto", "inprocess", "server"] = option(
        "auto",
        help="Which engine runs the model.",
        meaning="llama-cpp-python in this process, or `llama-server`",
    )
    ctx: Annotated[int, within(64, 1 << 22)] | None = option(
        None, help="Context size in tokens.", default="fits, at most 8192"
    )
    threads: Threads | None = option(
        None,
        help="Threads; default: one per big core.",
        meaning="threads of llama.cpp",
        default="tuned, or one per big core",
    )
    threads_batch: Threads | None = option(
        None, help="Threads for reading prompts.", default="tuned, or as many"
    )
    pin: Switch = option(
        "auto",
        help="Keep the threads on the big cores.",
        meaning="keep the threads on the big cores; auto: if there are little ones and "
        "`--threads` is not given",
        default="tuned, or auto",
    )
    batch: Batch = option(512, help="Prompt tokens per call.", default="tuned, or 512")
    ubatch: Batch = option(
        512,
        help="Prompt tokens per compute step.",
        meaning="prompt tokens per compute step; 128 saves memory",
        default="tuned, or 512",
    )
    extra_buffers: Switch = option(
        "auto",
        help="Repack weights for faster prompts, at the cost of memory.",
        default="tuned, or auto",
    )
    mmap: bool = option(True, help="Map the file, or read it into memory.", default="tuned, or on")
    tuned: bool = option(
        True,
        help="Use what `pedsup-run tune` measured.",
        meaning="use what `pedsup-run tune` measured for settings that are not given",
    )
    governor: Switch = option(
        "auto", help="Use fewer threads when the device gets hot; auto: on phones."
    )
    adapter: PathText | None = option(
        None,
        help="Apply this LoRA adapter (a GGUF file) to MODEL.",
        meaning="apply a LoRA adapter (GGUF) to the model as it runs: [adapter.md](adapter.md)",
        metavar="FILE",
    )
    mmproj: PathText | None = option(
        None,
        help="The projector that lets MODEL see pictures (a GGUF file), or off.",
        meaning="the projector (GGUF) through which the model sees: [pictures.md](pictures.md); "
        "`off`: none",
        default="a `mmproj-MODEL.gguf` beside MODEL",
        metavar="FILE|off",
    )
    picture_tokens: Annotated[int, within(16, 1120)] = option(
        280,
        help="Limit on tokens of one picture (Gemma 4).",
        meaning="maximum tokens of one picture, for models that can choose (Gemma 4)",
    )
    draft: Text = option(
        "off",
        help="Guess tokens ahead in llama-server: off, lookup, or a draft model's GGUF.",
        meaning="guess tokens ahead in `llama-server`, see below",
        metavar="off|lookup|FILE",
    )
    draft_max: Annotated[int, within(1, 64)] = option(6, help="Limit on tokens guessed at once.")
    lang: Literal["en", "es"] | None = option(
        None,
        help="Language of the messages.",
        meaning="language of the messages: [Spanish](#spanish)",
        default="the locale's",
    )
    history: bool = option(True, help="Keep a transcript of the session.")
    history_dir: PathText | None = option(
        None, help="Where transcripts are kept.", default="see above", metavar="FOLDER"
    )
    cache: bool = option(
        True,
        help="Cache the processed system prompt on disk.",
        meaning="keep the processed system prompt on disk (off with `--no-history`)",
    )
    allow_template: bool = option(False, help="Run a chat template that pedsup does not know.")
    allow_paging: bool = option(
        False,
        help="Run even if memory is short.",
        meaning="run from storage even below 0.5 tokens/s",
    )
    strict: bool = option(
        False,
        help="Run only models of the architectures that pedsup can check.",
        meaning="run only models of the architectures that pedsup can check: "
        "[other models](#other-models)",
    )
    require_signature: bool = option(False, help="Run only models signed with a trusted key.")
    verify: bool = option(
        False,
        help="Read and check the whole file again.",
        meaning="read and check the whole file at this start too, not only at its first",
    )
