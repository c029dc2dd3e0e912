"""Class folders, `<class>/*.jpg`, directly below a folder or below one folder per split."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import datasets

from datamodules.reading.split_names import find_splits
from transfer.errors import BadValue, DamagedFile, MissingData, some_of
from transfer.images.listing import describe_left_out, is_image, is_visible, list_folder, walk_files


@dataclass
class _Folder:
    """What lies below a folder.

    Args:
        path: the folder.
        classes: the images of each folder in it, by name; a folder without images has an empty list.
        loose: images that lie outside these folders.
        others: files that are no images.
    """

    path: Path
    classes: dict[str, list[Path]] = field(default_factory=dict)
    loose: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    @property
    def num_images(self) -> int:
        return len(self.loose) + sum(map(len, self.classes.values()))


def scan_class_folders(root: Path, layout: str = "auto") -> dict[str, datasets.Dataset]:
    """Return one table (image path, class name) per split below `root`; warn of what is left out.

    Args:
        root: the folder.
        layout: `classes` takes each folder in it for a class, `splits` for a split or nothing; `auto` goes by their
            names.

    Raises:
        UserError: It is open what is meant, images lie outside any class folder, there are none, or a folder cannot be
            listed.
    """
    folders = [Path(entry.path) for entry in list_folder(root) if entry.is_dir() and is_visible(entry.name)]
    names = {} if layout == "classes" else find_splits(folder.name for folder in folders)
    if names:
        return _scan_splits(root, folders, names, layout)
    if layout == "splits":
        found = some_of(folder.name for folder in folders) or "nothing"
        raise BadValue(f"{root}: `folder_layout`=splits, but no folder there is named like one (found: {found})")
    whole = _scan(root)
    if layout == "auto":
        _refuse_doubtful(whole)
    table = _class_table(whole)
    _warn_left_out(root, [whole], whole.others)
    return {"train": table}


def _scan_splits(root: Path, folders: list[Path], names: Mapping[str, str], layout: str) -> dict[str, datasets.Dataset]:
    """Return one table per split; `names` has the split of each folder that is one."""
    way = "if they are classes, set `folder_layout`=classes"
    if len(set(names.values())) < len(names):
        raise DamagedFile(f"{root}: two folders for one split: {', '.join(names)}; keep one of each, or {way}")
    scans = {folder.name: _scan(_inner(folder)) for folder in folders}
    beside = [name for name, scan in scans.items() if name not in names and any(scan.classes.values())]
    if beside and layout == "auto":
        raise DamagedFile(
            f"{root}: {some_of(beside)} beside the splits {', '.join(names)}: set `folder_layout`=splits to leave"
            f" {some_of(beside)} out; {way}"
        )
    flat = [name for name, scan in scans.items() if scan.loose and not any(scan.classes.values())]
    no_labels = [name for name in flat if names.get(name) != "train"]
    if not names.keys() - set(no_labels):
        found = ", ".join(f"{split} in {name}" for name, split in names.items())
        raise MissingData(f"{root}: no train split (found: {found}); {way}")
    tables = {}
    for name, split in names.items():
        if name not in no_labels:
            if layout == "auto":
                _refuse_doubtful(scans[name])
            tables[split] = _class_table(scans[name], way)
    files = [Path(entry.path) for entry in list_folder(root) if not entry.is_dir() and not entry.name.startswith(".")]
    pictures = [file for file in files if is_image(file)]
    _warn_left_out(
        root,
        [scans[name] for name in names if name not in no_labels],
        [file for scan in scans.values() for file in scan.others] + [file for file in files if not is_image(file)],
        [
            f"{scans[name].num_images} images in {name}, outside class folders and so without labels"
            for name in no_labels
        ]
        + [f"{scans[name].num_images} images in {name}" for name in beside]
        + ([f"{len(pictures)} images beside the splits"] if pictures else []),
    )
    return tables


def _inner(folder: Path) -> Path:
    """Return what a folder wraps: the only folder inside if it has the same name, or holds folders itself."""
    inside = [entry for entry in list_folder(folder) if is_visible(entry.name)]
    if len(inside) != 1 or not inside[0].is_dir():
        return folder
    inner = Path(inside[0].path)
    has_folders = any(entry.is_dir() and is_visible(entry.name) for entry in list_folder(inner))
    return inner if has_folders or inner.name.lower() == folder.name.lower() else folder


def _scan(folder: Path) -> _Folder:
    found = _Folder(folder)
    for entry in list_folder(folder):
        if entry.is_dir() and is_visible(entry.name):
            found.classes[entry.name] = []
    for file in walk_files(folder):
        if not is_image(file):
            found.others.append(file)
        elif file.parent == folder:
            found.loose.append(file)
        else:
            found.classes[file.relative_to(folder).parts[0]].append(file)
    return found


def _refuse_doubtful(found: _Folder) -> None:
    """Refuse folders that may be splits or a wrapper, and would be taken for classes."""
    inner = {
        name: {file.relative_to(found.path).parts[1] for file in files if file.parent != found.path / name}
        for name, files in found.classes.items()
        if files
    }
    if len(inner) == 1 and (below := next(iter(inner.values()))):
        (name,) = inner
        raise DamagedFile(
            f"{found.path}: its only folder with images is {name}, which holds {some_of(sorted(below))}; give"
            f" `data_root`={found.path / name}"
        )
    if len(inner) > 1 and len(common := set.intersection(*inner.values())) > 1:
        raise DamagedFile(
            f"{found.path}: {some_of(inner)} hold the same folders ({some_of(sorted(common))}). If these are the"
            f" classes, name those above train, val and test; if {some_of(inner)} are, set `folder_layout`=classes"
        )


def _class_table(found: _Folder, way: str = "") -> datasets.Dataset:
    files = [(file, name) for name, files in found.classes.items() for file in files]
    tables = [path for path in found.others if path.suffix.lower() in (".csv", ".tsv", ".parquet")]
    table = f"`data_root`={tables[0]} if it names them" if tables else "a CSV file with their paths and labels"
    ways = f"move them to {found.path}/<class>/, or give {table}" + (f"; {way}" if way else "")
    if found.loose and files:
        raise DamagedFile(
            f"{found.loose[0]}: this image lies outside any class folder ({len(found.loose)} of"
            f" {found.num_images}); {ways}"
        )
    if found.loose:
        raise DamagedFile(f"{found.path}: {len(found.loose)} images outside any class folder; {ways}")
    if not files:
        others = f", but {describe_left_out(found.others)}" if found.others else ""
        raise MissingData(f"{found.path}: no images in class folders{others}; expected {found.path}/<class>/*.jpg")
    return datasets.Dataset.from_dict({"image": [str(file) for file, _ in files], "label": [name for _, name in files]})


def _warn_left_out(root: Path, scans: Iterable[_Folder], others: list[Path], more: Iterable[str] = ()) -> None:
    """Warn of files that are no images, of folders without any in what was read, and of what `more` says."""
    empty = [str(scan.path / name) for scan in scans for name, files in scan.classes.items() if not files]
    parts = [
        *more,
        *([describe_left_out(others)] if others else []),
        *([f"folders without images: {some_of(empty)}"] if empty else []),
    ]
    if parts:
        warnings.warn(f"{root}: left out {'; '.join(parts)}", stacklevel=2)
