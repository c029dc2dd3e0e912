"""A bundle on the disk, a folder or one zip file: written whole, and read without trust in its names."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from transfer.bundle.record import MODEL, Record, is_safe_name, read_record
from transfer.errors import BadValue, DamagedFile, MissingData, printable
from transfer.files import expanded, file_sha256, folder_written_whole, open_regular, written_whole
from transfer.run_files import CONFIG

ZIP = ".zip"
_OF_THE_HUB = {".gitattributes", ".cache"}
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip knows
# What zipfile raises at a damaged file, and a member that would lie where another one's folder is.
_NOT_A_ZIP = (
    *(zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError),
    *(FileExistsError, NotADirectoryError),
)


@dataclass(frozen=True)
class BundleFolder:
    """A bundle that can be read.

    Attributes:
        path: what the user named: a folder or a zip file.
        folder: where its files lie.
        record: its `model.json`.
    """

    path: Path
    folder: Path
    record: Record = field(repr=False)
    _unpacked: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False, compare=False)

    @property
    def names(self) -> list[str]:
        """Its files, `model.json` included."""
        return [*self.record.files, MODEL]

    def file(self, name: str) -> Path:
        """Return a file of the bundle after comparing its SHA-256 with the one in `model.json`.

        Raises:
            MissingData: it is not there.
            DamagedFile: it has another content, or is a link that leads out of the bundle.
        """
        path, expected = self.folder / name, self.record.files.get(name)
        shown = self.path / name
        if expected is None:
            raise MissingData(f"{self.path}: {MODEL} lists no {name}")
        real = path.resolve()
        if not any(real.is_relative_to(root) for root in _roots(self.folder.resolve())):
            raise DamagedFile(f"{shown}: a link that leads out of the bundle")
        try:
            found = file_sha256(path)
        except MissingData:
            raise MissingData(f"{shown} is missing: the bundle is incomplete; export or copy it again") from None
        if found != expected:
            raise DamagedFile(f"{shown}: changed since it was written: it has another SHA-256; export or copy it again")
        return path

    def check_files(self) -> None:
        """Check every file of the bundle.

        Raises:
            MissingData, DamagedFile: see `file`.
        """
        for name in self.record.files:
            self.file(name)

    def strangers(self) -> list[str]:
        """Return the names of files that lie in the folder and are not the bundle's; nothing reads them.

        What a download from the Hugging Face Hub adds, `.gitattributes` and `.cache`, is not named.
        """
        files = (path for path in self.folder.rglob("*") if path.is_symlink() or not path.is_dir())
        names = {path.relative_to(self.folder) for path in files}
        return sorted({name.as_posix() for name in names if name.parts[0] not in _OF_THE_HUB} - set(self.names))


def _roots(folder: Path) -> list[Path]:
    """Return where a bundle's files may lie: in its folder or, in the Hub's cache, where that keeps their contents."""
    in_hub_cache = folder.parent.name == "snapshots"
    return [folder, folder.parent.parent / "blobs"] if in_hub_cache else [folder]


def is_bundle(path: Path) -> bool:
    """Return whether a path is a bundle rather than a run."""
    return path.suffix == ZIP or (path / MODEL).exists()


def open_folder(path: str | Path) -> BundleFolder:
    """Return a bundle after reading its `model.json`; a zip file is unpacked into a temporary folder.

    Raises:
        MissingData: there is no bundle.
        DamagedFile: it is of a newer version, damaged, or a zip file that was not written here.
    """
    path = expanded(path)
    if path.is_dir():
        if (path / CONFIG).is_file() and not is_bundle(path):
            raise MissingData(
                f"{path} is a run, no bundle: efficientnet-transfer export {path} --out mymodel/ makes one"
            )
        if not (path / MODEL).exists():
            raise MissingData(f"{path} is no bundle: it has no {MODEL}")
        return BundleFolder(path, path, read_record(path / MODEL))
    if not path.exists():
        raise MissingData(f"{path}: no such bundle")
    unpacked = tempfile.TemporaryDirectory(prefix="bundle-")
    folder = Path(unpacked.name)
    _unpack(path, folder)
    if not (folder / MODEL).exists():
        raise DamagedFile(f"{path} is no bundle: it has no {MODEL}")
    return BundleFolder(path, folder, _record_of(path, folder), unpacked)


def _record_of(path: Path, folder: Path) -> Record:
    """Return the record of an unpacked zip; messages name the zip."""
    try:
        return read_record(folder / MODEL)
    except DamagedFile as error:
        raise DamagedFile(str(error).replace(str(folder), str(path))) from None


def _unpack(path: Path, folder: Path) -> None:
    """Unpack a zip file whose members are stored, so that it is no larger than it looks."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            for member in members:
                if not (is_safe_name(member.filename) or member.filename == MODEL):
                    raise DamagedFile(f"{path}: {printable(member.filename)!r} is no file inside the bundle")
                if member.compress_type != zipfile.ZIP_STORED:
                    raise DamagedFile(f"{path}: {member.filename} is compressed: not a bundle as export writes it")
            if len(set(names)) < len(names) or sum(member.file_size for member in members) > path.stat().st_size:
                raise DamagedFile(f"{path}: members that share names or bytes: not a bundle as export writes it")
            for member in members:
                target = folder / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, open(target, "xb") as copy:
                    shutil.copyfileobj(source, copy)
    except _NOT_A_ZIP as error:
        if isinstance(error, DamagedFile | MissingData):
            raise
        raise DamagedFile(f"{path}: not a zip file that can be read: {' '.join(str(error).split())}") from None


def check_destination(out: Path, overwrite: bool) -> None:
    """Refuse a path that `new_bundle` could not or should not write.

    Raises:
        MissingData: its folder does not exist.
        BadValue: it exists already, and may not be overwritten or is no bundle.
    """
    if not out.absolute().parent.is_dir():
        raise MissingData(f"`out`={out}: no such folder {out.parent}; make it first")
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise BadValue(f"`out`={out} exists; `overwrite` replaces it")
    is_zip = out.suffix == ZIP
    if (is_zip and not out.is_file()) or (not is_zip and (out.is_symlink() or not (out / MODEL).is_file())):
        raise BadValue(f"`out`={out} exists and is no bundle: nothing else is overwritten")


@contextmanager
def new_bundle(out: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes the bundle `out`, a folder or a zip file, unless an error comes."""
    if out.suffix != ZIP:
        with folder_written_whole(out) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="bundle-") as name:
        yield Path(name)
        with written_whole(out) as file:
            _pack(Path(name), file)


def _pack(folder: Path, file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _TIME)
            member.create_system, member.external_attr = 3, 0o644 << 16  # as on Linux, wherever it is written
            member.file_size = path.stat().st_size
            with open(path, "rb") as source, archive.open(member, "w") as copy:
                shutil.copyfileobj(source, copy)
