"""One sheet per dataset: its facts, its source and its licence. This table names them all."""

from __future__ import annotations

from importlib import import_module

from datamodules.dataset.sheet import Sheet
from transfer.errors import unknown_name

# name: the module and class of its sheet, imported only when asked for
_SHEETS: dict[str, tuple[str, str]] = {
    "aircraft": ("datamodules.sheets.aircraft", "Aircraft"),
    "birdsnap": ("datamodules.sheets.birdsnap", "Birdsnap"),
    "caltech101": ("datamodules.sheets.caltech101", "Caltech101"),
    "cars": ("datamodules.sheets.cars", "Cars"),
    "cifar10": ("datamodules.sheets.cifar", "CIFAR10"),
    "cifar100": ("datamodules.sheets.cifar", "CIFAR100"),
    "digits": ("datamodules.sheets.digits", "Digits"),
    "dtd": ("datamodules.sheets.dtd", "DTD"),
    "eurosat": ("datamodules.sheets.eurosat", "EuroSAT"),
    "flowers": ("datamodules.sheets.flowers", "Flowers"),
    "folder": ("datamodules.sheets.folder", "Folder"),
    "food101": ("datamodules.sheets.food", "Food101"),
    "inat2018": ("datamodules.sheets.inat2018", "INaturalist2018"),
    "pets": ("datamodules.sheets.pets", "Pets"),
    "sun397": ("datamodules.sheets.sun397", "SUN397"),
    "voc2007": ("datamodules.sheets.voc2007", "VOC2007"),
}


def list_datasets() -> list[str]:
    """Return the dataset names, sorted."""
    return sorted(_SHEETS)


def get_sheet(name: str) -> Sheet:
    """Return the sheet of a dataset: what is known of it without loading it.

    Raises:
        UserError: There is no such dataset; the text names the nearest and all there are.
    """
    if name not in _SHEETS:
        raise unknown_name("dataset", name, list_datasets())
    module, class_name = _SHEETS[name]
    sheet: Sheet = getattr(import_module(module), class_name)()
    return sheet
