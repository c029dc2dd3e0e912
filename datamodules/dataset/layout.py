"""What the authors of a dataset publish: the files, their checksums, and the folder that they give when extracted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")


@dataclass(frozen=True)
class OfficialFile:
    """One release of a file, as its authors publish it.

    Args:
        name: Path relative to the archive's folder; of an archive, its file name.
        sha256, md5: Hex digests, as far as they are public; the first is preferred.
        num_bytes: Its size.
        url: Where it is or was.
    """

    name: str
    sha256: str | None = None
    md5: str | None = None
    num_bytes: int | None = None
    url: str | None = None

    @property
    def is_archive(self) -> bool:
        """Whether it is to be extracted."""
        return self.name.endswith(_ARCHIVES)


@dataclass(frozen=True)
class Layout:
    """What an extracted archive looks like, and the files that it comes in.

    Args:
        needs: Files and folders that must exist, relative to the archive's folder.
        folders: Names this folder may have below `data_root` or `data_root`/<dataset>, besides these two themselves.
        files: The authors' archives and the files beside them; several releases of one have the same name.
        alternative: Another set of files and folders that is as good as `needs`, if the authors published two.
    """

    needs: tuple[str, ...]
    folders: tuple[str, ...]
    files: tuple[OfficialFile, ...]
    alternative: tuple[str, ...] = ()

    @property
    def archives(self) -> tuple[str, ...]:
        """The file names of the archives."""
        return tuple(dict.fromkeys(file.name for file in self.files if file.is_archive))

    def releases(self, name: str) -> list[OfficialFile]:
        """Return the releases of a file."""
        return [file for file in self.files if file.name == name]

    def places(self, data_root: Path, name: str) -> list[Path]:
        """Return the folders to search, in this order."""
        bases = (data_root, data_root / name)
        return list(dict.fromkeys(base / folder for base in bases for folder in ("", *self.folders)))

    def missing(self, folder: Path) -> list[str]:
        """Return what the folder lacks."""
        if self.alternative and all((folder / need).exists() for need in self.alternative):
            return []
        return [need for need in self.needs if not (folder / need).exists()]
