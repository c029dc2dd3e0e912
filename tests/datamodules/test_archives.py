"""The authors' archives: miniatures in their exact on-disk format, and the real label files where they are at hand."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.io
from PIL import Image

from datamodules import load_dataset
from datamodules.datamodule import DataModule
from datamodules.dataset.layout import Layout, OfficialFile
from datamodules.dataset.loaded import Dataset
from datamodules.dataset.sheet import load_class_names
from datamodules.reading.archives import from_one, read_columns, read_lines, read_mat
from datamodules.reading.cifar import read_split
from datamodules.reading.official_files import check_official_files
from datamodules.reading.pickles import read_pickle
from datamodules.sheets.aircraft import Aircraft
from datamodules.sheets.birdsnap import Birdsnap
from datamodules.sheets.cars import Cars
from datamodules.sheets.cifar import CIFAR10, CIFAR100
from datamodules.sheets.flowers import Flowers
from datamodules.sheets.food import Food101
from datamodules.sheets.pets import Pets
from tests.support.data import PREPROCESSING
from transfer.errors import DamagedFile, UserError
from transfer.images.decode import decode_image

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def save_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


def file_names(data: Dataset, split: str) -> list[str]:
    """The names of a split's files, in order."""
    return [Path(data.splits[split].image_name(index)).name for index in range(len(data.splits[split]))]


def all_labels(data: Dataset, split: str) -> dict[str, int]:
    """File name -> label."""
    return dict(zip(file_names(data, split), data.splits[split].labels.tolist(), strict=True))


# --------------------------------------------------------------------------- CIFAR


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2's cPickle wrote: byte strings as such, and numpy under its name of that time."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, value: bytes) -> None:
        if len(value) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(value)]) + value)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes

    def save_text(self, value: str) -> None:
        self.save_bytes(value.encode())

    dispatch[str] = save_text

    def save_global(self, value: Any, name: str | None = None) -> None:
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{name or value.__name__}\n".encode())
        self.memoize(value)

    dispatch[type] = save_global
    dispatch[type(save_bytes)] = save_global


def save_pickle(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        Python2Pickler(stream, protocol=2).dump(content)


def cifar_pixels(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, 3072), dtype=np.uint8)


class TinyCIFAR10(CIFAR10):
    num_examples: ClassVar = {"train": 50, "test": 10}
    images_per_class: ClassVar = {"train": (5, 5), "test": (1, 1)}
    val_size = 10


class TinyCIFAR100(CIFAR100):
    num_examples: ClassVar = {"train": 200, "test": 100}
    images_per_class: ClassVar = {"train": (2, 2), "test": (1, 1)}
    val_size = 100


def save_cifar10(folder: Path) -> None:
    names = list(load_class_names("cifar10"))
    save_pickle(folder / "batches.meta", {b"label_names": names, b"num_cases_per_batch": 10, b"num_vis": 3072})
    for seed, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        batch = {
            b"batch_label": f"batch {name}",
            b"labels": [(index + seed) % 10 for index in range(10)],
            b"data": cifar_pixels(10, seed),
            b"filenames": [f"{name}_s_{index:06d}.png" for index in range(10)],
        }
        save_pickle(folder / name, batch)


def test_the_miniature_pickle_is_what_python_2_wrote(tmp_path: Path) -> None:
    save_pickle(tmp_path / "x", {b"data": cifar_pixels(2, 0)})
    content = (tmp_path / "x").read_bytes()
    assert content.startswith(b"\x80\x02}") and b"cnumpy.core.multiarray\n_reconstruct\n" in content
    assert b"_codecs" not in content
    assert (pickle.loads(content, encoding="bytes")[b"data"] == cifar_pixels(2, 0)).all()


@pytest.mark.parametrize("below", ["cifar-10-batches-py", "cifar10/cifar-10-batches-py", "cifar10", ""])
def test_cifar10_batches_are_read_exactly_wherever_they_lie(tmp_path: Path, below: str) -> None:
    save_cifar10(tmp_path / below)
    data = load_dataset(TinyCIFAR10(), data_root=tmp_path)
    assert data.split_sizes == {"train": 40, "val": 10, "test": 10}
    assert data.class_names == load_class_names("cifar10")
    planes = cifar_pixels(10, 5).reshape(10, 3, 32, 32)
    for index in range(10):
        assert (decode_image(data.splits["test"].encoded(index)) == planes[index].transpose(1, 2, 0)).all()
    assert data.splits["test"].labels.tolist() == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]
    assert data.splits["test"].image_name(3) == "cifar10 test row 3 (test_batch_s_000003.png)"
    images, _ = next(iter(DataModule(data, PREPROCESSING, num_workers=0).train_dataloader()))
    assert images.shape == (40, 32, 32, 3)


def test_cifar100_takes_the_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    names = list(load_class_names("cifar100"))
    save_pickle(folder / "meta", {b"fine_label_names": names, b"coarse_label_names": ["fish"] * 20})
    for seed, (split, size) in enumerate({"train": 200, "test": 100}.items()):
        batch = {
            b"filenames": [f"{index}.png" for index in range(size)],
            b"fine_labels": [index % 100 for index in range(size)],
            b"coarse_labels": [0] * size,
            b"data": cifar_pixels(size, seed),
        }
        save_pickle(folder / split, batch)
    data = load_dataset(TinyCIFAR100(), data_root=tmp_path)
    assert data.class_counts == {"train": [1] * 100, "val": [1] * 100, "test": [1] * 100}
    assert data.class_names[26] == "crab"


class Trap:
    """Unpickles into a call of `shutil.rmtree`."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return shutil.rmtree, (str(self.victim),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "meta").write_bytes(pickle.dumps({"label_names": Trap(victim)}, protocol=protocol))
    with pytest.raises(UserError, match=r"meta: refused \(it asks for shutil\.rmtree\)"):
        read_pickle(tmp_path / "meta")
    assert victim.is_dir()


@pytest.mark.parametrize("content", [b"", b"junk", b"\x80\x02}", b"<html>404</html>", pickle.dumps([1, 2])])
def test_what_is_no_dictionary_in_a_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(UserError, match=r"test_batch: (refused|a list, where)"):
        read_pickle(tmp_path / "test_batch")


def test_a_pickle_that_python_3_wrote_is_read_too(tmp_path: Path) -> None:
    pixels = cifar_pixels(2, 0)
    (tmp_path / "x").write_bytes(pickle.dumps({b"data": pixels, "labels": [1, 2]}, protocol=2))
    content = read_pickle(tmp_path / "x")
    assert (content["data"] == pixels).all() and content["labels"] == [1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": cifar_pixels(9, 0)}, r"data is uint8 \(9, 3072\), where uint8 \(10, 3072\) is expected"),
        ({b"data": cifar_pixels(10, 0).astype(np.float32)}, r"data is float32 \(10, 3072\), where uint8"),
        ({b"labels": [10] * 10}, r"label 10 is not in 0\.\.9"),
    ],
)
def test_a_damaged_batch_is_named(tmp_path: Path, change: dict[bytes, Any], message: str) -> None:
    save_cifar10(tmp_path)
    batch = {b"labels": [0] * 10, b"data": cifar_pixels(10, 0)} | change
    save_pickle(tmp_path / "data_batch_3", batch)
    with pytest.raises(UserError, match=rf"data_batch_3: {message}"):
        load_dataset(TinyCIFAR10(), data_root=tmp_path)
    save_pickle(tmp_path / "data_batch_3", {b"data": cifar_pixels(10, 0)})
    with pytest.raises(UserError, match=r"data_batch_3: no 'labels' in it \(it has: data\)"):
        load_dataset(TinyCIFAR10(), data_root=tmp_path)


# --------------------------------------------------------------------------- where archives are looked for


def test_every_place_and_the_needed_files_are_listed(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset("food101", data_root=tmp_path)
    text = str(caught.value)
    assert text.startswith(f"no folder {tmp_path}/ethz/food101: `data_root`=DIR must hold DIR/<hub id>/**/<split>-*")
    assert "a folder with meta/classes.txt, meta/train.json, meta/test.json, images." in text
    places = ("", "/food-101", "/food101", "/food101/food-101")
    assert "Looked for it in " + ", ".join(f"{tmp_path}{place}" for place in places) + "." in text


def test_an_archive_that_is_not_extracted_gets_its_command(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").touch()
    command = f"tar -xf {tmp_path}/cifar-10-python.tar.gz -C {tmp_path}"
    with pytest.raises(UserError) as caught:
        load_dataset("cifar10", data_root=tmp_path)
    assert f"Extract what is there with: {command}." in str(caught.value)


def test_an_incomplete_archive_says_what_it_lacks(tmp_path: Path) -> None:
    save_cifar10(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(UserError, match=r"cifar-10-batches-py lacks data_batch_4\."):
        load_dataset(TinyCIFAR10(), data_root=tmp_path)


def test_the_hub_layout_comes_first(tmp_path: Path) -> None:
    save_cifar10(tmp_path)
    (tmp_path / "uoft-cs" / "cifar10").mkdir(parents=True)
    with pytest.raises(UserError, match=r"uoft-cs/cifar10: no train-\*\.parquet"):
        load_dataset(TinyCIFAR10(), data_root=tmp_path)


# --------------------------------------------------------------------------- Flowers


class TinyFlowers(Flowers):
    """Two images of each class in train and val, three in test."""

    layout = replace(Flowers.layout, files=())
    class_counts: ClassVar = {}
    id_digests: ClassVar = {}
    num_examples: ClassVar = {"train": 204, "val": 204, "test": 306}
    images_per_class: ClassVar = {"train": (2, 2), "val": (2, 2), "test": (3, 3)}


def save_flowers(folder: Path, swap: bool = False) -> dict[str, np.ndarray]:
    order = np.random.default_rng(0).permutation(714) + 1
    labels = np.empty(714, np.uint8)
    ids = {"trnid": order[:204], "valid": order[204:408], "tstid": order[408:]}
    for members in ids.values():
        labels[members - 1] = np.arange(len(members)) % 102 + 1
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    if swap:
        ids["trnid"], ids["tstid"] = ids["tstid"], ids["trnid"]
    scipy.io.savemat(folder / "setid.mat", {name: members[None].astype(np.uint16) for name, members in ids.items()})
    for image in order:
        save_image(folder / "jpg" / f"image_{image:05d}.jpg", int(image))
    return {**ids, "labels": labels}


def test_flowers_ids_and_classes_count_from_1(tmp_path: Path) -> None:
    saved = save_flowers(tmp_path)
    data = load_dataset(TinyFlowers(), data_root=tmp_path)
    assert data.split_sizes == {"train": 204, "val": 204, "test": 306}
    for split, name in {"train": "trnid", "val": "valid", "test": "tstid"}.items():
        expected = {f"image_{image:05d}.jpg": int(saved["labels"][image - 1]) - 1 for image in saved[name]}
        assert all_labels(data, split) == expected
    assert data.class_names[0] == "pink primrose" and data.class_names[101] == "blackberry lily"


def test_swapped_train_and_test_flowers_are_recognised(tmp_path: Path) -> None:
    save_flowers(tmp_path, swap=True)
    with pytest.raises(UserError, match=r"train: 204 images expected, 306 found.*train and test are swapped"):
        load_dataset(TinyFlowers(), data_root=tmp_path)


def test_flower_labels_from_0_are_refused(tmp_path: Path) -> None:
    saved = save_flowers(tmp_path)
    scipy.io.savemat(tmp_path / "imagelabels.mat", {"labels": saved["labels"][None] - 1})
    with pytest.raises(UserError, match=r"imagelabels\.mat row \d+: label 0 is not in 1\.\.102 \(the file counts from"):
        load_dataset(TinyFlowers(), data_root=tmp_path)


def test_a_label_file_with_another_checksum_is_refused(tmp_path: Path) -> None:
    save_flowers(tmp_path)

    class StrictFlowers(TinyFlowers):
        layout = Flowers.layout

    with pytest.raises(UserError, match=r"setid\.mat: SHA-256 46b8678f91fd95d3\w+ expected, \w{64} found; not the au"):
        load_dataset(StrictFlowers(), data_root=tmp_path)


def test_missing_images_are_counted_and_named(tmp_path: Path) -> None:
    saved = save_flowers(tmp_path)
    gone = [f"image_{image:05d}.jpg" for image in saved["valid"][:7]]
    for name in gone:
        (tmp_path / "jpg" / name).unlink()
    with pytest.raises(UserError, match=rf"flowers val: 7 of 204 listed images are not in .*jpg/{gone[0]}"):
        load_dataset(TinyFlowers(), data_root=tmp_path)


@pytest.mark.skipif(not (SHARED_DATA / "flowers102").is_dir(), reason="the .mat files are not at ../shared/data")
def test_the_real_flower_lists_give_the_official_splits(tmp_path: Path) -> None:
    check_official_files(SHARED_DATA / "flowers102", Flowers.layout)
    for name in ("setid.mat", "imagelabels.mat"):
        shutil.copy(SHARED_DATA / "flowers102" / name, tmp_path)
    (tmp_path / "jpg").mkdir()
    for image in range(1, 8_190):  # their content is not looked at
        (tmp_path / "jpg" / f"image_{image:05d}.jpg").touch()
    data = load_dataset(Flowers(), data_root=tmp_path)
    assert data.split_sizes == {"train": 1_020, "val": 1_020, "test": 6_149}
    assert data.class_counts["train"] == data.class_counts["val"] == [10] * 102
    moved = scipy.io.loadmat(tmp_path / "setid.mat")
    moved["trnid"][0, 0], moved["valid"][0, 0] = moved["valid"][0, 0], moved["trnid"][0, 0]
    scipy.io.savemat(tmp_path / "setid.mat", {name: moved[name] for name in ("trnid", "valid", "tstid")})
    with pytest.raises(UserError, match=r"setid\.mat: SHA-256"):
        load_dataset(Flowers(), data_root=tmp_path)

    class WithoutMD5(Flowers):
        layout = replace(Flowers.layout, files=())

    # Two images of one class that change places leave every count as it was.
    with pytest.raises(UserError, match="flowers train: the ids in its files' names are not those of the official"):
        load_dataset(WithoutMD5(), data_root=tmp_path)
    totals = np.sum([data.class_counts[name] for name in data.splits], axis=0)
    assert (totals.min(), totals.max(), totals.sum()) == (40, 258, 8_189)
    members = Counter(name for split in data.splits for name in file_names(data, split))
    assert len(members) == 8_189 and set(members.values()) == {1}


# --------------------------------------------------------------------------- Cars


class TinyCars(Cars):
    class_counts: ClassVar = {}
    num_examples: ClassVar = {"train": 392, "test": 196}
    images_per_class: ClassVar = {"train": (2, 2), "test": (1, 1)}
    val_size = 196
    layout = replace(Cars.layout, files=())


def save_annotations(path: Path, files: list[str], classes: list[int] | None) -> None:
    """A Matlab struct array as the devkit has it; its test file has no classes."""
    boxes = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"]
    fields = [*boxes, *(["class"] if classes is not None else []), "fname"]
    rows = np.empty((1, len(files)), dtype=[(name, object) for name in fields])
    for index, file in enumerate(files):
        for name in boxes:
            rows[0, index][name] = np.uint16(index + 1)
        if classes is not None:
            rows[0, index]["class"] = np.uint8(classes[index])
        rows[0, index]["fname"] = file
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"annotations": rows})


def save_cars(folder: Path, labelled_in: str = "") -> None:
    names = np.empty((1, 196), dtype=object)
    names[0] = load_class_names("cars")
    (folder / "devkit").mkdir(parents=True)
    scipy.io.savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    train, test = [f"{n:05d}.jpg" for n in range(1, 393)], [f"{n:05d}.jpg" for n in range(1, 197)]
    classes = [index % 196 + 1 for index in range(392)]
    save_annotations(folder / "devkit" / "cars_train_annos.mat", train, classes)
    save_annotations(folder / "devkit" / "cars_test_annos.mat", test, None)
    save_annotations(folder / labelled_in / "cars_test_annos_withlabels.mat", test, classes[:196][::-1])
    for split, files in {"train": train, "test": test}.items():
        for seed, file in enumerate(files):
            save_image(folder / f"cars_{split}" / file, seed)


@pytest.mark.parametrize("labelled_in", ["", "devkit"])
def test_cars_are_read_from_the_devkit(tmp_path: Path, labelled_in: str) -> None:
    save_cars(tmp_path / "stanford_cars", labelled_in)
    data = load_dataset(TinyCars(), data_root=tmp_path)
    assert data.class_counts == {"train": [1] * 196, "val": [1] * 196, "test": [1] * 196}
    assert data.class_names[0] == "AM General Hummer SUV 2000" and "Ram C/V Cargo Van Minivan 2012" in data.class_names
    labels = all_labels(data, "test")
    assert (labels["00001.jpg"], labels["00196.jpg"]) == (195, 0)
    assert {**all_labels(data, "train"), **all_labels(data, "val")}["00197.jpg"] == 0


@pytest.mark.parametrize("as_number", [np.uint8, bool])
def test_cars_are_read_from_the_single_folder(tmp_path: Path, as_number: type) -> None:
    fields = ["relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test"]
    rows = np.empty((1, 588), dtype=[(name, object) for name in fields])
    for index in range(588):
        is_test = index % 3 == 2
        number = index // 3 if is_test else index - (index + 1) // 3  # in its split
        values = [f"car_ims/{index + 1:06d}.jpg", 1, 2, 3, 4, np.uint8(number % 196 + 1), as_number(is_test)]
        for name, value in zip(fields, values, strict=True):
            rows[0, index][name] = value
        save_image(tmp_path / "car_ims" / f"{index + 1:06d}.jpg", index)
    names = np.empty((1, 196), dtype=object)
    names[0] = load_class_names("cars")
    scipy.io.savemat(tmp_path / "cars_annos.mat", {"annotations": rows, "class_names": names})
    data = load_dataset(TinyCars(), data_root=tmp_path)
    assert data.class_counts == {"train": [1] * 196, "val": [1] * 196, "test": [1] * 196}
    labels = all_labels(data, "test")
    assert (labels["000003.jpg"], labels["000006.jpg"], labels["000588.jpg"]) == (0, 1, 195)
    (tmp_path / "car_ims").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"devkit/cars_meta\.mat or car_ims, cars_annos\.mat\. Looked for it in"):
        load_dataset(TinyCars(), data_root=tmp_path)


def test_cars_without_test_classes_say_which_file_is_missing(tmp_path: Path) -> None:
    save_cars(tmp_path)
    (tmp_path / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(UserError, match=r"no cars_test_annos_withlabels\.mat .* cars_test_annos\.mat names no classes"):
        load_dataset(TinyCars(), data_root=tmp_path)
    shutil.copy(tmp_path / "devkit" / "cars_test_annos.mat", tmp_path / "cars_test_annos_withlabels.mat")
    with pytest.raises(UserError, match=r"no field 'class' \(fields: bbox_x1, bbox_y1, bbox_x2, bbox_y2, fname\)"):
        load_dataset(TinyCars(), data_root=tmp_path)


def test_car_annotations_with_another_checksum_are_refused(tmp_path: Path) -> None:
    save_cars(tmp_path)

    class StrictCars(TinyCars):
        layout = Cars.layout

    with pytest.raises(UserError, match=r"withlabels\.mat: SHA-256 790f75be8ea34eeded134cc\w+ expected"):
        load_dataset(StrictCars(), data_root=tmp_path)


# --------------------------------------------------------------------------- Aircraft


class TinyAircraft(Aircraft):
    num_examples: ClassVar = {"train": 100, "val": 100, "test": 200}
    images_per_class: ClassVar = {"train": (1, 1), "val": (1, 1), "test": (2, 2)}


def save_aircraft(folder: Path) -> None:
    names = load_class_names("aircraft")
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("".join(f"{name}\n" for name in names))
    number = 34_309
    for split, size in TinyAircraft.num_examples.items():
        rows = []
        for index in range(size):
            rows.append(f"{number:07d} {names[index % 100]}\n")
            save_image(folder / "images" / f"{number:07d}.jpg", number)
            number += 7
        (folder / f"images_variant_{split}.txt").write_text("".join(rows))


def test_aircraft_names_keep_spaces_and_slashes_and_ids_their_zeros(tmp_path: Path) -> None:
    save_aircraft(tmp_path / "fgvc-aircraft-2013b" / "data")
    data = load_dataset(TinyAircraft(), data_root=tmp_path)
    assert data.class_names == load_class_names("aircraft")
    assert data.split_sizes == {"train": 100, "val": 100, "test": 200}
    labels = all_labels(data, "train")
    assert labels["0034309.jpg"] == 0
    for name in ("BAE 146-200", "F-16A/B", "F/A-18", "Embraer Legacy 600"):
        index = data.class_names.index(name)
        assert labels[f"{34_309 + 7 * index:07d}.jpg"] == index


def test_an_aircraft_variant_outside_the_list_is_named(tmp_path: Path) -> None:
    save_aircraft(tmp_path)
    with (tmp_path / "images_variant_val.txt").open("a") as stream:
        stream.write("0034309 BAE\n")
    with pytest.raises(UserError, match=r"images_variant_val\.txt: variant 'BAE' is not in variants\.txt"):
        load_dataset(TinyAircraft(), data_root=tmp_path)


# --------------------------------------------------------------------------- Pets

CATS = {"abyssinian", "bengal", "birman", "bombay", "british_shorthair", "egyptian_mau", "maine_coon", "persian"}
CATS |= {"ragdoll", "russian_blue", "siamese", "sphynx"}


class TinyPets(Pets):
    class_counts: ClassVar = {}
    num_examples: ClassVar = {"train": 74, "test": 37}
    images_per_class: ClassVar = {"train": (2, 2), "test": (1, 1)}
    val_size = 37


def save_pets(folder: Path, plain_sort: bool = False) -> None:
    names = ["_".join(map(str.capitalize, n.split("_"))) if n in CATS else n for n in load_class_names("pets")]
    names = sorted(names) if plain_sort else names
    (folder / "annotations").mkdir(parents=True)
    for file, numbers in {"trainval": (1, 102), "test": (200,)}.items():
        rows = []
        for index, name in enumerate(names):
            for number in numbers:
                rows.append(f"{name}_{number} {index + 1} {1 if name[0].isupper() else 2} {index % 25 + 1}\n")
                save_image(folder / "images" / f"{name}_{number}.jpg", number)
        (folder / "annotations" / f"{file}.txt").write_text("".join(rows))
    save_image(folder / "images" / "Abyssinian_999.jpg")  # in the archive, in no list
    (folder / "annotations" / "list.txt").write_text("#Image CLASS-ID SPECIES BREED ID\n")


def test_pets_keep_the_order_of_their_ids(tmp_path: Path) -> None:
    save_pets(tmp_path / "oxford-iiit-pet")
    data = load_dataset(TinyPets(), data_root=tmp_path)
    assert data.class_names == load_class_names("pets")
    assert data.class_counts == {"train": [1] * 37, "val": [1] * 37, "test": [1] * 37}
    labels = all_labels(data, "test")
    assert [labels[f"{n}_200.jpg"] for n in ("Abyssinian", "american_bulldog", "Bengal", "Sphynx")] == [0, 1, 5, 33]
    assert "Abyssinian_999.jpg" not in labels


def test_pets_in_plain_order_are_refused(tmp_path: Path) -> None:
    save_pets(tmp_path, plain_sort=True)
    with pytest.raises(UserError, match=r"class 1 is 'american_bulldog', found 'bengal' \(33 of 37 differ\)"):
        load_dataset(TinyPets(), data_root=tmp_path)


def test_a_pet_whose_name_and_id_disagree_is_named(tmp_path: Path) -> None:
    save_pets(tmp_path)
    path = tmp_path / "annotations" / "test.txt"
    path.write_text(path.read_text().replace("Bengal_200 6 ", "Bengal_200 7 "))
    with pytest.raises(UserError, match=r"test\.txt: class 7 is 'birman' and, for Bengal_200, 'bengal'"):
        load_dataset(TinyPets(), data_root=tmp_path)
    path.write_text("Bengal_200 6\n")
    with pytest.raises(UserError, match=r"'Bengal_200 6' is not '<image> <class> <species> <breed>'"):
        load_dataset(TinyPets(), data_root=tmp_path)


# --------------------------------------------------------------------------- Food


class TinyFood(Food101):
    num_examples: ClassVar = {"train": 303, "test": 101}
    images_per_class: ClassVar = {"train": (3, 3), "test": (1, 1)}
    val_size = 101


def save_food(folder: Path, names: list[str]) -> None:
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    for split, numbers in {"train": (1005649, 1011328, 101251), "test": (2782,)}.items():
        lists = {name: [f"{name}/{number}" for number in numbers] for name in sorted(names)}
        (folder / "meta" / f"{split}.json").write_text(json.dumps(lists))
        for path in (path for paths in lists.values() for path in paths):
            save_image(folder / "images" / f"{path}.jpg")


def test_food_keeps_cheesecake_before_cheese_plate(tmp_path: Path) -> None:
    save_food(tmp_path / "food-101", list(load_class_names("food101")))
    data = load_dataset(TinyFood(), data_root=tmp_path)
    assert data.class_names[16:18] == ("cheesecake", "cheese_plate")
    assert data.class_counts == {"train": [2] * 101, "val": [1] * 101, "test": [1] * 101}
    folders = [Path(data.splits["test"].image_name(index)).parent.name for index in range(101)]
    assert folders == list(load_class_names("food101"))
    assert data.splits["test"].labels.tolist() == list(range(101))


def test_food_sorted_by_name_is_refused(tmp_path: Path) -> None:
    save_food(tmp_path, sorted(load_class_names("food101")))
    with pytest.raises(UserError, match=r"class 16 is 'cheesecake', found 'cheese_plate'.*sorted its names as plain"):
        load_dataset(TinyFood(), data_root=tmp_path)


def test_food_lists_with_other_classes_are_refused(tmp_path: Path) -> None:
    save_food(tmp_path, list(load_class_names("food101")))
    (tmp_path / "meta" / "test.json").write_text('{"pho": []}')
    with pytest.raises(UserError, match=r"test\.json: its classes are not those of classes\.txt"):
        load_dataset(TinyFood(), data_root=tmp_path)


# --------------------------------------------------------------------------- Birdsnap


SPECIES = ["Coopers Hawk", "Acadian Flycatcher", "Brant", "Zone tailed Hawk"]  # not alphabetical


class TinyBirdsnap(Birdsnap):
    num_examples: ClassVar = {"train": 40, "test": 12}
    images_per_class: ClassVar = {"test": (3, 3)}
    num_classes = 4
    val_share = 0.1


def save_birdsnap(folder: Path) -> list[Path]:
    """Lists and all images; gives the images' paths."""
    rows = ["id\tcommon\tscientific\tdir\n"]
    images = ["url\tmd5\tpath\tspecies_id\tbb_x1\tbb_y1\tbb_x2\tbb_y2\tback_x\n"]
    test = ["path\n"]
    paths = []
    for index, name in enumerate(SPECIES):
        listed = name.replace(" ", "_")
        rows.append(f"{index + 1}\t{name}\tAvis {index}\t{listed.lower()}\n")
        for number in range(13):
            paths.append(folder / "images" / listed.lower() / f"{number:06d}.JPG")
            save_image(paths[-1], index * 100 + number)
            md5 = hashlib.md5(paths[-1].read_bytes()).hexdigest()
            images.append(f"http://x/{number}\t{md5}\t{listed}/{number:06d}.jpg\t{index + 1}\t1\t2\t3\t4\tnull\n")
            if number % 4 == 1:
                test.append(f"{listed}/{number:06d}.jpg\n")
    for name, lines in {"species": rows, "images": images, "test_images": test}.items():
        (folder / f"{name}.txt").write_text("".join(lines))
    return paths


def test_birdsnap_keeps_taxonomic_order_and_ignores_letter_case(tmp_path: Path) -> None:
    save_birdsnap(tmp_path / "birdsnap")
    data = load_dataset(TinyBirdsnap(), data_root=tmp_path)
    assert data.class_names == tuple(SPECIES)
    assert data.split_sizes == {"train": 36, "val": 4, "test": 12}
    assert data.class_counts["test"] == [3] * 4
    assert data.decay == {}
    assert set(file_names(data, "test")) == {"000001.JPG", "000005.JPG", "000009.JPG"}
    first = data.splits["test"].image_name(0)
    assert "coopers_hawk" in first and data.splits["test"].labels[0] == 0


def test_decayed_birdsnap_stops_unless_it_is_allowed(tmp_path: Path) -> None:
    paths = save_birdsnap(tmp_path)
    for path in [*paths[:13], paths[14]]:  # all of the first species, a test image of the second
        path.unlink()
    with pytest.raises(UserError, match=r"expected, 30 found \(30 of 40 train .*, 8 of 12 test .*`allow_decayed`=True"):
        load_dataset(TinyBirdsnap(), data_root=tmp_path)
    data = load_dataset(TinyBirdsnap(), data_root=tmp_path, allow_decayed=True)
    assert data.num_classes == 4 and data.class_names == tuple(SPECIES)
    assert data.decay == {"train": "30 of 40 train images", "test": "8 of 12 test images"}
    assert data.class_counts["test"] == [0, 2, 3, 3]
    assert data.split_sizes == {"train": 27, "val": 3, "test": 8}


def test_a_file_that_is_not_the_listed_photograph_counts_as_missing(tmp_path: Path) -> None:
    paths = save_birdsnap(tmp_path)
    save_image(paths[1], 4711)  # a picture, but another one
    with pytest.warns(UserWarning, match=r"1 of 52 images are not the listed photographs \(other MD5, such as Coop"):
        data = load_dataset(TinyBirdsnap(), data_root=tmp_path, allow_decayed=True)
    assert data.decay == {"test": "11 of 12 test images"}


def test_a_skipped_image_counts_as_missing(tmp_path: Path) -> None:
    path = save_birdsnap(tmp_path)[1]
    before = hashlib.md5(path.read_bytes()).hexdigest()
    path.write_bytes(b"junk")
    lists = tmp_path / "images.txt"
    lists.write_text(lists.read_text().replace(before, hashlib.md5(b"junk").hexdigest()))
    with pytest.warns(UserWarning, match="1 image that cannot be read"):
        data = load_dataset(TinyBirdsnap(), data_root=tmp_path, allow_decayed=True, on_bad_image="skip")
    assert data.decay == {"test": "11 of 12 test images"}


def test_birdsnap_1_0_without_test_images_is_refused(tmp_path: Path) -> None:
    save_birdsnap(tmp_path)
    (tmp_path / "test_images.txt").unlink()
    with pytest.raises(UserError, match=r"lacks test_images\.txt"):
        load_dataset(TinyBirdsnap(), data_root=tmp_path)


def test_a_test_image_that_no_list_has_is_named(tmp_path: Path) -> None:
    save_birdsnap(tmp_path)
    (tmp_path / "test_images.txt").write_text("path\nNobody/1.jpg\n")
    with pytest.raises(UserError, match=r"test_images\.txt: nobody/1\.jpg is not in images\.txt"):
        load_dataset(TinyBirdsnap(), data_root=tmp_path)


# --------------------------------------------------------------------------- readers


def test_files_that_are_something_else_are_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xff\xfe<html>")
    with pytest.raises(UserError, match="file line 1: not text in UTF-8"):
        read_lines(path)
    with pytest.raises(UserError, match="file: not a Matlab file"):
        read_mat(path, "labels")
    path.write_text("<html>")
    with pytest.raises(UserError, match=r"no column 'id' in its first line \(columns: <html>\)"):
        read_columns(path, "id")
    path.write_text("id\tcommon\n1\n")
    with pytest.raises(UserError, match="line 2: 1 values, 2 expected"):
        read_columns(path, "id", "common")


def test_pipes_and_labels_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    layout = Layout(needs=(), folders=(), files=(OfficialFile("pipe", md5="0"),))
    for read in (read_lines, read_mat, read_pickle, lambda path: check_official_files(path.parent, layout)):
        with pytest.raises(DamagedFile, match="pipe: a pipe, where a regular file is needed"):
            read(tmp_path / "pipe")
    assert from_one(["2", "1"], 2, "images.txt") == [1, 0]
    with pytest.raises(DamagedFile, match=r"images\.txt: its labels are not numbers"):
        from_one(["2", "one"], 2, "images.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": 3}, "'labels' is a int, where a list is expected"),
        ({"filenames": ["a.png"]}, "1 file names for 2 images"),
        ({"filenames": 5}, "'filenames' is a int, where a list is expected"),
        ({"labels": [0, 7]}, r"label 7 is not in 0\.\.1"),
    ],
)
def test_a_cifar_batch_with_other_content_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], "filenames": ["a.png", "b.png"], **change}
    (tmp_path / "batch").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DamagedFile, match=message):
        read_split("cifar10 train", [tmp_path / "batch"], "labels", 2)


def test_a_matlab_file_without_the_variable_lists_what_it_has(tmp_path: Path) -> None:
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"trnid": [1, 2]})
    (tmp_path / "setid.mat").write_bytes(stream.getvalue())
    with pytest.raises(UserError, match=r"no variable 'valid' in it \(it has: trnid\)"):
        read_mat(tmp_path / "setid.mat", "trnid", "valid")
