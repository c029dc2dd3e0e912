"""Benchmark data sheets: what they declare, and how they read the hub's layout without a network."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from PIL import Image

from datamodules import build_datamodule, get_sheet, list_datasets, load_dataset
from datamodules.datamodule import DataModule
from datamodules.dataset.checks import check_class_order, check_official
from datamodules.dataset.sheet import HubCopy, ReadOptions, Sheet, load_class_names, name_key
from datamodules.dataset.split import Split
from datamodules.reading.sources import from_first_copy, load_hub_tables
from datamodules.reading.tables import encoded_images, read_splits
from datamodules.sheets.aircraft import Aircraft
from datamodules.sheets.benchmark import Benchmark
from datamodules.sheets.birdsnap import Birdsnap
from datamodules.sheets.cifar import CIFAR10, CIFAR100
from datamodules.sheets.flowers import Flowers
from datamodules.sheets.food import Food101
from datamodules.sheets.pets import Pets
from tests.support.data import PREPROCESSING
from transfer.errors import DamagedFile, UserError

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
OFFICIAL = ["aircraft", "cars", "cifar10", "cifar100", "flowers", "food101", "pets"]
MORE = ["caltech101", "dtd", "eurosat", "inat2018", "sun397", "voc2007"]  # tested in test_more_sheets.py


@pytest.fixture(autouse=True)
def _cache_in_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def save_split(
    folder: Path,
    split: str,
    labels: list[int],
    num_classes: int,
    columns: tuple[str, str] = ("image", "label"),
    broken: int | None = None,
    names: tuple[str, ...] = (),
    first_seed: int = 0,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = [png(first_seed + index) if index != broken else b"junk" for index in range(len(labels))]
    names = names or tuple(f"class {index}" for index in range(num_classes))
    image, label = columns
    table = datasets.Dataset.from_dict(
        {image: [{"bytes": c, "path": f"{i}.png"} for i, c in enumerate(content)], label: labels},
        features=datasets.Features(
            {image: datasets.Image(decode=False), label: datasets.ClassLabel(names=list(names))}
        ),
    ).cast_column(image, datasets.Image())
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")


class TinyCIFAR10(CIFAR10):
    num_examples: ClassVar = {"train": 60, "test": 20}
    images_per_class: ClassVar = {}
    official_names = ()
    val_size = 10


class TinyFood101(Food101):
    num_examples: ClassVar = {"train": 12, "test": 4}
    images_per_class: ClassVar = {"train": (6, 6), "test": (2, 2)}
    official_names = ("cheesecake", "cheese_plate")
    num_classes = 2
    val_size = 2


class TinyFlowers(Flowers):
    num_examples: ClassVar = {"train": 2, "val": 3, "test": 2}
    images_per_class: ClassVar = {}
    class_counts: ClassVar = {}
    id_digests: ClassVar = {}
    official_names = ("pink primrose", "globe thistle")
    num_classes = 2


@pytest.fixture
def tiny_cifar(tmp_path: Path) -> Path:
    folder = tmp_path / "uoft-cs" / "cifar10" / "plain_text"
    for split, count in {"train": 60, "test": 20}.items():
        save_split(folder, split, [index % 10 for index in range(count)], 10, columns=("img", "label"))
    return tmp_path


def test_hub_layout_gives_a_stratified_val_and_the_official_test(tiny_cifar: Path) -> None:
    data = load_dataset(TinyCIFAR10(), data_root=tiny_cifar)
    assert data.split_sizes == {"train": 50, "val": 10, "test": 20}
    assert data.class_counts == {"train": [5] * 10, "val": [1] * 10, "test": [2] * 10}
    assert data.class_names[3] == "class 3"
    assert data.splits["test"].image_name(4) == "uoft-cs/cifar10 test row 4 (4.png)"
    images, labels = next(iter(DataModule(data, PREPROCESSING, num_workers=0).test_dataloader()))
    assert images.shape == (20, 32, 32, 3) and labels.tolist() == [index % 10 for index in range(20)]


def test_a_final_fit_gets_the_official_train_split_back(tiny_cifar: Path) -> None:
    data = load_dataset(TinyCIFAR10(), data_root=tiny_cifar, train_on="trainval")
    assert data.split_sizes == {"train": 60, "test": 20}
    assert data.splits["train"].rows.tolist() == list(range(60))
    assert data.splits["train"].labels.tolist() == [index % 10 for index in range(60)]


def test_a_final_fit_joins_official_train_and_val(tmp_path: Path) -> None:
    folder = tmp_path / TinyFlowers.copies[0].id
    for split, labels in {"train": [0, 1], "validation": [1, 0, 1], "test": [0, 1]}.items():
        save_split(folder, split, labels, 2, names=("pink primrose", "globe thistle"), first_seed=len(split))
    both = load_dataset(TinyFlowers(), data_root=tmp_path, train_on="trainval")
    apart = load_dataset(TinyFlowers(), data_root=tmp_path)
    assert both.split_sizes == {"train": 5, "test": 2}
    assert both.splits["train"].labels.tolist() == [0, 1, 1, 0, 1]
    contents = [
        apart.splits[split].encoded(index) for split, size in (("train", 2), ("val", 3)) for index in range(size)
    ]
    assert [both.splits["train"].encoded(index) for index in range(5)] == contents
    assert int(both.fingerprint["train"], 16) == sum(int(apart.fingerprint[s], 16) for s in ("train", "val")) % 2**128
    assert apart.held_out == {}


def test_the_rows_that_were_cut_are_known(tiny_cifar: Path) -> None:
    data = load_dataset(TinyCIFAR10(), data_root=tiny_cifar)
    assert list(data.held_out) == ["val"]
    held, kept = data.held_out["val"].rows, data.splits["train"].rows
    assert sorted([*held, *kept]) == list(range(60)) and len(held) == 10


def test_other_counts_than_official_are_refused(tiny_cifar: Path) -> None:
    with pytest.raises(UserError, match=r"uoft-cs/cifar10 train: 50000 images expected, 60 found"):
        load_dataset("cifar10", data_root=tiny_cifar)


def test_hub_validation_of_food101_is_our_test(tmp_path: Path) -> None:
    folder = tmp_path / "ethz" / "food101" / "data"
    names = ("Cheesecake", "cheese plate")
    save_split(folder, "train", [0, 1] * 6, 2, names=names)
    save_split(folder, "validation", [0, 1] * 2, 2, names=names)
    data = load_dataset(TinyFood101(), data_root=tmp_path)
    assert data.split_sizes == {"train": 10, "val": 2, "test": 4}
    assert data.class_counts["test"] == [2, 2]
    assert data.class_names == ("cheesecake", "cheese_plate")


def test_the_fallback_copy_is_read_with_its_own_names(tmp_path: Path) -> None:
    class TinyAircraft(Aircraft):
        num_examples: ClassVar = {"train": 200, "val": 100, "test": 100}
        images_per_class: ClassVar = {"train": (2, 2)}

    folder = tmp_path / "HuggingFaceM4" / "FGVC-Aircraft"
    names = load_class_names("aircraft")
    for split, size in {"train": 200, "validation": 100, "test": 100}.items():
        labels = [index % 100 for index in range(size)]
        save_split(folder, split, labels, 100, columns=("image", "variant"), names=names)
    data = load_dataset(TinyAircraft(), data_root=tmp_path)
    assert data.split_sizes == {"train": 200, "val": 100, "test": 100}
    assert data.splits["val"].name == "HuggingFaceM4/FGVC-Aircraft val"


def test_missing_folder_split_and_columns_are_named(tiny_cifar: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*uoft-cs/cifar100"):
        load_dataset("cifar100", data_root=tiny_cifar)
    with pytest.raises(UserError, match=r"no column 'image'; did you mean .* \(columns: img, label\)"):
        load_dataset(TinyCIFAR10(), data_root=tiny_cifar, image_column="image")
    with pytest.raises(UserError, match=r"cifar10 train: no column 'fine' .*`label_column`"):
        load_dataset(TinyCIFAR10(), data_root=tiny_cifar, label_column="fine")
    next(tiny_cifar.rglob("test-*.parquet")).unlink()
    with pytest.raises(UserError, match=r"no test-\*\.parquet there or below it"):
        load_dataset(TinyCIFAR10(), data_root=tiny_cifar)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"<html>404</html>", "HTML"),
        (b"PAR1 cut", "without its end"),
        (b"PAR1 not really PAR1", "cannot read its parquet files|could not be read"),
        (None, "a pipe"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_damaged_file_is_named(tiny_cifar: Path, content: bytes | None, message: str, stream: bool) -> None:
    file = next(tiny_cifar.rglob("test-*.parquet"))
    file.unlink()
    if content is None:
        os.mkfifo(file)
    else:
        file.write_bytes(content)
    with pytest.raises(DamagedFile, match=message):
        load_dataset(TinyCIFAR10(), data_root=tiny_cifar, stream=stream)


@pytest.mark.parametrize(
    ("label", "shown"), [(-1, r"label -1 is not allowed .*0\.\.9"), (None, r"no label \(2 of 22 rows")]
)
def test_label_outside_the_classes_is_named(tmp_path: Path, label: int | None, shown: str) -> None:
    folder = tmp_path / "uoft-cs" / "cifar10"
    save_split(folder, "train", [*range(10), label] * 2, 10, columns=("img", "label"))
    save_split(folder, "test", [0], 10, columns=("img", "label"))
    with pytest.raises(UserError, match=rf"uoft-cs/cifar10 train row 10: {shown}"):
        load_dataset(TinyCIFAR10(), data_root=tmp_path)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_row_is_named_while_loading_or_skipped(tmp_path: Path, num_workers: int) -> None:
    folder = tmp_path / "uoft-cs" / "cifar10"
    save_split(folder, "train", [index % 10 for index in range(60)], 10, columns=("img", "label"))
    save_split(folder, "test", [index % 10 for index in range(20)], 10, columns=("img", "label"), broken=13)
    data = build_datamodule(TinyCIFAR10(), preprocessing=PREPROCESSING, data_root=tmp_path, num_workers=num_workers)
    with pytest.raises(UserError, match=r"^uoft-cs/cifar10 test row 13 \(13.png\): not an image"):
        list(data.test_dataloader())
    with pytest.warns(UserWarning, match="1 image that cannot be read"):
        skipping = load_dataset(TinyCIFAR10(), data_root=tmp_path, on_bad_image="skip")
    assert skipping.split_sizes["test"] == 19


def test_no_network_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(UserError, match=r"cannot get uoft-cs/cifar10 .*`data_root`=DIR .*HF_HUB_OFFLINE=1"):
        load_dataset("cifar10")


def test_birdsnap_says_that_it_must_be_supplied(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"birdsnap has no complete copy on the hub.*`allow_decayed`=True"):
        load_dataset("birdsnap")
    with pytest.raises(UserError, match=r"Looked for it in .*birdsnap"):
        load_dataset("birdsnap", data_root=tmp_path)


def test_class_folders_of_birdsnap_are_taken_if_decay_is_allowed(tmp_path: Path) -> None:
    for name in ("train/heron", "train/owl", "test/heron", "test/owl"):
        for index in range(6):
            path = tmp_path / "birdsnap" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(index))
    with pytest.raises(UserError, match="train: 47386 images expected, 12 found"):
        load_dataset("birdsnap", data_root=tmp_path)

    class TinyBirdsnap(Birdsnap):
        num_examples: ClassVar = {"train": 14, "test": 12}
        images_per_class: ClassVar = {}

    data = load_dataset(TinyBirdsnap(), data_root=tmp_path, allow_decayed=True)
    assert data.split_sizes == {"train": 11, "val": 1, "test": 12}
    assert data.decay == {"train": "12 of 14 train images"}


def test_decay_is_allowed_only_where_images_are_gone(tiny_cifar: Path) -> None:
    with pytest.raises(UserError, match="cifar10 can be had complete; `allow_decayed` is for birdsnap"):
        load_dataset(TinyCIFAR10(), data_root=tiny_cifar, allow_decayed=True)


def test_a_published_dataset_is_judged_by_what_the_literature_quotes(tiny_cifar: Path) -> None:
    assert load_dataset(TinyCIFAR10(), data_root=tiny_cifar).metric == "top1"
    with pytest.raises(UserError, match="cifar10 is judged by top1; `metric` is for dataset 'folder'"):
        load_dataset(TinyCIFAR10(), data_root=tiny_cifar, metric="mean_per_class")
    with pytest.raises(UserError, match=r"unknown metric 'f1'.*mean_per_class"):
        load_dataset(TinyCIFAR10(), data_root=tiny_cifar, metric="f1")


def in_memory(name: str, size: int, labels: list[int] | None = None) -> Split:
    """A split of so many images that nothing reads."""
    table = encoded_images([(b"", "")])
    return Split(name, table, np.zeros(size, np.int64), torch.tensor(labels or [0] * size))


@pytest.mark.parametrize(
    ("sheet", "sizes", "cause"),
    [
        (Flowers, {"train": 7_169, "val": 1_020, "test": 1_020}, "nelorth/oxford-flowers, which is cut anew"),
        (Flowers, {"train": 6_149, "val": 1_020, "test": 1_020}, "train and test are swapped"),
        (Flowers, {"train": 2_040, "val": 1_020, "test": 6_149}, "train holds val too"),
        (Aircraft, {"train": 7_000, "val": 1_500, "test": 1_500}, "GATE-engine/aircraft"),
        (Aircraft, {"train": 6_667, "val": 3_333, "test": 3_333}, "train holds val too"),
        (Pets, {"train": 7_390, "test": 3_669}, "every image of the archive, not split"),
        (Pets, {"train": 3_669, "test": 3_680}, "train and test are swapped"),
        (Food101, {"train": 101_000, "test": 25_250}, "train holds all images, not split"),
        (Food101, {"train": 75_750, "test": 8 * 25_250}, "test is there 8 times"),
        (Birdsnap, {"train": 16_000, "test": 1_851}, "the hub's copy of what was left"),
        (Birdsnap, {"train": 39_860, "test": 0}, "sasha/birdsnap, which has no test split"),
    ],
)
def test_a_known_wrong_copy_is_named(sheet: type[Sheet], sizes: dict[str, int], cause: str) -> None:
    splits = {name: in_memory(f"x {name}", size) for name, size in sizes.items()}
    with pytest.raises(UserError, match=rf"images expected, \d+ found.*\. Likely cause: .*{cause}"):
        check_official(splits, sheet(), 1)


def test_a_copy_without_a_split_says_what_it_is(tmp_path: Path) -> None:
    save_split(tmp_path / "timm" / "oxford-iiit-pet", "train", [0, 1], 37)

    class TwoPets(Pets):
        class_counts: ClassVar = {}
        num_examples: ClassVar = {"train": 1, "test": 1}

    with pytest.raises(
        UserError, match=r"needed for the test split \(found: train 2\)\. Likely cause: train holds all"
    ):
        load_dataset(TwoPets(), data_root=tmp_path)


class TwoOfEach(Benchmark):
    num_examples: ClassVar = {"train": 4}
    images_per_class: ClassVar = {"train": (2, 2)}
    num_classes = 2


class OneToThree(TwoOfEach):
    images_per_class: ClassVar = {"train": (1, 3)}


def test_the_right_size_with_other_class_counts_is_refused() -> None:
    splits = {"train": in_memory("x train", 4, [0, 0, 0, 1])}
    with pytest.raises(UserError, match=r"x train: 2 images of each class expected, 3 of class 0 found.*cut anew"):
        check_official(splits, TwoOfEach(), 2)
    check_official(splits, OneToThree(), 2)


def full_size(sheet: Sheet, permuted: dict[str, list[int]] | None = None) -> dict[str, Split]:
    """Splits with the official number of images of each class, as if nothing but the labels were known."""
    splits = {}
    for name, size in sheet.num_examples.items():
        counts = list(sheet.class_counts.get(name, ()))
        if not counts:
            each, rest = divmod(size, sheet.num_classes)
            counts = [each + (index < rest) for index in range(sheet.num_classes)]
        counts = [counts[index] for index in (permuted or {}).get(name, range(len(counts)))]
        splits[name] = in_memory(f"x {name}", size, np.repeat(np.arange(len(counts)), counts).tolist())
    return splits


@pytest.mark.parametrize("name", ["flowers", "cars", "pets"])
def test_labels_in_another_order_under_official_names_are_refused(name: str) -> None:
    """Flowers whose ids were sorted as text, cars and pets whose names were sorted: label i means another class."""
    sheet = get_sheet(name)
    assert {split: sum(counts) for split, counts in sheet.class_counts.items()}.items() <= sheet.num_examples.items()
    for split, counts in sheet.class_counts.items():
        assert (min(counts), max(counts)) == sheet.images_per_class[split]
    check_official(full_size(sheet), sheet, sheet.num_classes)
    names = [str(index + 1) for index in range(102)] if name == "flowers" else sheet.official_names
    capitals = names if name != "pets" else [n.capitalize() if n[0] in "abemprs" else n for n in names]
    order = sorted(range(len(names)), key=lambda index: capitals[index])
    with pytest.raises(UserError, match=r"x (train|test): .* a copy whose labels are in another order than its class"):
        check_official(full_size(sheet, dict.fromkeys(sheet.class_counts, order)), sheet, sheet.num_classes)


def test_pets_whose_files_name_another_class_are_refused(tmp_path: Path) -> None:
    sheet = get_sheet("pets")
    files = [(b"x", "images/Abyssinian_1.jpg"), (b"y", "American_Bulldog_12.jpg"), (b"z", "3.png"), (b"w", "")]
    split = Split("x train", encoded_images(files), np.arange(4), torch.tensor([0, 1, 2, 3]))
    sheet.check_files({"train": split})
    with pytest.raises(UserError, match=r"x train: American_Bulldog_12\.jpg is labelled 'abyssinian'"):
        sheet.check_files({"train": replace(split, labels=torch.tensor([0, 0, 2, 3]))})


def test_flowers_without_ids_are_of_unknown_cut() -> None:
    splits = {name: in_memory(f"x {name}", size) for name, size in Flowers.num_examples.items()}
    with pytest.warns(UserWarning, match="x train: its files do not carry the authors' ids, so whether it is the offi"):
        get_sheet("flowers").check_files(splits)


def test_a_copy_of_another_name_is_read_with_the_splits_of_a_known_one(tmp_path: Path, tiny_cifar: Path) -> None:
    (tiny_cifar / "uoft-cs").rename(tiny_cifar / "someone")
    data = load_dataset(TinyCIFAR10(), data_root=tiny_cifar, hub_id="someone/cifar10")
    assert data.split_sizes == {"train": 50, "val": 10, "test": 20}
    assert data.splits["test"].image_name(4) == "someone/cifar10 test row 4 (4.png)"
    with pytest.raises(UserError, match=r"no folder .*someone/else, where `data_root` should hold the files of"):
        load_dataset(TinyCIFAR10(), data_root=tiny_cifar, hub_id="someone/else")
    with pytest.raises(UserError, match="digits is not on the hub; `hub_id` is for published datasets"):
        load_dataset("digits", hub_id="someone/cifar10")

    class TinyAircraft(Aircraft):
        num_examples: ClassVar = {"train": 200, "val": 100, "test": 100}
        images_per_class: ClassVar = {"train": (2, 2)}

    # The second known copy calls its val split `validation`.
    for split, size in {"train": 200, "validation": 100, "test": 100}.items():
        labels = [index % 100 for index in range(size)]
        names = load_class_names("aircraft")
        save_split(tmp_path / "my" / "planes", split, labels, 100, columns=("image", "variant"), names=names)
    assert load_dataset(TinyAircraft(), data_root=tmp_path, hub_id="my/planes").split_sizes["val"] == 100
    (tmp_path / "my" / "planes" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match=r"no val-\*\.parquet there or below it, needed for the val split"):
        load_dataset(TinyAircraft(), data_root=tmp_path, hub_id="my/planes")


def test_pets_sorted_with_capitals_first_are_refused() -> None:
    """As `sorted` gives the archive's names, in which cats have capitals."""
    cats = "abyssinian bengal birman bombay british_shorthair egyptian_mau maine_coon persian ragdoll russian_blue"
    official = load_class_names("pets")
    in_archive = [
        "_".join(word.capitalize() for word in name.split("_"))
        if name in [*cats.split(), "siamese", "sphynx"]
        else name
        for name in official
    ]
    assert check_class_order(in_archive, official, {}, "pets") == official
    with pytest.raises(
        UserError,
        match=r"class 1 is 'american_bulldog', found 'Bengal' \(33 of 37 differ\).*Likely cause: .*capitals first",
    ):
        check_class_order(sorted(in_archive), official, {}, "pets")


def test_food_in_the_order_of_torchvision_is_refused() -> None:
    official = load_class_names("food101")
    assert official[16:18] == ("cheesecake", "cheese_plate")
    with pytest.raises(UserError, match=r"class 16 is 'cheesecake', found 'cheese_plate' \(2 of 101 differ\)"):
        check_class_order(sorted(official), official, {}, "food")


def test_ids_sorted_as_text_are_refused() -> None:
    with pytest.raises(UserError, match=r"class 0 is 'pink primrose', found '1' .*'10' before '2'"):
        check_class_order(sorted(map(str, range(1, 103))), load_class_names("flowers"), {}, "flowers")


def test_a_misspelt_name_is_corrected_and_a_few_others_are_only_named() -> None:
    official = load_class_names("cifar100")
    hub = [name if name != "crab" else "cra" for name in official]
    assert check_class_order(hub, official, CIFAR100.name_aliases, "cifar100") == official
    with pytest.warns(UserWarning, match=r"another spelling than the authors': \['cra'\]"):
        assert check_class_order(hub, official, {}, "cifar100") == official


# The numbers of classes that plain sorting moves were counted on other copies of the lists.
@pytest.mark.parametrize(("name", "moved"), [("cars", 143), ("food101", 2), ("aircraft", 0), ("cifar100", 0)])
def test_the_official_names_are_in_the_official_order(name: str, moved: int) -> None:
    names = load_class_names(name)
    assert len({name_key(label) for label in names}) == len(names) == get_sheet(name).num_classes
    assert sum(ours != plain for ours, plain in zip(names, sorted(names), strict=True)) == moved


@pytest.mark.parametrize("labels", [["Yak-42", "707-320", "F-16A/B"], [99, 0, 72]])
def test_labels_without_declared_names_get_the_official_order(labels: list[str] | list[int]) -> None:
    table = datasets.Dataset.from_dict({"image": [png(0)] * 3, "label": labels})
    names, splits = read_splits(
        {"train": table},
        "hub",
        "image",
        "label",
        ReadOptions(),
        official_names=load_class_names("aircraft"),
    )
    assert len(names) == 100 and splits["train"].labels.tolist() == [99, 0, 72]


def test_a_text_label_outside_the_official_names_is_named() -> None:
    table = datasets.Dataset.from_dict({"image": [png(0)] * 2, "label": ["Yak-42", "Yak-41"]})
    with pytest.raises(
        UserError, match=r"hub train row 1: label 'Yak-41' is no official class name; did you mean 'Yak"
    ):
        read_splits(
            {"train": table},
            "hub",
            "image",
            "label",
            ReadOptions(),
            official_names=load_class_names("aircraft"),
        )


COPIES = (HubCopy("first/gone", revision="a" * 40), HubCopy("second/there"))


@pytest.mark.parametrize("missing", [RepositoryNotFoundError, RevisionNotFoundError])
def test_a_copy_that_was_removed_is_replaced_by_the_fallback(
    missing: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def info(self: object, repo_id: str, **options: object) -> None:
        if repo_id == "first/gone":
            raise missing.__new__(missing, "404")

    table = datasets.Dataset.from_dict({"label": [0]})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, *args, **options: {"train": table, "test": table})
    with pytest.warns(UserWarning, match="first/gone is not on the hub any more; taking second/there instead"):
        copy, tables = from_first_copy(COPIES, load_hub_tables)
    assert copy.id == "second/there" and tables.keys() == {"train", "test"}


def test_a_failing_network_is_not_answered_by_another_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(self: object, repo_id: str, **options: object) -> None:
        asked.append(repo_id)
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(UserError, match="cannot get first/gone"):
        from_first_copy(COPIES, load_hub_tables)
    assert asked == ["first/gone"]


def test_where_no_copy_is_left_the_first_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def info(self: object, repo_id: str, **options: object) -> None:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError, "404")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    with pytest.raises(UserError, match="cannot get first/gone from the hub"):
        from_first_copy(COPIES, load_hub_tables)


@pytest.mark.parametrize("name", [*OFFICIAL, "birdsnap"])
def test_every_sheet_has_a_fallback_and_an_archive(name: str) -> None:
    sheet = get_sheet(name)
    first, fallback = sheet.copies
    assert fallback.id != first.id and fallback.split_names.keys() == first.split_names.keys()
    assert sheet.layout is not None and sheet.layout.needs and sheet.layout.archives
    assert len(sheet.official_names) in (0, sheet.num_classes)


def test_names_and_nearest_name() -> None:
    assert list_datasets() == sorted([*OFFICIAL, *MORE, "birdsnap", "digits", "folder"])
    assert [get_sheet(name).name for name in list_datasets()] == list_datasets()
    with pytest.raises(UserError, match="unknown dataset 'cifar1'; did you mean 'cifar10"):
        get_sheet("cifar1")


# EfficientNet paper (arXiv:1905.11946v5), Table 6: classes, training and test images. It misprints Pets' 3,669.
TABLE_6 = {
    "cifar10": (10, 50_000, 10_000),
    "cifar100": (100, 50_000, 10_000),
    "cars": (196, 8_144, 8_041),
    "flowers": (102, 2_040, 6_149),
    "aircraft": (100, 6_667, 3_333),
    "pets": (37, 3_680, 3_669),
    "food101": (101, 75_750, 25_250),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_declared_sizes_agree_with_the_paper(name: str) -> None:
    sheet = get_sheet(name)
    declared = sheet.num_examples
    assert (sheet.num_classes, declared["train"] + declared.get("val", 0), declared["test"]) == TABLE_6[name]
    assert declared.keys() == sheet.copies[0].split_names.keys()
    assert ("val" in declared) == (sheet.val_size is None)
    assert sheet.metric == ("mean_per_class" if name in ("flowers", "aircraft", "pets") else "top1")


# Grill et al. 2020 (BYOL), appendix: images held out of the official training split.
BYOL = {"cifar10": 5_000, "cifar100": 5_067, "cars": 1_650, "pets": 740, "food101": 7_575}


@pytest.mark.parametrize("name", BYOL)
def test_val_is_as_large_as_in_byol(name: str) -> None:
    assert get_sheet(name).val_size == BYOL[name]


def test_cifar100_reads_the_fine_labels() -> None:
    assert [copy.label_column for copy in CIFAR100.copies] == ["fine_label"] * 2


@pytest.mark.skipif(not (SHARED_DATA / "uoft-cs").is_dir(), reason="CIFAR-10 is not at ../shared/data")
def test_real_cifar10() -> None:
    data = load_dataset("cifar10", data_root=SHARED_DATA)
    assert data.split_sizes == {"train": 45_000, "val": 5_000, "test": 10_000}
    assert data.class_counts == {"train": [4_500] * 10, "val": [500] * 10, "test": [1_000] * 10}
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert data.class_names == tuple(names.split())
    assert data.fingerprint == {
        "train": "2c1ed31e6a1d1b84d745c5c82e0c40a1",
        "val": "6368380c435f50784e02ec97c1b5dd0d",
        "test": "4775614877db61b451c3b45e5079eba0",
    }
