"""A base or adapter by local folder or hub id; only the needed files, at a pinned revision."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pedsup.errors import HubError, UsageError
from pedsup.files.paths import from_user
from pedsup.optional import require

TOKENIZER_FILES: Final = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    *("chat_template.jinja", "chat_template.json"),
    "additional_chat_templates/*.jinja",
)
BASE_FILES: Final = (
    *("config.json", "generation_config.json", "README.md", "model.safetensors.index.json"),
    *("*.safetensors", "preprocessor_config.json", "processor_config.json", *TOKENIZER_FILES),
)
ADAPTER_FILES: Final = (
    *("adapter_config.json", "adapter_model.safetensors", "README.md"),
    *TOKENIZER_FILES,
)
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True)
class ModelRef:
    """A base or adapter: its folder, and where it came from."""

    folder: Path
    name: str
    """Hub id, or the folder's name."""
    revision: str | None = None
    """Commit of the hub repository; None for a plain folder."""


def resolve(reference: str, files: tuple[str, ...], *, revision: str | None = None) -> ModelRef:
    """Find a model: an existing folder, or `owner/name` on the hub, downloaded into its cache.

    Args:
        reference: a path or a hub id.
        files: glob patterns of the files that are needed, and no others are fetched.
        revision: branch, tag or commit of the hub repository.

    Raises:
        UsageError: neither a folder nor shaped like a hub id; a revision of a folder.
        HubError: offline and not in the cache, no such repository, or no access to it.
    """
    folder = from_user(reference)
    if folder.is_dir():
        if revision is not None:
            raise UsageError(
                f"the revision '{revision}' is asked for of a folder",
                where=folder,
                wanted="a hub id owner/name with a revision",
                remedy="leave the revision out, or give the hub id",
            )
        return _local(folder)
    if not _HUB_ID.fullmatch(reference):
        raise UsageError(
            f"'{reference}' is neither a folder nor a hub id",
            wanted="an existing folder, or owner/name",
            remedy="check the path",
        )
    return ModelRef(*_download(reference, files, revision))


def _local(folder: Path) -> ModelRef:
    """A plain folder, or a snapshot in the hub's cache, whose path holds name and commit."""
    resolved = folder.resolve()
    if resolved.parent.name == "snapshots" and resolved.parents[1].name.startswith("models--"):
        name = resolved.parents[1].name.removeprefix("models--").replace("--", "/")
        return ModelRef(folder, name, resolved.name)
    return ModelRef(folder, resolved.name)


def _download(
    name: str, files: tuple[str, ...], revision: str | None
) -> tuple[Path, str, str | None]:
    hub = require("huggingface_hub", extra="export")
    errors: Any = require("huggingface_hub.errors", extra="export")
    try:
        path = Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except errors.GatedRepoError as error:
        raise HubError(
            f"access to '{name}' must be granted first",
            remedy="accept its terms on the hub's page of the model, then run `hf auth login`",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"there is no repository '{name}' on the hub, or it is private",
            remedy="check the spelling; for a private one run `hf auth login`",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"'{name}' has no revision '{revision}'", remedy="check --revision"
        ) from error
    except (OSError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError) as error:
        raise HubError(
            f"there is no folder '{name}' here, and the hub cannot be reached",
            wanted=f"a local folder or a network (cause: {type(error).__name__})",
            remedy=f"on a machine with a network: hf download {name}; copy the folder and give "
            "its path",
        ) from error
    return path, name, path.resolve().name if path.resolve().parent.name == "snapshots" else None
