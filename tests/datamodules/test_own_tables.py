"""Tables of the user's own as programs write them: read right, or one line that says what to do."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from datamodules.dataset.sheet import ReadOptions
from datamodules.dataset.split import Split
from datamodules.reading.folders import read_folder, read_tables
from transfer.errors import BadValue, DamagedFile, MissingData, UserError
from transfer.images.decode import BadImage

NAMES = ("cat0", "cat1", "cat2", "dog0", "dog1", "dog2")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "img").mkdir()
    for index, name in enumerate(NAMES):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(folder / "img" / f"{name}.png")
    return folder


@pytest.fixture(autouse=True)
def _cache_in_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def read(path: Path, **options: Any) -> tuple[tuple[str, ...], dict[str, Split]]:
    return read_folder(ReadOptions(data_root=path, **options))


def write(photos: Path, text: str, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    path = photos / name
    path.write_bytes(text.encode(encoding))
    return path


def rows(sep: str = ",", label: dict[str, str] | None = None, path: str = "img/{}.png", header: str = "") -> str:
    label = label or {"cat": "cat", "dog": "dog"}
    lines = [header or sep.join(("image", "label"))]
    return "\n".join([*lines, *(f"{path.format(name)}{sep}{label[name[:3]]}" for name in NAMES)]) + "\n"


def parquet(photos: Path, labels: Any, name: str = "t.parquet") -> Path:
    pq.write_table(pa.table({"image": [f"img/{name}.png" for name in NAMES], "label": labels}), photos / name)
    return photos / name


GOOD = {
    "plain": (rows(), "utf-8", "t.csv"),
    "byte-order mark and Windows' lines": (rows().replace("\n", "\r\n"), "utf-8-sig", "t.csv"),
    "semicolon": (rows(";"), "utf-8", "t.csv"),
    "tab": (rows("\t"), "utf-8", "t.tsv"),
    "tab in txt": (rows("\t"), "utf-8", "t.txt"),
    "UTF-16 as Excel saves it": (rows("\t"), "utf-16", "t.txt"),
    "UTF-16 without a mark": (rows(), "utf-16-le", "t.csv"),
    "UTF-16 without a mark, big-endian": (rows(), "utf-16-be", "t.csv"),
    "UTF-16, big-endian": ("\ufeff" + rows(), "utf-16-be", "t.csv"),
    "blank lines": ("\n" + rows().replace("\nimg/dog0", "\n\n , \nimg/dog0") + "\n\n", "utf-8", "t.csv"),
    "blanks around": (rows(", ", header="image, label"), "utf-8", "t.csv"),
    "backslashes": (rows(path="img\\{}.png"), "utf-8", "t.csv"),
    "capitals": (rows(header="Image,LABEL"), "utf-8", "t.csv"),
    "kaggle": (rows(header="image_id,Category"), "utf-8", "t.csv"),
    "quotes": (rows(path='"img/{}.png"'), "utf-8", "t.csv"),
}


@pytest.mark.parametrize("case", GOOD)
def test_csv_as_programs_write_it(photos: Path, case: str) -> None:
    text, encoding, name = GOOD[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names, splits = read(write(photos, text, name, encoding))
    assert names == ("cat", "dog")
    assert splits["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert splits["train"].sources() == [str(photos / "img" / f"{name}.png") for name in NAMES]


def test_windows_western_encoding_is_read_and_said(photos: Path) -> None:
    path = write(photos, rows(label={"cat": "chaîne", "dog": "été"}), encoding="cp1252")
    with pytest.warns(UserWarning, match=r"not UTF-8.*cp1252 \(line 2: 'img/cat0.png,chaîne'\)"):
        assert read(path)[0] == ("chaîne", "été")


BAD = {
    "empty": (b"", "empty"),
    "blank": (b" \n\n", "empty"),
    "a page": (b"<!DOCTYPE html><html>", "HTML"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "a workbook": (b"PK\x03\x04....", "Excel"),
    "parquet": (b"PAR1\x15\x04", r"name it \.parquet"),
    "binary": (bytes(range(256)), "binary"),
    "PNG": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary"),
    "NUL in a path": (b"image,label\nimg/a\0.png,cat\n", "binary"),
    "cut in UTF-16": ("\ufeffimage,label\nx,y".encode("utf-16-le")[:-1], "binary"),
    "header only": (b"image,label\n", "without rows"),
    "an open quote": (b'image,label\n"img/cat0.png,cat\nimg/cat1.png,cat\n', "line 3: not CSV"),
    "a long line": (b"image,label\nimg/cat0.png,cat\nimg/cat1.png,cat,x\n", "line 3: 3 values for 2 columns"),
    "two label columns": (b"image,label,label\nimg/cat0.png,cat,x\n", "two columns are called 'label'"),
    "no header": (b"img/cat0.png,cat\nimg/dog0.png,dog\n", "line with the columns' names missing"),
    "a web address": (b"image,label\nhttp://host/x.png,cat\n", "row 0: http://host/x.png is a web address"),
    "no path": (b"image,label\nimg/cat0.png,cat\n,dog\n", "row 1: '' is no path"),
    "no label": (b"image,label\nimg/cat0.png,cat\nimg/cat1.png,\nimg/dog0.png,\n", r"row 1: no label \(2 of 3 rows"),
    "nan": (b"image,label\nimg/cat0.png,cat\nimg/cat1.png,nan\n", r"row 1: no label \(1 of 2 rows"),
    "twice": (b"image,label\nimg/cat0.png,cat\nimg/dog0.png,dog\nimg/cat0.png,dog\n", "row 0 and train row 2"),
    "no split": (
        b"image,label,split\nimg/cat0.png,cat,train\nimg/dog0.png,dog,\n",
        "row 1: split '' in column 'split'",
    ),
    "a fold": (b"image,label,split\nimg/cat0.png,cat,0\n", "split '0' in column 'split' .* or rename the column"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_csv_is_refused_in_one_line_that_names_it(photos: Path, case: str) -> None:
    content, message = BAD[case]
    path = photos / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=message) as caught:
        read(path)
    assert "bad.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_paths_that_start_elsewhere_are_found_for_the_message(photos: Path) -> None:
    with pytest.raises(MissingData, match=rf"none of its 6 images is there.*; {photos}/img/cat0\.png has that name"):
        read(write(photos, rows(path="{}.png")))
    assert read(write(photos, rows(path=f"{photos}/img/{{}}.png")))[1]["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("cells", [("1", "0"), ("1.0", "0.0"), ("True", "False")])
def test_one_column_per_label(photos: Path, cells: tuple[str, str]) -> None:
    yes, no = cells
    lines = [f"img/{name}.png,{yes if name < 'd' else no},{no if name < 'd' else yes}" for name in NAMES]
    path = write(photos, "\n".join(["image,fox,ant", *lines]))
    with pytest.warns(UserWarning, match="fox, ant hold 0 and 1: each is taken for a label"):
        names, splits = read(path)
    assert names == ("fox", "ant") and splits["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_one_column_per_label_with_several_labels(photos: Path) -> None:
    hot = [(1, 0, 0), (1, 1, 0), (0, 0, 0), (0, 1, 1), (0, 0, 1), (1, 1, 1)]
    lines = [f"img/{name}.png,{','.join(map(str, row))},p{name}" for name, row in zip(NAMES, hot, strict=True)]
    path = write(photos, "\n".join(["image,a,b,c,patient", *lines]))
    with pytest.raises(DamagedFile, match="none of the columns image, a, b, c, patient is one of label"):
        read(path, multilabel=True)
    names, splits = read(path, multilabel=True, label_column="a,b,c")
    assert names == ("a", "b", "c") and splits["train"].labels.tolist() == [list(map(float, row)) for row in hot]
    with pytest.raises(BadValue, match=r"row 1: 2 labels \(a, b\); set `multilabel`=True"):
        read(path, label_column="a,b,c")
    with pytest.raises(DamagedFile, match=r"row 0: 'pcat0' in column 'patient' \(allowed: 0 and 1\)"):
        read(path, multilabel=True, label_column="a,patient")


def test_a_second_candidate_is_named(photos: Path) -> None:
    text = "\n".join(["image,label,class_name", *(f"img/{name}.png,{name[0]},{name[:3]}" for name in NAMES)])
    with pytest.warns(UserWarning, match=r"'label' is taken \(also there: class_name\).*`label_column`"):
        assert read(write(photos, text))[0] == ("c", "d")
    assert read(write(photos, text), label_column="class_name")[0] == ("cat", "dog")


def test_lists_of_zeros_and_ones_are_multi_hot(photos: Path) -> None:
    hot = [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 1], [0, 0, 1], [1, 1, 1]]
    with pytest.warns(UserWarning, match=r"multi-hot.*the classes are called 0 to 2"):
        names, splits = read(parquet(photos, hot), multilabel=True)
    assert names == ("0", "1", "2") and splits["train"].labels.tolist() == hot
    with pytest.raises(BadValue, match="holds lists of labels; set `multilabel`=True"):
        read(parquet(photos, hot))
    names, splits = read(parquet(photos, [[0, 2], [1], [], [0, 1], [1, 0], [2]]), multilabel=True)
    assert splits["train"].labels.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1]]
    with pytest.raises(DamagedFile, match=r"row 0: label 0\.3 is a fraction"):
        read(parquet(photos, [[0.3, 0.7]] * 6), multilabel=True)


def test_labels_that_are_floats(photos: Path) -> None:
    names, splits = read(parquet(photos, pa.array([10.0, 10.0, 10.0, 2.0, 2.0, 2.0], pa.float32())))
    assert names == ("2", "10") and splits["train"].labels.tolist() == [1, 1, 1, 0, 0, 0]
    with pytest.raises(DamagedFile, match=r"row 4: no label \(1 of 6"):
        read(parquet(photos, [1.0, 1.0, 1.0, 2.0, float("nan"), 2.0]))
    with pytest.raises(DamagedFile, match=r"row 1: label 0\.5 is a fraction, not a class"):
        read(parquet(photos, [1.0, 0.5, 1.0, 2.0, 2.0, 2.0]))
    assert read(parquet(photos, [True, True, True, False, False, False]))[0] == ("False", "True")
    assert read(parquet(photos, [b"cat"] * 3 + [b"dog"] * 3))[0] == ("cat", "dog")
    with pytest.raises(DamagedFile, match=r"row 0: label .* is a dict, not a class"):
        read(parquet(photos, [{"id": 1}] * 6))


@pytest.mark.parametrize(
    ("labels", "message", "classes"),
    [
        (["cat", "cat ", "dog", "dog", "cat", "cat"], r"'cat', 'cat ' differ only in blanks and are one class", 2),
        (["Cat", "cat", "dog", "dog", "dog", "dog"], r"'Cat', 'cat' differ only in case.*different classes", 3),
        (["été", "e\u0301te\u0301", "dog", "dog", "dog", "dog"], r"differ only in case.*different classes", 3),
        (["NA", "NA", "dog", "dog", "dog", "dog"], r"label 'NA' is taken for a class, of 2 images", 2),
        (["cat|dog", "cat", "dog", "dog", "dog", "dog"], r"'cat\|dog' is taken for one class.*`multilabel`=True$", 3),
        (["cat dog", "cat", "dog", "dog", "dog", "dog"], r"`multilabel`=True and `label_separator`=' '", 3),
    ],
)
def test_doubtful_labels_are_named(photos: Path, labels: list[str], message: str, classes: int) -> None:
    with pytest.warns(UserWarning, match=message) as caught:
        names, _ = read(parquet(photos, labels))
    assert len(names) == classes and len(caught) == 1


def test_labels_with_another_separator_are_named(photos: Path) -> None:
    labels = ["cat dog", "cat", "dog", "dog", "New York", "dog"]
    with pytest.warns(UserWarning, match=r"'cat dog' is taken for one class; if it names several, set `label_sep"):
        assert len(read(parquet(photos, labels), multilabel=True)[0]) == 4
    assert len(read(parquet(photos, labels), multilabel=True, label_separator=" ")[0]) == 4


def test_class_folders_that_differ_in_a_blank_are_said(tmp_path: Path) -> None:
    for name in ("cat", "cat ", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    with pytest.warns(UserWarning, match="'cat', 'cat ' differ only in blanks and are one class"):
        assert read(tmp_path)[0] == ("cat", "dog")


def test_relative_paths_in_an_image_column(photos: Path) -> None:
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("string")})
    content = (photos / "img" / "cat0.png").read_bytes()
    images = [{"bytes": None, "path": f"img/{name}.png"} for name in NAMES]
    whole = datasets.Dataset.from_dict({"image": images, "label": [name[:3] for name in NAMES]}, features)
    mixed = [{"bytes": content, "path": "inside.png"}, *images[1:]]
    half = datasets.Dataset.from_dict({"image": mixed, "label": [name[:3] for name in NAMES]}, features)
    options = ReadOptions()
    paths = [photos / "img" / f"{name}.png" for name in NAMES]
    split = read_tables(whole, "t", options, photos)[1]["train"]
    assert [split.encoded(index) for index in range(6)] == paths
    split = read_tables(half, "t", options, photos)[1]["train"]
    assert [split.encoded(index) for index in range(6)] == [content, *paths[1:]]
    with pytest.raises(MissingData, match=r"none of its 6 images is there, such as nowhere/img/cat0\.png"):
        read_tables(whole, "t", options, Path("nowhere"))


def test_an_image_that_a_table_lacks_is_a_bad_image_of_its_row(photos: Path) -> None:
    content = (photos / "img" / "cat0.png").read_bytes()
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("string")})
    columns = [
        *(pa.array([{"bytes": content}, lost], struct) for lost in (None, {"bytes": None}, {"bytes": b""})),
        *(pa.array([content, lost], pa.binary()) for lost in (None, b"")),
    ]
    for column in columns:
        table = datasets.Dataset(pa.table({"image": column, "label": ["a", "b"]}))
        table = table.cast(images) if column.type == struct else table
        split = read_tables(table, "t", ReadOptions())[1]["train"]
        assert [split.check(index) for index in range(2)] == [None, BadImage("t train row 1", "empty (0 bytes)")]


def embedded() -> datasets.Dataset:
    pixels = [np.full((4, 4, 3), index, np.uint8) for index in range(6)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    return datasets.Dataset.from_dict({"image": [Image.fromarray(p) for p in pixels], "label": [0, 1] * 3}, features)


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "cut at its end": lambda content: content[:-3],
    "a page": lambda content: b"<html>404</html>",
    "a pointer": lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
    "magic only": lambda content: b"PAR1 not really PAR1",
    "noise inside": lambda content: content[:-200] + np.random.default_rng(0).bytes(190) + content[-10:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_parquet_is_one_line(photos: Path, damage: str) -> None:
    path = photos / f"{damage}.parquet"
    embedded().to_parquet(path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(DamagedFile) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["data-00000-of-00001.arrow", "state.json", "dataset_info.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_save_to_disk_is_one_line(tmp_path: Path, damage: str, file: str) -> None:
    embedded().save_to_disk(tmp_path / "saved")
    path = tmp_path / "saved" / file
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(UserError) as caught:
        read(tmp_path / "saved")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_tables_without_rows_or_parts(tmp_path: Path) -> None:
    none = embedded().select([])
    none.to_parquet(tmp_path / "none.parquet")
    none.save_to_disk(tmp_path / "none")
    for name in ("none.parquet", "none"):
        with pytest.raises(DamagedFile, match=f"{name}: a table without rows"):
            read(tmp_path / name)
    embedded().save_to_disk(tmp_path / "lost")
    (tmp_path / "lost" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(DamagedFile, match=r"lost: .* without its \.arrow files"):
        read(tmp_path / "lost")


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    for name in ("t.csv", "t.parquet"):
        os.mkfifo(tmp_path / name)
        (tmp_path / f"zero-{name}").symlink_to("/dev/zero")
        for path in (tmp_path / name, tmp_path / f"zero-{name}"):
            with pytest.raises(UserError, match=r"a pipe|a device|neither a file nor a folder"):
                read(path)
    embedded().save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").unlink()
    os.mkfifo(tmp_path / "saved" / "data-00000-of-00001.arrow")
    with pytest.raises(DamagedFile, match="not a regular file"):
        read(tmp_path / "saved")


def test_a_table_of_another_kind(photos: Path) -> None:
    with pytest.raises(BadValue, match=r"cat0\.png: a table must be a \.csv"):
        read(photos / "img" / "cat0.png")


def test_splits_by_other_names_in_a_column(photos: Path) -> None:
    splits = ("training_set", "training_set", "dev_set", "training_set", "training_set", "Test set")
    text = "\n".join(["image,label,split", *(f"img/{n}.png,{n[:3]},{s}" for n, s in zip(NAMES, splits, strict=True))])
    assert {name: len(split) for name, split in read(write(photos, text))[1].items()} == {
        "train": 4,
        "val": 1,
        "test": 1,
    }
