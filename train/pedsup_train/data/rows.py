"""Rows of a data source, each with its place: local JSONL, JSON, CSV, parquet, or the hub."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from pedsup.errors import BadFileError, HubError, PedsupError, UsageError
from pedsup.files.fsio import sha256_file
from pedsup.files.paths import from_user
from pedsup.optional import require
from pedsup.questions.table_rows import read_table
from pedsup_train.data.examples import BadRow
from pedsup_train.recipe.schema import SourceConfig

Row = tuple[str, dict[str, object] | BadRow]
"""(place, fields) or (place, why it is not a row)."""

BUILTIN = "builtin:"


def source_name(source: SourceConfig) -> str:
    """What the reports call this source."""
    if source.hub:
        return ":".join(part for part in (source.hub, source.config, source.split) if part)
    return source.path


def local_path(source: SourceConfig) -> Path:
    """The file of a local source; `builtin:NAME` is looked up in the package."""
    if source.path.startswith(BUILTIN):
        name = source.path.removeprefix(BUILTIN)
        path = Path(str(resources.files("pedsup_train") / "data" / name))
    else:
        path = from_user(source.path)
    if not path.is_file():
        raise UsageError("no such data file", where=path, remedy="check the path in the recipe")
    return path


def read_rows(source: SourceConfig) -> tuple[str, Iterator[Row]]:
    """The digest of a source and its rows.

    Raises:
        UsageError: no such file, or a file type that is not read.
        BadFileError: the file as a whole is not what its name says.
        HubError: the hub cannot be reached.
    """
    if source.hub:
        return _hub(source)
    path = local_path(source)
    readers = {".jsonl": _table, ".json": _table, ".csv": _table, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"data files of type '{path.suffix}' are not read",
            where=path,
            wanted="one of: " + ", ".join(readers),
        )
    return f"sha256:{sha256_file(path)}", reader(path)


def _table(path: Path) -> Iterator[Row]:
    style = "{}[{}]" if path.suffix.lower() == ".json" else "{}:{}"
    for number, row in read_table(path):
        where = style.format(path.name, number)
        yield where, BadRow(where, row) if isinstance(row, str) else row


def _parquet(path: Path) -> Iterator[Row]:
    parquet = require("pyarrow.parquet", extra="train")
    arrow = require("pyarrow", extra="train")
    try:
        file = parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(1024):
            for row in batch.to_pylist():
                yield f"{path.name} row {number}", row
                number += 1
    except (arrow.ArrowException, OSError) as error:
        raise BadFileError(f"not a parquet file: {error}", where=path) from error


def _hub(source: SourceConfig) -> tuple[str, Iterator[Row]]:
    datasets = require("datasets", extra="train")
    hub = require("huggingface_hub", extra="train")
    try:
        # The commit is asked for first and then pinned, so that what is recorded is what is read.
        commit = hub.HfApi().dataset_info(source.hub, revision=source.revision or None).sha
        data = datasets.load_dataset(
            source.hub, source.config or None, split=source.split, revision=commit
        )
    except PedsupError:
        raise
    except Exception as error:  # the hub's clients raise dozens of kinds, all of them "no data"
        raise HubError(
            f"the data set could not be read from the hub: {type(error).__name__}: {error}",
            where=source_name(source),
            remedy="connect, or download it elsewhere and give the file: "
            '--set \'data.sources=[{format="...", path="..."}]\'',
        ) from error

    def rows() -> Iterator[Row]:
        for number, row in enumerate(data):
            yield f"{source.hub}/{source.split} row {number}", dict(row)

    return f"hub:{source.hub}@{commit}:{source.config or 'default'}:{source.split}", rows()
