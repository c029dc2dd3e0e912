"""Where benchmark images come from: parquet files under `data_root`, else the hub or its cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import datasets
import huggingface_hub
from datasets.exceptions import DatasetGenerationError

from transfer.errors import UserError

_PROBE_SECONDS = 5


def load_local_tables(folder: Path, config: str | None, splits: Mapping[str, str]) -> dict[str, datasets.Dataset]:
    """One table per split from parquet files in the hub's layout, `<split>-*.parquet` anywhere below `folder`.

    Args:
        folder: DIR/<hub id>.
        config: the sub-folder to search, where the dataset has several and it exists.
        splits: our split names and the source's.

    Raises:
        UserError: no such folder, or no file for a split.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: --data_root DIR must hold DIR/<hub id>/**/<split>-*.parquet")
    searched = folder / config if config and (folder / config).is_dir() else folder
    files = {ours: sorted(map(str, searched.rglob(f"{theirs}-*.parquet"))) for ours, theirs in splits.items()}
    for ours, found in files.items():
        if not found:
            raise UserError(f"{searched}: no {splits[ours]}-*.parquet there or below it, needed for the {ours} split")
    return _load("parquet", str(folder), dict.fromkeys(splits), data_files=files)


def load_hub_tables(
    hub_id: str,
    config: str | None,
    revision: str | None,
    splits: Mapping[str, str],
    files: Mapping[str, str] | None,
) -> dict[str, datasets.Dataset]:
    """One table per split from the hub, or from its cache when HF_HUB_OFFLINE is set.

    Args:
        hub_id: `owner/name`.
        config: the dataset's configuration, if it has several.
        revision: commit or branch.
        splits: our split names and the hub's.
        files: for each hub split its file pattern, where the repository holds splits that are not wanted.

    Raises:
        UserError: no network, not in the cache, or not the splits that were expected.
    """
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        if not offline:
            # `datasets` alone retries for half a minute before it admits that there is no network.
            huggingface_hub.HfApi().dataset_info(hub_id, revision=revision, timeout=_PROBE_SECONDS)
    except Exception as error:  # the client's errors share no base class: sockets, HTTP codes, timeouts
        raise _unreachable(hub_id, error) from error
    try:
        return _load(hub_id, hub_id, splits, config=config, revision=revision, data_files=files)
    except ConnectionError as error:
        if not offline:
            raise _unreachable(hub_id, error) from error
    try:
        # A snapshot alone, as `hf download` leaves it, is invisible to load_dataset when offline.
        snapshot = huggingface_hub.snapshot_download(
            hub_id, repo_type="dataset", revision=revision, local_files_only=True
        )
    except Exception as error:
        raise _unreachable(hub_id, error) from error
    return load_local_tables(Path(snapshot), config, splits)


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
        raise UserError(f"{source}: cannot read its parquet files ({error.__cause__ or error})") from error
    named = {ours: theirs or ours for ours, theirs in splits.items()}
    for theirs in named.values():
        if theirs not in tables:
            raise UserError(f"{source}: no split {theirs!r} (it has: {', '.join(tables)})")
    return {ours: tables[theirs] for ours, theirs in named.items()}


def _unreachable(hub_id: str, error: Exception) -> UserError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return UserError(
        f"cannot get {hub_id} from the hub ({reason}). Either pass --data_root DIR with its parquet files in "
        f"DIR/{hub_id}/, or run once where there is a network and then set HF_HUB_OFFLINE=1 to use the cache."
    )
