"""Birdsnap: bird species of North America, as far as the photographs can still be found.

Contents: 49,829 listed photographs, of which the archive holds only addresses; many are gone.
Splits: officially train 47,386 and test 2,443. No copy on the hub has them all: the largest ones end at
    39,860 without a test split, or at 1,851 test images. Whoever has images puts them in
    DATA_ROOT/birdsnap/{train,test}/<species>/, test as `test_images.txt` lists it; val is `val_fraction` of
    train. A result on fewer test images than 2,443 is not
    comparable with published ones: `split_sizes` tells.
Classes: 500 species, natural-sorted by folder name; the official order is taxonomic.
Licence: none stated; the photographs belong to third parties.
Citation: T. Berg et al., "Birdsnap: Large-scale Fine-grained Visual Categorization of Birds", 2014.
Published accuracy (EfficientNet paper, Table 5): 82.0 % (B5), 84.3 % (B7).
"""

from __future__ import annotations

from datamodules.folder import FolderDataModule, scan_class_folders
from datamodules.split import Split
from datamodules.tables import read_splits
from transfer.errors import UserError


class BirdsnapDataModule(FolderDataModule):
    """Birdsnap from the user's own class folders; it has no complete copy to load."""

    name = "birdsnap"

    def load_splits(self) -> tuple[tuple[str, ...], dict[str, Split]]:
        """The species found and the official splits as far as they are there.

        Raises:
            UserError: no `data_root`, or no such folders in it.
        """
        if self.data_root is None:
            raise UserError(
                "birdsnap has no complete copy on the hub; put the images you have in "
                "DIR/birdsnap/{train,test}/<species>/*.jpg and pass --data_root DIR"
            )
        root = self.data_root / self.name
        if not (root / "train").is_dir() or not (root / "test").is_dir():
            raise UserError(f"birdsnap needs {root / 'train'} and {root / 'test'}, with one folder per species in each")
        return read_splits(
            scan_class_folders(root),
            self.name,
            "image",
            "label",
            multilabel=self.multilabel,
            label_separator=self.label_separator,
        )
