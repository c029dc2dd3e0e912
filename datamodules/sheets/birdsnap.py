"""Birdsnap: bird species of North America, as far as the photographs can still be found.

Contents: 49,829 listed photographs, of which the archive holds only addresses; many are gone.
Splits: officially train 47,386 and test 2,443; val is cut from train, stratified, the same in every run, in the
    proportion of BYOL (Grill et al. 2020): 4,981 of 47,386. No copy on the hub has them all: `sasha/birdsnap` ends at
    39,860 without a test split, `isaacchung/birdsnap` at 16,000 and 1,851 (490 species). So a run on less than all
    needs `allow_decayed`, keeps the head for all 500 species where the source names them, and its results say
    `1,851 of 2,443 test images`: it is not comparable with published ones.
Classes: 500 species in the archive's taxonomic order, by their common names. (Class folders: natural-sorted.)
Archive: birdsnap.tgz of version 1.1 (MD5 1788158175f6ae794aebf27bcd7a3f5d): species.txt, images.txt, test_images.txt;
    the images that were fetched lie beside them in images/, as images.txt lists them; letter case does not matter, and
    files with another MD5 than the listed one are left out.
    Version 1.0 lacks test_images.txt. Or DATA_ROOT/birdsnap/{train,test}/<species>/*.jpg.
Licence: none stated; the photographs belong to third parties.
Citation: T. Berg et al., "Birdsnap: Large-scale Fine-grained Visual Categorization of Birds", 2014.
Published accuracy (EfficientNet paper, Table 5): 82.0 % (B5), 84.3 % (B7).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from datamodules.dataset.layout import Layout, OfficialFile
from datamodules.dataset.sheet import HubCopy, ReadOptions, WrongCopy
from datamodules.sheets.benchmark import Benchmark
from transfer.errors import DamagedFile, MissingData

if TYPE_CHECKING:
    from datamodules.dataset.split import Split

_IMAGE_FOLDERS = ("images", "download/images")


class Birdsnap(Benchmark):
    """Birdsnap from the archive's lists and the user's own images, or what `isaacchung/birdsnap` has left."""

    name = "birdsnap"
    copies = (
        HubCopy("isaacchung/birdsnap", revision="fd23015508be94f0b5b59d61630e4ea2536509e4", label_column="common"),
        # Its revision has not been checked against the hub.
        HubCopy("mteb/birdsnap", label_column="common"),
    )
    layout = Layout(
        needs=("species.txt", "images.txt", "test_images.txt"),
        folders=("birdsnap",),
        files=(OfficialFile("birdsnap.tgz", md5="1788158175f6ae794aebf27bcd7a3f5d"),),
    )
    num_examples: ClassVar = {"train": 47_386, "test": 2_443}
    images_per_class: ClassVar = {"test": (2, 5)}
    num_classes = 500
    wrong_copies = (
        WrongCopy({"train": 16_000, "test": 1_851}, "the hub's copy of what was left"),
        WrongCopy({"train": 39_860}, "the copy of sasha/birdsnap, which has no test split"),
    )
    decays = True
    val_share: ClassVar[float] = 4_981 / 47_386
    checks_all_images = True

    def load_splits(self, options: ReadOptions) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the species and the official splits, as far as they exist.

        Raises:
            UserError: There is nothing, or less than all without `allow_decayed`.
        """
        from datamodules.reading.class_folders import scan_class_folders
        from datamodules.reading.sources import find_local_copy
        from datamodules.reading.tables import read_splits

        root = options.root
        if root is None:
            if options.allow_decayed:
                return super().load_splits(options)
            raise MissingData(
                "birdsnap has no complete copy on the hub. Either bring images: `data_root`=DIR with the archive's "
                "species.txt, images.txt, test_images.txt and images/ in DIR/birdsnap, or with "
                "DIR/birdsnap/{train,test}/<species>/*.jpg; or train on the 16,000 of 47,386 training and 1,851 of "
                f"2,443 test images that {self.copies[0].id} has: set `allow_decayed`=True"
            )
        folders = root / self.name
        has_class_folders = (folders / "train").is_dir() and (folders / "test").is_dir()
        if has_class_folders and find_local_copy(root, self.copies) is None:
            return read_splits(scan_class_folders(folders, "splits"), self.name, "image", "label", options)
        return super().load_splits(options)

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the names and splits without listed images whose file is missing or another; see `Benchmark`."""
        from datamodules.reading.archives import (
            build_split,
            changed_files,
            find_ignoring_case,
            from_one,
            read_columns,
        )

        species = read_columns(folder / "species.txt", "id", "common")
        if [number for number, _ in species] != [str(index + 1) for index in range(len(species))]:
            raise DamagedFile(f"{folder / 'species.txt'}: ids are not 1 to {len(species)} in order")
        listed = read_columns(folder / "images.txt", "path", "species_id", "md5")
        labels = from_one([number for _, number, _ in listed], len(species), str(folder / "images.txt"))
        label_of = {path: label for (path, *_), label in zip(listed, labels, strict=True)}
        in_test = {path.lower() for (path,) in read_columns(folder / "test_images.txt", "path")}
        if strange := in_test - {path.lower() for path in label_of}:
            raise DamagedFile(f"{folder / 'test_images.txt'}: {min(strange)} is not in images.txt")
        root = next((folder / name for name in _IMAGE_FOLDERS if (folder / name).is_dir()), folder)
        found = find_ignoring_case(root, list(label_of))
        if changed := changed_files(root, found, {path: md5 for path, _, md5 in listed}):
            warnings.warn(
                f"{root}: {len(changed)} of {len(found)} images are not the listed photographs (other MD5, such as "
                f"{changed[0]}: resized, or what a host sends in place of a lost one) and are left out; images that"
                f" you trust all the same go into {folder}/{{train,test}}/<species>/",
                stacklevel=2,
            )
            found = {path: file for path, file in found.items() if path not in set(changed)}
        members = {
            "train": [path for path in found if path.lower() not in in_test],
            "test": [path for path in found if path.lower() in in_test],
        }
        return tuple(name for _, name in species), {
            split: build_split(
                f"{self.name} {split}",
                [(None, str(root / found[path])) for path in paths],
                [label_of[path] for path in paths],
            )
            for split, paths in members.items()
        }

    def complete_splits(self, splits: dict[str, Split], options: ReadOptions) -> dict[str, Split]:
        """Return the splits with val cut from train, as large a share of it as BYOL's."""
        from datamodules.dataset.holdout import hold_out_exactly

        train, val = hold_out_exactly(splits["train"], max(1, round(len(splits["train"]) * self.val_share)), "val")
        return {**splits, "train": train, "val": val}
