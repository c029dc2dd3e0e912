"""Small inputs that once failed: each ends in the right numbers or in one clear line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from datamodules import load_dataset
from tests.fuzz.judge import Case, Outcome, judge
from tests.support.runs import ROOT
from transfer.config.command_line import parse_config

MAKER = ROOT.parent / "shared" / "cases" / "make_inputs.py"

pytestmark = pytest.mark.skipif(not MAKER.is_file(), reason=f"{MAKER} is not here")

Counts = dict[str, int]
CAT_DOG = {"cat": 14, "dog": 14}

# Images of each class over all splits.
READ: dict[str, Counts] = {
    "00_plain": {"cat": 16, "dog": 16},
    "01_training_set": {"cat": 20, "dog": 20},
    "01_seg_train": {"cat": 16, "dog": 16, "eel": 16},
    "03_formats": {"cat": 34, "dog": 54, "eel": 20},
    "04_twelve_bit": {"across": 40, "along": 40},
    "04_eight_bit": {"across": 40, "along": 40},
    "06_csv/good.csv": CAT_DOG,
    "06_csv/blank_end.csv": CAT_DOG,
    "06_csv/space_header.csv": CAT_DOG,
    "06_csv/semicolon.csv": CAT_DOG,
    "06_csv/tab.tsv": CAT_DOG,
    "06_csv/bom.csv": CAT_DOG,
    "06_csv/latin1.csv": {"chaîne": 14, "été": 14},
    "06_csv/absolute.csv": CAT_DOG,
    "06_csv/upper_header.csv": CAT_DOG,
    "06_csv/bool_label.csv": {"False": 14, "True": 14},
    "06_csv/numeric.csv": {"2": 14, "10": 14},
    "06_csv/group.csv": CAT_DOG,
    "08_odd_names": {"50% [x]": 12, "cat, Persian": 12, "chien été 🐕": 12, 'quote"d': 12},
    "10_clutter": CAT_DOG,
    "10_split_clutter": {"cat": 18, "dog": 18},
    "12_sizes": {"cat": 14, "dog": 13},
    "13_modes": {"cat": 15, "dog": 17},
    "14_relative/rel.parquet": CAT_DOG,
    "14_relative/disk": CAT_DOG,
    "14_relative/bool.parquet": {"False": 14, "True": 14},
    "15_links": {"cat": 14, "cat2": 6, "dog": 14},
    "21_long_val": {"cat": 258, "dog": 258},
}
# What a message has to say in its place.
REFUSED: dict[str, str] = {
    "06_csv/no_header.csv": "no_header.csv",
    "06_csv/nan_text.csv": "nan_text.csv",
    "06_csv/missing_label.csv": "missing_label.csv",
    "06_csv/dup_conflict.csv": "cat0.png",
    "06_csv/single.csv": "cat0.png",
    "06_csv/dup_columns.csv": "label",
    "06_csv/fold.csv": "split",
    "06_csv/split_empty.csv": "split",
    "06_csv/url.csv": "http",
    "11_val_only": "eel",
    "14_relative/nan_label.parquet": "nan_label.parquet",
    "14_relative/broken.parquet": "broken.parquet",
    "17_flat_root": "17_flat_root",
}
# Two readings are sensible: the numbers, or a message that says what to do.
EITHER: dict[str, tuple[Counts, str]] = {
    "02_flat_test": (CAT_DOG, "02_flat_test"),
    "05_big_text": ({"cat": 13, "dog": 12}, "90.png"),
    "06_csv/basename.csv": (CAT_DOG, "cat0.png"),
    "06_csv/backslash.csv": (CAT_DOG, "cat0.png"),
    "06_csv/kaggle_header.csv": (CAT_DOG, "image_id"),
    "06_csv/na_label.csv": ({"NA": 14, "None": 14}, "na_label.csv"),
    "06_csv/one_hot.csv": (CAT_DOG, "one_hot.csv"),
    "06_csv/multi_space.csv": ({"cat": 9, "cat dog": 10, "dog": 9}, "multi_space.csv"),
    "08_latin1_names": ({"cat": 13, "dog": 12}, "08_latin1_names"),
    "09_valid_invalid": ({"invalid": 14, "valid": 14}, "09_valid_invalid"),
    "11_train_only": ({"cat": 18, "dog": 14, "eel": 18}, "dog"),
    "13_float": ({"cat": 13, "dog": 12}, "float.tif"),
    "14_relative/float_label.parquet": ({"1": 14, "2": 14}, "float_label.parquet"),
    "14_relative/multihot.parquet": (CAT_DOG, "multihot.parquet"),
}
RECIPES = {
    "sci": {"optim.lr": 1e-3, "optim.weight_decay": 5e-4},
    "quoted": {"optim.lr": 0.001, "optim.warmup_epochs": 0.0},
    "bom": {"image_size": 32},
    "utf8": {"image_size": 32},
    "yes": {"compile": False, "find_lr": False},
}
REFUSED_RECIPES = ("anchor", "latin1", "tab", "dup", "list")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the made inputs."""
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, MAKER, folder], check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(autouse=True)
def _cache_in_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def counts(path: Path) -> Counts:
    """Return the images of each class over all splits, with the classes in their order."""
    data = load_dataset("folder", data_root=path)
    splits = data.class_counts.values()
    return {name: sum(split[index] for split in splits) for index, name in enumerate(data.class_names)}


@pytest.mark.parametrize("name", [*READ, *REFUSED, *EITHER])
def test_data_of_ones_own(name: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right, says = EITHER.get(name) or (READ.get(name), REFUSED.get(name, ""))
    case = Case(name, lambda: list(counts(inputs / name).items()), says, right and list(right.items()))
    outcome, seen = judge(case, tmp_path / "canary", capsys)
    allowed = (
        {Outcome.RIGHT} if name in READ else {Outcome.REFUSED} if name in REFUSED else {Outcome.RIGHT, Outcome.REFUSED}
    )
    assert outcome in allowed, f"{outcome}: {seen}"


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_that_are_right(name: str, inputs: Path) -> None:
    config, _ = parse_config(["--config", str(inputs / "16_yaml" / f"{name}.yaml")])
    values: dict[str, Any] = config.to_dict()
    for field, expected in RECIPES[name].items():
        *groups, last = field.split(".")
        holder = values[groups[0]] if groups else values
        assert holder[last] == expected and type(holder[last]) is type(expected)


@pytest.mark.parametrize("name", REFUSED_RECIPES)
def test_recipes_that_are_not(name: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = inputs / "16_yaml" / f"{name}.yaml"
    case = Case(name, lambda: parse_config(["--config", str(path)]), path.name)
    assert judge(case, tmp_path / "canary", capsys) == (Outcome.REFUSED, "")
