"""Where benchmark images come from: parquet files under `data_root`, else the hub or its cache."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TypeVar

import datasets
import huggingface_hub
import pyarrow.parquet as pq
from datasets.exceptions import DataFilesNotFoundError, DatasetGenerationError
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from datamodules.dataset.sheet import HubCopy
from datamodules.reading.table_files import check_parquet
from transfer.errors import DamagedFile, MissingData, UserError
from transfer.images.listing import walk_files

T = TypeVar("T")
_PROBE_SECONDS = 5


class NotFoundError(MissingData):
    """The hub does not have a repository or revision (any more); offline: the cache does not have it."""


class MissingSplitError(MissingData):
    """A source lacks an expected split; `found` maps the splits that it has, by our names, to their numbers of rows."""

    def __init__(self, text: str, found: Mapping[str, int]) -> None:
        super().__init__(text)
        self.found = found


def find_local_copy(data_root: Path, copies: Sequence[HubCopy]) -> HubCopy | None:
    """Return the first copy that has a folder `data_root`/<hub id>."""
    return next((copy for copy in copies if (data_root / copy.id).is_dir()), None)


def from_first_copy(copies: Sequence[HubCopy], load: Callable[[HubCopy], T]) -> tuple[HubCopy, T]:
    """Return the first copy that still exists and what `load` makes of it; warn if a copy before it is gone.

    Raises:
        UserError: See `load_hub_tables`. After a network failure no other copy is tried.
    """
    gone: list[NotFoundError] = []
    for copy in copies:
        try:
            loaded = load(copy)
        except NotFoundError as error:
            gone.append(error)
            continue
        if gone:
            where = "in the cache" if huggingface_hub.constants.HF_HUB_OFFLINE else "on the hub any more"
            warnings.warn(f"{copies[0].id} is not {where}; taking {copy.id} instead", stacklevel=2)
        return copy, loaded
    raise gone[0]


def load_local_tables(folder: Path, config: str | None, splits: Mapping[str, str]) -> dict[str, datasets.Dataset]:
    """Return one table per split from parquet files in the hub's layout: `<split>-*.parquet` anywhere below `folder`.

    Args:
        folder: DIR/<hub id>.
        config: Sub-folder to search, where the dataset has several and it exists.
        splits: Our split names, each with the source's.

    Raises:
        UserError: The folder is missing, or a split has no file.
    """
    return _load("parquet", str(folder), dict.fromkeys(splits), data_files=find_local_files(folder, config, splits))


def find_local_files(folder: Path, config: str | None, splits: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the parquet files of each split; see `load_local_tables`.

    Raises:
        UserError: The folder is missing, or a split has no file.
    """
    if not folder.is_dir():
        raise MissingData(f"no folder {folder}: `data_root`=DIR must hold DIR/<hub id>/**/<split>-*.parquet")
    searched = folder / config if config and (folder / config).is_dir() else folder
    parquet = [file for file in walk_files(searched) if file.suffix == ".parquet"]
    files = {
        ours: sorted(str(file) for file in parquet if file.name.startswith(f"{theirs}-"))
        for ours, theirs in splits.items()
    }
    for file in chain.from_iterable(files.values()):
        check_parquet(Path(file))
    for ours, found in files.items():
        if not found:
            rows = {name: sum(map(_num_rows, paths)) for name, paths in files.items() if paths}
            raise MissingSplitError(
                f"{searched}: no {splits[ours]}-*.parquet there or below it, needed for the {ours} split "
                f"(found: {_list_rows(rows)}).",
                rows,
            )
    return files


def load_hub_tables(copy: HubCopy) -> dict[str, datasets.Dataset]:
    """Return one table per split from the hub, or from its cache if HF_HUB_OFFLINE is set.

    Raises:
        NotFoundError: The hub does not have it; offline: its cache does not.
        UserError: There is no network, or a split is missing.
    """
    if not huggingface_hub.constants.HF_HUB_OFFLINE:
        _ask_hub(copy)
        with _explain(copy):
            return _load_copy(copy)
    # The library serves whatever revision it has in its cache, and does not see a snapshot, as `hf download` leaves it.
    try:
        tables = _load_copy(copy)
    except ConnectionError:
        found = None
    else:
        found = Path(next(iter(tables.values())).cache_files[0]["filename"]).parent.name
        if copy.revision in (None, found):
            return tables
    try:
        files = _snapshot_files(copy)
    except NotFoundError as error:
        other = f" The cache has its revision {found}, which is another one than {copy.revision}." if found else ""
        raise NotFoundError(f"{error}{other}") from None
    return _load("parquet", copy.id, dict.fromkeys(copy.split_names), data_files=files)


def _load_copy(copy: HubCopy) -> dict[str, datasets.Dataset]:
    return _load(copy.id, copy.id, copy.split_names, config=copy.config, revision=copy.revision, data_files=copy.files)


def find_hub_files(copy: HubCopy) -> dict[str, list[str]]:
    """Return the URLs of each split's parquet files on the hub, or their paths in its cache if HF_HUB_OFFLINE is set.

    Raises:
        NotFoundError: The hub does not have it; offline: its cache does not.
        UserError: There is no network, or a split is missing.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return _snapshot_files(copy)
    _ask_hub(copy)
    with _explain(copy):
        builder = datasets.load_dataset_builder(
            copy.id, copy.config, revision=copy.revision, data_files=dict(copy.files) if copy.files else None
        )
    found = builder.config.data_files or {}
    for ours, theirs in copy.split_names.items():
        if theirs not in found:
            raise MissingSplitError(f"{copy.id}: no split {theirs!r} for {ours} (it has: {', '.join(found)}).", {})
    return {ours: [str(file) for file in found[theirs]] for ours, theirs in copy.split_names.items()}


@contextmanager
def _explain(copy: HubCopy) -> Iterator[None]:
    """Turn what the libraries raise while they fetch or read a copy into a UserError that says what to do."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.errno is not None and not isinstance(error, ConnectionError):  # a full disk, say
            raise
        raise MissingData(f"{_unreachable(copy.id, error)} What was fetched whole is kept: try again.") from error
    except (
        ValueError,
        RuntimeError,
        DataFilesNotFoundError,
    ) as error:  # no data files, a script, another configuration
        raise NotFoundError(f"{copy.id} is not on the hub as it was expected ({first_line(error)})") from error
    except Exception as error:  # the client's errors share no base class
        raise MissingData(f"{_unreachable(copy.id, error)} What was fetched whole is kept: try again.") from error


def _ask_hub(copy: HubCopy) -> None:
    """Check that the hub answers and has the copy: `datasets` alone retries a dead network for half a minute."""
    try:
        huggingface_hub.HfApi().dataset_info(copy.id, revision=copy.revision, timeout=_PROBE_SECONDS)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise NotFoundError(_unreachable(copy.id, error)) from error
    except Exception as error:  # the client's errors share no base class: sockets, HTTP codes, timeouts
        raise MissingData(_unreachable(copy.id, error)) from error


def _snapshot_files(copy: HubCopy) -> dict[str, list[str]]:
    """Return the parquet files of each split in the hub's cache."""
    try:
        folder = huggingface_hub.snapshot_download(
            copy.id, repo_type="dataset", revision=copy.revision, local_files_only=True
        )
    except Exception as error:
        raise NotFoundError(_unreachable(copy.id, error)) from error
    try:
        return find_local_files(Path(folder), copy.config, copy.split_names)
    except MissingSplitError as error:
        if error.found:
            raise
        raise NotFoundError(_unreachable(copy.id, error)) from error  # a stream left its card there


def _load(
    path: str,
    source: str,
    splits: Mapping[str, str | None],
    *,
    config: str | None = None,
    revision: str | None = None,
    data_files: Mapping[str, str | list[str]] | None = None,
) -> dict[str, datasets.Dataset]:
    # Row counts are asserted by the data sheets; the hub's own check refuses a subset of the splits.
    try:
        tables = datasets.load_dataset(
            path, config, revision=revision, data_files=data_files, verification_mode="no_checks"
        )
    except DatasetGenerationError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno is not None:  # a full disk, a folder that cannot be written
            raise cause from None
        raise DamagedFile(f"{source}: cannot read its parquet files ({cause or error})") from error
    named = {ours: theirs or ours for ours, theirs in splits.items()}
    for theirs in named.values():
        if theirs not in tables:
            rows = {ours: len(tables[name]) for ours, name in named.items() if name in tables}
            raise MissingSplitError(f"{source}: no split {theirs!r} (it has: {', '.join(tables)}).", rows)
    return {ours: tables[theirs] for ours, theirs in named.items()}


def _num_rows(path: str) -> int:
    try:
        rows: int = pq.ParquetFile(path).metadata.num_rows
    except Exception:  # it is reported as unreadable once something reads it
        return 0
    return rows


def _list_rows(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in rows.items()) or "nothing"


def _unreachable(hub_id: str, error: Exception) -> str:
    return (
        f"cannot get {hub_id} from the hub ({first_line(error)}). Either pass `data_root`=DIR with its parquet files in"
        f" DIR/{hub_id}/, or run once where there is a network (without `stream`, which keeps nothing) and then"
        " set HF_HUB_OFFLINE=1 to use the cache."
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
