"""A bundle on the Hugging Face Hub: uploaded in one commit, whose files are then compared with the bundle's."""

from __future__ import annotations

import errno
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not in an __all__

from transfer.bundle.card import README
from transfer.bundle.folder import BundleFolder
from transfer.bundle.record import MODEL, read_record
from transfer.errors import BadValue, DamagedFile, MissingData, UserError, some_of
from transfer.files import file_sha256

# What the Hub itself puts into a new repository.
_OF_THE_HUB = {".gitattributes", README}
_WHAT_TO_DO = {
    401: "it does not accept the token, which may have expired: run hf auth login, or set HF_TOKEN",
    403: "the token may not write there: make one with write access (https://huggingface.co/settings/tokens), or name a"
    " repository of your own",
    404: "there is no such user or organisation, or the token may not see it",
    409: "someone else is changing the repository: push again",
    412: "someone else changed the repository meanwhile: push again",
    429: "too many requests: wait, then push again",
}
_REFUSED, _FAILED = "it refuses the upload", "it failed: wait, then push again"


@dataclass(frozen=True)
class Pushed:
    """A bundle that is on the Hub.

    Attributes:
        address: of the repository.
        commit: id of its commit.
        private: whether only its owner sees it.
    """

    address: str
    commit: str
    private: bool


def repository_address(repository: str) -> str:
    """Return where a model repository `user/name` is, or would be.

    Raises:
        BadValue: the Hub allows no such name.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError:
        pass
    else:
        if "/" in repository:
            return f"{constants.ENDPOINT}/{repository}"
    raise BadValue(
        f"`repository`={repository!r}: no repository of the Hub (allowed: user/name, of letters, digits, -, _ and ., at"
        " most 96; no -- or .., no .git at the end)"
    )


def upload(bundle: BundleFolder, repository: str, private: bool) -> Pushed:
    """Upload a bundle into a model repository, which is made where there is none, and return where it is.

    The repository changes in one commit, after all files have arrived. Files that an earlier bundle had, and this one
    has not, leave it; others stay.

    Args:
        bundle: the bundle.
        repository: `user/name`.
        private: whether the repository must be private; otherwise a new one is public, unless its organisation's are
            private by default.

    Raises:
        MissingData: there is no token, the Hub cannot be reached or refuses, or holds other files after the commit.
        BadValue: the repository is public where it must be private, or holds something that is no bundle.
        DamagedFile: a file of the bundle was changed since it was written, or the repository's `model.json` was.
    """
    bundle.check_files()
    with _explained(repository):
        if get_token() is None:
            raise MissingData(
                "no token of the Hugging Face Hub: run hf auth login, or set HF_TOKEN to one that may write"
            )
        api = HfApi()
        api.create_repo(repository, private=private or None, exist_ok=True)
        before = api.model_info(repository)
        if private and not before.private:
            raise BadValue(
                f"`private`=True: {repository} is on the Hub already, and public: nothing was uploaded; make it private"
                " in its settings, or name another"
            )
        stale = sorted(_earlier_files(api, repository, before) - set(bundle.names))
        commit = api.create_commit(
            repository,
            [
                *(CommitOperationAdd(name, bundle.folder / name) for name in bundle.names),
                *(CommitOperationDelete(name, is_folder=False) for name in stale),
            ],
            commit_message=f"efficientnet-transfer push: {bundle.record.name}",
            parent_commit=before.sha,
        )
        found = api.model_info(repository, revision=commit.oid, files_metadata=True)
    held = {file.rfilename: file for file in found.siblings or ()}
    if other := [name for name in bundle.names if not _is_same(bundle, name, held.get(name))]:
        raise MissingData(
            f"{repository}: its new commit lacks files of the bundle, or holds others: {some_of(other)}; a .gitignore"
            " in the repository leaves files out, or files were changed here meanwhile: see to it, then push again"
        )
    return Pushed(repository_address(repository), commit.oid, bool(found.private))


def _earlier_files(api: HfApi, repository: str, info: ModelInfo) -> set[str]:
    """Return the files of the bundle that a repository holds; none if it is new."""
    held = {file.rfilename for file in info.siblings or ()}
    if not held - _OF_THE_HUB:
        return set()
    if MODEL not in held:
        raise BadValue(
            f"`repository`={repository!r} holds files and is no bundle, as {some_of(sorted(held - _OF_THE_HUB))}:"
            " nothing was uploaded; name another"
        )
    with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
        path = Path(api.hf_hub_download(repository, MODEL, revision=info.sha, local_dir=folder))
        try:
            return held & read_record(path).files.keys()
        except DamagedFile as error:
            raise DamagedFile(str(error).replace(str(path), f"{repository}/{MODEL}, which is on the Hub")) from None


def _is_same(bundle: BundleFolder, name: str, found: RepoSibling | None) -> bool:
    """Return whether a file of the Hub has the content that the bundle's record names, by the Hub's digest of it.

    A file that was changed here while it was uploaded is another one.
    """
    if found is None:
        return False
    path = bundle.folder / name
    if not (read_record(path) == bundle.record if name == MODEL else file_sha256(path) == bundle.record.files[name]):
        return False
    if found.lfs is not None:
        return found.lfs.sha256 == file_sha256(path)
    content = path.read_bytes()
    return found.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Say what to do about an error of the Hub, of the way to it, or of its client.

    Raises:
        MissingData: one came.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever the client, and the HTTP library that it uses, call their errors
        cause: BaseException = error
        while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, OSError) and (cause.filename or cause.errno in (errno.ENOSPC, errno.EDQUOT)):
            raise cause from None
        where = f"{repository} on {constants.ENDPOINT}"
        if isinstance(cause, HfHubHTTPError):
            status, said = cause.response.status_code, cause.server_message
            answer = f"{status}{f' {_one_line(said)}' if said else ''}"
            advice = _WHAT_TO_DO.get(status, _FAILED if status >= 500 else _REFUSED)
            raise MissingData(f"{where}: {advice} (it answered {answer})") from None
        if constants.HF_HUB_OFFLINE:
            raise MissingData(f"{where}: HF_HUB_OFFLINE is set, which forbids uploads: unset it") from None
        reason = _one_line(str(cause)) or type(cause).__name__
        raise MissingData(
            f"{where}: could not upload ({reason}): see whether it can be reached, then push again"
        ) from None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
