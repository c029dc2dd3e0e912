"""doctor finds what was planted in a dataset, names it, and its exit status says if results are false."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from threading import Thread
from typing import Any

import datasets
import imagehash
import numpy as np
import pytest
from PIL import Image

from datamodules import load_dataset
from datamodules.dataset.layout import OfficialFile
from datamodules.dataset.sheet import ReadOptions, Source
from datamodules.doctor import NEAR_DISTANCE
from datamodules.doctor.duplicates import MIN_CORRELATION, correlate, find_close, find_near, group_equal
from datamodules.doctor.inspection import inspect_image
from datamodules.doctor.pins import Pin, SplitPin, read_pins, record_pin
from datamodules.doctor.subject import open_subject
from datamodules.sheets.eurosat import EuroSAT
from tests.support.runs import CHEAP, ROOT, call, environment, save_csv
from transfer.commands import doctor, finetune
from transfer.commands.doctor import twins_sheet
from transfer.commands.doctor.provenance import check_archives
from transfer.commands.picture_sheet import Cell
from transfer.config.data_schema import DataConfig
from transfer.images.decode import BadImageError, decode_image
from transfer.locks import held

Report = dict[str, Any]
COUNTS = {"train": 12, "val": 3, "test": 4}  # images per class


@pytest.fixture(autouse=True)
def _datasets_cache_in_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))


def photo(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Soft blobs of colour: like a photo, most of it is in the low frequencies."""
    blobs = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def save_dataset(root: Path, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """A folder with nothing wrong: splits above class folders, every picture another."""
    seed = 0
    for split, count in COUNTS.items():
        for name in classes:
            for index in range(count):
                seed += 1
                save(photo(seed), root / split / name / f"{index}.png")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return save_dataset(tmp_path / "data")


def examine(status: int, *argv: str | Path) -> Report:
    """The report of a diagnosis that must end with this exit status."""
    out = Path(argv[0]).parent / "doctor_test.json"
    assert call(doctor.main, *argv, "--json", out, "--num_workers", "0") == status
    report: Report = json.loads(out.read_text())
    assert report["falsifies_a_result"] == (status == 1)
    return report


def found(report: Report) -> dict[tuple[str, str], list[str]]:
    """(severity, check) -> the images of all such findings."""
    images: dict[tuple[str, str], list[str]] = {}
    for finding in report["findings"]:
        assert finding["count"] == len(finding["images"])
        images.setdefault((finding["severity"], finding["check"]), []).extend(finding["images"])
    return images


# A whole diagnosis


def pin_finding(report: Report) -> dict[str, Any]:
    """The one finding about pins."""
    (finding,) = [finding for finding in report["findings"] if finding["check"] == "pin"]
    return finding


def test_fingerprints_are_recorded_at_first_sight_and_compared_from_then_on(root: Path, tmp_path: Path) -> None:
    pins = tmp_path / "pins.json"
    first = pin_finding(examine(0, root, "--pin", pins))
    assert first["severity"] == "note" and f"data is pinned in {pins} from now on: train " in first["message"]
    content = json.loads(pins.read_text(encoding="utf-8"))
    (pin,) = content["pins"]
    expected = load_dataset("folder", data_root=root)
    assert pin["dataset"] == "data" and pin["options"] == {} and len(pin["first_seen"]) == 10
    assert {name: split["fingerprint"] for name, split in pin["splits"].items()} == expected.fingerprint
    assert {name: split["images"] for name, split in pin["splits"].items()} == expected.split_sizes
    written = pins.read_bytes()

    assert "data is as " in pin_finding(examine(0, root, "--pin", pins))["message"]
    assert pins.read_bytes() == written
    images = sorted((root / "test" / "cat").iterdir())
    images[0].unlink()
    save(photo(4711), root / "train" / "dog" / "another.png")
    (root / "train" / "dog" / "another.png").replace(sorted((root / "train" / "dog").iterdir())[0])
    found = pin_finding(examine(1, root, "--pin", pins))
    before = expected.split_sizes["test"]
    assert found["severity"] == "error" and pins.read_bytes() == written
    assert f"(test: {before} images then, {before - 1} found; train: other images or labels)" in found["message"]
    assert "remove the entry of data from the file" in found["message"]
    assert found["message"].endswith("other data with the same name, give them one of their own with --pin_name NAME")


def test_other_labels_of_the_same_data_have_a_pin_of_their_own(root: Path, tmp_path: Path) -> None:
    pins = tmp_path / "pins.json"
    examine(0, root, "--pin", pins)
    examine(0, root, "--pin", pins, "--data.per_class", "2")
    examine(0, root, "--pin", pins, "--data.folder_layout", "auto")  # as it is without the flag
    part, whole = json.loads(pins.read_text(encoding="utf-8"))["pins"]
    assert (part["options"], whole["options"]) == ({"per_class": 2}, {})
    assert part["splits"]["test"] == whole["splits"]["test"] and part["splits"]["train"]["images"] == 4


def test_two_folders_of_one_name_are_told_apart_by_a_given_name(root: Path, tmp_path: Path) -> None:
    pins, other = tmp_path / "pins.json", save_dataset(tmp_path / "elsewhere" / "data")
    save(photo(999), other / "train" / "cat" / "another.png")
    examine(0, root, "--pin", pins)
    written = pins.read_bytes()
    assert pin_finding(examine(1, other, "--pin", pins))["severity"] == "error" and pins.read_bytes() == written
    first = pin_finding(examine(0, other, "--pin", pins, "--pin_name", "mine"))
    assert first["message"].startswith(f"mine is pinned in {pins} from now on: ")
    assert [pin["dataset"] for pin in json.loads(pins.read_text(encoding="utf-8"))["pins"]] == ["data", "mine"]
    moved = root.rename(tmp_path / "of_a_colleague")
    again = pin_finding(examine(0, moved, "--pin", pins, "--pin_name", "data"))
    assert again["message"].startswith(f"data is as {pins} pinned it on ")


def test_a_pin_that_another_process_records_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "pins.json"
    cats, dogs, other_dogs = (
        Pin(name, {}, {"train": SplitPin(3, fingerprint)}, "2026-11-30", {})
        for name, fingerprint in (("cats", "c"), ("dogs", "d"), ("dogs", "e"))
    )
    found: list[Pin] = []
    waiting = [Thread(target=lambda pin=pin: found.append(record_pin(path, pin))) for pin in (cats, other_dogs)]
    with held(tmp_path / ".pins.json.lock"):
        for thread in waiting:
            thread.start()
        waiting[0].join(0.2)
        assert all(thread.is_alive() for thread in waiting) and not path.exists()
        # What a process does that holds the lock.
        path.write_text(json.dumps({"format": 1, "pins": [asdict(dogs)]}), encoding="utf-8")
    for thread in waiting:
        thread.join()
    assert sorted(found, key=lambda pin: pin.dataset) == [cats, dogs]
    assert read_pins(path) == [cats, dogs]


@pytest.mark.parametrize("content", ["[]", '{"format": 2, "pins": []}', '{"format": 1, "pins": [{}]}', "junk"])
def test_a_file_of_something_else_is_refused_before_any_work(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "pins.json").write_text(content, encoding="utf-8")
    assert call(doctor.main, root, "--pin", tmp_path / "pins.json") == 2
    assert "pins.json" in capsys.readouterr().err
    assert (tmp_path / "pins.json").read_text(encoding="utf-8") == content


def test_archives_beside_a_named_dataset_are_compared_with_the_authors(tmp_path: Path) -> None:
    (tmp_path / "EuroSAT.zip").write_bytes(b"cut")
    (finding,) = check_archives(open_subject("eurosat", str(tmp_path), {}))
    assert finding.severity == "warning"
    assert "EuroSAT.zip is not the authors' archive (94,280,567 bytes expected, 3 found)" in finding.message

    class Small(EuroSAT):
        files = (OfficialFile("EuroSAT.zip", md5=hashlib.md5(b"cut").hexdigest()),)
        layout = replace(EuroSAT.layout, files=files)

    (finding,) = check_archives(Source(Small(), ReadOptions(data_root=tmp_path)))
    assert (finding.severity, finding.message) == (
        "note",
        f"{tmp_path / 'EuroSAT.zip'} is the authors' archive, by its checksum",
    )
    assert check_archives(open_subject("digits", None, {})) == []


def test_what_a_training_leaves_out_is_told(root: Path) -> None:
    (root / "train" / "cat" / "notes.txt").write_text("not a picture")
    (root / "val" / "empty").mkdir()
    (remark,) = [finding for finding in examine(0, root)["findings"] if finding["check"] == "reading"]
    assert (
        remark["severity"] == "warning" and "left out 1 file" in remark["message"] and "(1 .txt)" in remark["message"]
    )
    assert f"folders without images: {root / 'val' / 'empty'}" in remark["message"]


def test_twins_become_groups_that_stay_on_one_side(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for index in range(40):
        save(photo(index), root / ("cat", "dog")[index % 2] / f"{index}.png")
    for index in range(0, 20):
        save(photo(index).rotate(0.4), root / ("cat", "dog")[index % 2] / f"again{index}.png")
    examine(1, root, "--out_dir", tmp_path / "report")
    with open(tmp_path / "report" / "groups.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60 and len({row["group"] for row in rows}) == 40
    with Image.open(tmp_path / "report" / "twins.png") as sheet:  # 20 pairs, four in a row
        assert sheet.width == 4 * 450 and sheet.height == pytest.approx(5 * 285, abs=2)
    group_of = {Path(row["image"]).stem: row["group"] for row in rows}
    assert all(group_of[f"again{index}"] == group_of[str(index)] for index in range(20))
    data = load_dataset("folder", data_root=tmp_path / "report" / "groups.csv", group_column="group")
    sides = [{group_of[Path(name).stem] for name in split.image_names()} for split in data.splits.values()]
    assert len(sides) == 3 and sum(map(len, sides)) == 40

    # Groups of the data's own are kept and joined with the twins.
    own = [
        [row["image"], row["label"], "p" if Path(row["image"]).stem in ("0", "31") else str(i)]
        for i, row in enumerate(rows)
    ]
    for row, twin in ((own[i], own[j]) for i in range(60) for j in range(i) if rows[i]["group"] == rows[j]["group"]):
        row[2] = twin[2]
    table = save_csv(tmp_path / "patients.csv", [["image", "label", "patient"], *own])
    examine(0, table, "--data.group_column", "patient", "--out_dir", tmp_path / "again")
    with open(tmp_path / "again" / "groups.csv", encoding="utf-8", newline="") as file:
        group_of = {Path(row["image"]).stem: row["group"] for row in csv.DictReader(file)}
    assert group_of["0"] == group_of["again0"] == group_of["31"] and len(set(group_of.values())) == 39


def test_cells_that_look_like_several_labels_are_told(tmp_path: Path) -> None:
    rows = [[str(save(photo(index), tmp_path / f"{index}.png")), ("a", "b", "a|b")[index % 3]] for index in range(36)]
    table = save_csv(tmp_path / "table.csv", [["image", "label"], *rows])
    remarks = [finding["message"] for finding in examine(0, table)["findings"] if finding["check"] == "reading"]
    assert len(remarks) == 1 and "label 'a|b' is taken for one class" in remarks[0]
    assert "multilabel" in remarks[0]


def test_nothing_is_found_where_nothing_is_wrong(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = examine(0, root)
    assert report["findings"] == [] and "nothing found" in capsys.readouterr().out
    assert report["classes"] == ["cat", "dog"]
    assert report["splits"] == {
        name: {"size": 2 * count, "class_counts": [count, count]} for name, count in COUNTS.items()
    }
    images = report["images"]
    assert images["readable"] == 38 and images["formats"] == {"PNG": 38} and images["modes"] == {"RGB": 38}
    assert set(images["width"].values()) == {160} and set(images["short_side"].values()) == {120}
    assert report["exact_duplicates"]["groups"] == [] and report["near_duplicates"]["groups"] == []
    assert report["suspects"] == {} and report["near_duplicates"]["near_distance"] == 8


def test_a_copy_in_another_format_is_an_equal_picture_in_train_and_test(root: Path) -> None:
    copy = save(Image.open(root / "train/cat/3.png"), root / "test/cat/copy.bmp")
    report = examine(1, root)
    assert found(report) == {
        ("error", "leakage"): [f"{root / 'train/cat/3.png'} (train, cat) = {copy} (test, cat)"],
    }
    (group,) = report["exact_duplicates"]["groups"]
    assert group["images"] == [
        {"split": "train", "image": str(root / "train/cat/3.png"), "class": "cat"},
        {"split": "test", "image": str(copy), "class": "cat"},
    ]
    counts = report["exact_duplicates"]["images_with_a_twin"]
    assert counts == {"train": 0, "val": 0, "test": 0, "train/val": 0, "train/test": 1, "val/test": 0}


def test_copies_within_a_split_or_between_train_and_val_falsify_nothing(root: Path) -> None:
    first = Image.open(root / "train/cat/3.png")
    for path in ("train/cat/a.png", "train/cat/b.png", "val/cat/c.png"):
        save(first, root / path)
    report = examine(0, root)
    assert set(found(report)) == {("warning", "leakage"), ("note", "duplicates")}
    counts = report["exact_duplicates"]["images_with_a_twin"]
    assert counts == {"train": 3, "val": 0, "test": 0, "train/val": 1, "train/test": 0, "val/test": 0}
    assert len(report["exact_duplicates"]["groups"][0]["images"]) == 4


@pytest.mark.parametrize("place", ["test/dog", "train/dog"])
def test_one_picture_with_two_labels_is_a_conflict(root: Path, place: str) -> None:
    copy = save(Image.open(root / "train/cat/3.png"), root / place / "copy.png")
    tested = place == "test/dog"
    images = found(examine(int(tested), root))
    severity = "error" if tested else "warning"
    split = "test" if tested else "train"
    assert images[severity, "label_conflict"] == [f"{root / 'train/cat/3.png'} (train, cat) = {copy} ({split}, dog)"]


@pytest.mark.parametrize("change", ["recompressed", "smaller", "brighter"])
def test_a_changed_copy_is_a_near_duplicate(root: Path, change: str) -> None:
    original = Image.open(root / "train/cat/3.png")
    if change == "recompressed":
        copy = save(original, root / "test/cat/copy.jpg", quality=40)
    elif change == "smaller":
        copy = save(original.resize((144, 108), Image.Resampling.LANCZOS), root / "test/cat/copy.png")
    else:
        copy = save(original.point([min(255, value + 12) for value in range(256)] * 3), root / "test/cat/copy.png")
    report = examine(1, root)  # 1 of 9 test images is more than 1%
    assert found(report) == {
        ("error", "near_leakage"): [f"{root / 'train/cat/3.png'} (train, cat) = {copy} (test, cat)"],
    }
    (pair,) = report["near_duplicates"]["groups"]
    assert [image["split"] for image in pair["images"]] == ["train", "test"]
    assert pair["distance"] <= 8 and pair["correlation"] >= 0.9
    assert report["exact_duplicates"]["groups"] == []


def test_the_pictures_of_twins_begin_with_what_falsifies_most(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells: list[Cell] = []
    monkeypatch.setattr(twins_sheet, "draw_sheet", lambda found, columns, path: cells.extend(found))
    save(Image.open(root / "train/cat/1.png"), root / "train/cat/near.jpg", quality=40)
    save(Image.open(root / "train/cat/2.png"), root / "train/dog/[b].png")
    for name in ("train/cat/equal.png", "val/cat/equal.png"):
        save(Image.open(root / "train/cat/3.png"), root / name)
    save(Image.open(root / "train/cat/4.png"), root / "test/dog/leak.jpg", quality=40)
    capsys.readouterr()
    examine(1, root, "--out_dir", tmp_path / "out")
    assert f", {tmp_path / 'out' / 'twins.png'}" in capsys.readouterr().out.splitlines()[-1]
    assert [(cell.above.split("\n")[0], cell.below) for cell in cells] == [
        ("train: cat   |   test: dog", "4.png   |   leak.jpg"),
        ("train: cat   |   val: cat", "3.png   |   equal.png"),
        ("train: cat   |   train: dog", "2.png   |   [b].png"),
        ("train: cat   |   train: cat", "1.png   |   near.jpg"),
    ]
    assert [cell.above.split("\n")[1].split(",")[0] for cell in cells] == ["near", "equal", "equal", "near"]
    assert all(np.array_equal(cell.pictures[0], cell.pictures[1]) for cell in cells[1:3])
    examine(1, root)
    assert capsys.readouterr().out.splitlines()[-1].startswith("--out_dir DIR writes the twins and suspects as sheets")


def test_near_duplicates_with_different_labels_are_listed(root: Path) -> None:
    save(Image.open(root / "train/cat/3.png"), root / "train/dog/copy.jpg", quality=50)
    report = examine(0, root)
    assert set(found(report)) == {("note", "near_duplicates"), ("warning", "near_label_conflict")}
    assert report["near_duplicates"]["images_with_a_twin"]["train"] == 2


def test_up_to_one_percent_of_near_duplicates_in_test_is_a_warning(tmp_path: Path) -> None:
    rows = [["image", "label", "split"]]
    for seed in range(130):
        save(photo(seed, (48, 40)), tmp_path / f"{seed}.png")
        rows.append([f"{seed}.png", "ab"[seed % 2], "train" if seed < 30 else "test"])
    save(photo(0, (48, 40)), tmp_path / "copy.jpg", quality=60)
    rows.append(["copy.jpg", "a", "test"])
    report = examine(0, save_csv(tmp_path / "table.csv", rows))
    assert report["near_duplicates"]["images_with_a_twin"]["train/test"] == 1  # of 101
    assert list(found(report)) == [("warning", "near_leakage")]


def test_no_distance_leaves_equal_hashes_only(root: Path) -> None:
    save(photo(4).resize((144, 108)).rotate(2), root / "test/cat/copy.png")
    assert found(examine(1, root))
    assert found(examine(0, root, "--near_distance", "0")) == {}


def test_every_unreadable_file_is_named_with_its_reason(root: Path) -> None:
    train = root / "train/cat"
    encoded = save(photo(900), root.parent / "whole.jpg").read_bytes()
    bad = {
        "empty.png": b"",
        "text.jpg": b"no image at all",
        "truncated.jpg": encoded[: len(encoded) // 2],
        "[red]bold \N{SNOWMAN}.png": b"",
    }
    for name, content in bad.items():
        (train / name).write_bytes(content)
    report = examine(1, root)
    (lines,) = found(report).values()
    assert len(lines) == 4 and report["images"]["readable"] == 38
    for name in bad:
        (line,) = [line for line in lines if line.startswith(f"{train / name}: ")]
        assert len(line) > len(f"{train / name}: ")
    assert f"{train / 'empty.png'}: empty (0 bytes)" in lines
    assert list(found(report)) == [("error", "unreadable")]


def test_classes_without_images_in_a_split_and_tiny_ones_are_named(root: Path) -> None:
    for index in range(3):
        save(photo(500 + index), root / "train/newt" / f"{index}.png")
    report = examine(1, root)
    messages = {(f["severity"], f["check"], f["message"]) for f in report["findings"]}
    assert messages == {
        ("error", "classes", "no test image of 1 of 3 classes: newt"),
        ("warning", "classes", "no val image of 1 of 3 classes: newt"),
        ("warning", "tiny_classes", "1 class with less than 10 training images: newt (3)"),
    }


def test_a_class_without_training_images_is_an_error_and_the_rest_is_still_examined(root: Path) -> None:
    save(photo(500), root / "test/newt/0.png")
    save(Image.open(root / "train/cat/3.png"), root / "test/cat/copy.png")
    report = examine(1, root)
    assert {("error", "setup"), ("error", "classes"), ("error", "leakage")} <= set(found(report))
    assert any("no training image of 'newt'" in f["message"] for f in report["findings"])


def test_imbalance_recommends_logit_adjustment(tmp_path: Path) -> None:
    for name, count in (("many", 60), ("few", 5)):
        for index in range(count):
            save(photo(count * 100 + index, (40, 40)), tmp_path / "data" / name / f"{index}.png")
    report = examine(0, tmp_path / "data")
    (message,) = [f["message"] for f in report["findings"] if f["check"] == "imbalance"]
    assert "set `metric`=mean_per_class, and for finetune `loss.logit_adjustment`=true" in message


def test_a_single_class_is_a_finding_and_not_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(12):
        save(photo(index), tmp_path / "data/cat" / f"{index}.png")
    report = examine(1, tmp_path / "data")
    messages = [f["message"] for f in report["findings"] if f["severity"] == "error"]
    assert any("at least 2 classes are needed, found only 'cat'" in message for message in messages)
    assert report["images"]["readable"] == 12 and "error: " in capsys.readouterr().out


def test_a_folder_without_images_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "data/cat").mkdir(parents=True)
    report = examine(1, tmp_path / "data", "--out", tmp_path / "out")
    ((key, _),) = found(report).items()
    assert key == ("error", "setup") and report["splits"] == {} and report["recommended"] == {}
    assert not (tmp_path / "out/class_balance.png").exists() and (tmp_path / "out/doctor.json").is_file()


def test_odd_images_are_named(root: Path) -> None:
    train = root / "train/cat"
    save(Image.new("RGB", (160, 120), "red"), train / "blank.jpg")
    save(photo(501, (700, 120)), train / "wide.png")
    save(photo(502, (29, 25)), train / "small.png")
    save(photo(503).convert("CMYK"), train / "cmyk.jpg")
    frames = [photo(504), photo(505)]
    save(frames[0], train / "animated.gif", save_all=True, append_images=frames[1:])
    images = found(examine(0, root))
    names = {key: [Path(name).name for name in names] for key, names in images.items()}
    assert names == {
        ("warning", "blank"): ["blank.jpg"],
        ("note", "shape"): ["wide.png"],
        ("note", "small"): ["small.png"],
        ("note", "tiny_images"): ["small.png"],
        ("note", "animated"): ["animated.gif"],
        ("note", "converted"): ["animated.gif", "cmyk.jpg"],
    }


def test_blank_images_are_equal_only_to_the_same_colour(root: Path) -> None:
    for index, colour in enumerate(("red", "blue", "red")):
        save(Image.new("RGB", (64, 64), colour), root / f"train/cat/blank{index}.png")
    report = examine(0, root)
    (group,) = report["exact_duplicates"]["groups"]
    assert [Path(image["image"]).name for image in group["images"]] == ["blank0.png", "blank2.png"]
    assert report["near_duplicates"]["groups"] == []


def test_splits_in_different_formats_are_a_warning(tmp_path: Path) -> None:
    root = save_dataset(tmp_path / "data")
    for path in (root / "test").rglob("*.png"):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    report = examine(0, root)
    assert list(found(report)) == [("warning", "formats")]
    assert "train PNG, val PNG, test JPEG" in report["findings"][0]["message"]


def test_a_table_is_read_with_its_columns_and_missing_files_are_named(tmp_path: Path) -> None:
    rows = [["file", "what", "where"]]
    for index in range(24):
        save(photo(index, (40, 40)), tmp_path / f"{index}.png")
        rows.append([f"{index}.png", "ab"[index % 2], "test" if index < 4 else "train"])
    rows.append(["lost.png", "a", "train"])
    table = save_csv(tmp_path / "table.csv", rows)
    report = examine(1, table, "--label_column", "what", "--split_column", "where")
    assert found(report)["error", "unreadable"] == [f"{tmp_path / 'lost.png'}: no such file or directory"]
    assert report["classes"] == ["a", "b"] and report["splits"]["test"]["size"] == 4


def test_several_labels_per_image_are_counted_and_compared(tmp_path: Path) -> None:
    rows = [["image", "labels", "split"]]
    for index in range(24):
        save(photo(index, (40, 40)), tmp_path / f"{index}.png")
        rows.append(
            [
                f"{index}.png",
                ("day", "day|sea", "sea")[index % 3],
                "test" if index < 6 else "val" if index < 9 else "train",
            ]
        )
    save(photo(0, (40, 40)), tmp_path / "copy.png")
    rows.append(["copy.png", "day|sea", "train"])
    report = examine(1, save_csv(tmp_path / "table.csv", rows), "--multilabel")
    conflict = found(report)["error", "label_conflict"]
    assert len(conflict) == 1 and "(train, day|sea)" in conflict[0] and "(test, day)" in conflict[0]
    assert sum(report["splits"]["test"]["class_counts"]) == 8


def test_out_holds_the_report_and_a_chart_of_all_classes(root: Path) -> None:
    out = root.parent / "new/report"
    report = examine(0, root, "--out", out)
    assert sorted(path.name for path in out.iterdir()) == ["class_balance.png", "doctor.json"]
    written = json.loads((out / "doctor.json").read_text())
    assert written == report
    with Image.open(out / "class_balance.png") as chart:
        assert chart.size == (1000, 160 + 22 * 2) and chart.format == "PNG"
        colours = Counter(map(tuple, np.asarray(chart.convert("RGB")).reshape(-1, 3).tolist()))
    # Two bars of 12, 3 and 4 images: the areas of the three colours have these ratios.
    areas = [colours[colour] for colour in ((31, 119, 180), (255, 127, 14), (44, 160, 44))]
    assert areas[0] > 5000 and areas[0] / areas[1] == pytest.approx(4, rel=0.25)
    assert areas[2] / areas[1] == pytest.approx(4 / 3, rel=0.25)


def test_names_are_data_and_never_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = ("[bold]cat", "$dog_1$ :smile: \N{SNOWMAN}\x1b[31m")
    root = save_dataset(tmp_path / "data", classes)
    save(Image.open(root / "train" / classes[0] / "3.png"), root / "test" / classes[0] / "[red].png")
    report = examine(1, root, "--out", tmp_path / "out")
    shown = capsys.readouterr().out
    assert sorted(report["classes"]) == sorted(classes) and (tmp_path / "out/class_balance.png").is_file()
    assert classes[0] in shown and "$dog_1$ :smile: \N{SNOWMAN}\\x1b[31m" in shown and "[red].png" in shown
    assert "\x1b" not in shown


def test_the_sizes_are_recommended_from_images_and_network(root: Path, tmp_path: Path) -> None:
    recommended = examine(0, root)["recommended"]
    assert recommended["backbone"] == "lite0" and recommended["image_size"] == 224  # 120 pixels are enlarged
    assert recommended["batch_size"] == DataConfig().batch_size == 64  # of 24 training images, as in finetune
    assert recommended["is_an_estimate"] and recommended["method"] == "probe"
    for path in root.rglob("*.png"):
        Image.open(path).resize((500, 420)).save(path)
    large = examine(0, root, "--backbone", "b7")["recommended"]
    assert large["image_size"] == 600 and large["median_short_side"] == 420  # the weights' own, as in finetune
    assert examine(0, root, "--backbone", "b4")["recommended"]["image_size"] == 380
    assert large["largest_batch_that_fits"] < recommended["largest_batch_that_fits"]
    assert large["training_bytes_per_image"] > 10 * recommended["training_bytes_per_image"]


def test_digits_have_no_error() -> None:
    reports = doctor.doctor("digits", num_workers=0)
    assert not reports["falsifies_a_result"] and reports["recommended"]["image_size"] == 64
    assert sum(split["size"] for split in reports["splits"].values()) == 1797


# What is refused


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["digit"], "no such file or folder, and unknown dataset 'digit'; did you mean 'digits'?"),
        (["no/such/folder"], "no such file or folder: no/such/folder"),
        (["folder"], "dataset 'folder' needs --data_root, or give the path itself"),
        (["digits", "--pin_name", "mine"], "--pin_name mine without --pin: give the file of pins, too"),
        (["digits", "--near_distance", "17"], "--near_distance 17 (allowed: 0 to 16"),
        (["digits", "--num_workers", "-1"], "--data.num_workers -1 (allowed: at least 0)"),
        (["digits", "--json", "no/such/folder/x.json"], "--json no/such/folder/x.json: no such folder"),
        (["digits", "--backbone", "b9"], "unknown backbone 'b9'"),
        (["digits", "--run", "no/run"], "no/run"),
    ],
)
def test_what_cannot_be_examined_is_refused(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(doctor.main, *argv) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and message in captured.err


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    assert call(doctor.main, "digits") == 2
    assert "(imagehash missing): pip install 'efficientnet-transfer[doctor]'" in capsys.readouterr().err


def test_the_default_distance_is_written_twice_and_is_the_same() -> None:
    assert doctor.doctor.__defaults__ is not None and NEAR_DISTANCE in doctor.doctor.__defaults__


# Duplicates


def test_close_pairs_are_those_of_a_comparison_of_all_with_all() -> None:
    images = [photo(seed, (48, 40)) for seed in range(100)]
    rng = np.random.default_rng(0)
    for image in images[:100]:
        noisy = np.asarray(image) + rng.normal(0, 30, (40, 48, 3))
        images.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
        images.append(image.resize((31, 37)).rotate(float(rng.uniform(-6, 6))))
    hashes = [imagehash.phash(image) for image in images]
    packed = np.array([int(str(value), 16) for value in hashes], np.uint64)
    for distance in (0, 4, 8, 16):
        expected = {
            (i, j, int(hashes[i] - hashes[j]))
            for j in range(len(hashes))
            for i in range(j)
            if hashes[i] - hashes[j] <= distance
        }
        pairs = [
            pair for part in find_close(packed, distance) for pair in zip(*(c.tolist() for c in part), strict=True)
        ]
        assert len(pairs) == len(set(pairs)) and set(pairs) == expected
    assert len(expected) > 100


def test_close_pairs_of_random_bits_at_every_distance() -> None:
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**63, 40, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.permutation(64)[:count]) for count in rng.integers(0, 13, 300)]
    hashes = np.array([int(hashes[rng.integers(40)]) ^ flip for flip in flips], np.uint64)
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None]).astype(int)
    for distance in range(17):
        expected = {(i, j) for i in range(300) for j in range(i + 1, 300) if distances[i, j] <= distance}
        pairs = [
            (int(i), int(j)) for part in find_close(hashes, distance) for i, j in zip(part[0], part[1], strict=True)
        ]
        assert len(pairs) == len(expected) and set(pairs) == expected


def test_near_pairs_need_similar_thumbnails_too() -> None:
    hashes = np.zeros(3, np.uint64)
    thumbnails = np.stack([inspect_image_of(photo(seed)).thumbnail for seed in (1, 2, 1)])
    pairs = find_near(hashes, thumbnails, 0)
    assert (pairs.first.tolist(), pairs.second.tolist(), pairs.distance.tolist()) == ([0], [2], [0])
    assert pairs.correlation[0] == pytest.approx(1.0, abs=1e-5) and MIN_CORRELATION == 0.9
    assert len(find_near(hashes[:0], thumbnails[:0], 8)) == 0


def test_the_correlation_is_numpys_and_ignores_brightness_and_contrast() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 256, (2, 5, 4, 4, 3), dtype=np.uint8)
    for index, value in enumerate(correlate(left, right)):
        a, b = (x[index].astype(float) - x[index].mean(axis=(0, 1)) for x in (left, right))
        assert value == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-5)
    assert correlate(left // 2 + 40, left // 2) == pytest.approx(np.ones(5), abs=1e-5)
    assert correlate(left, np.full_like(left, 7)).tolist() == [0.0] * 5


def test_equal_digests_are_grouped_in_order() -> None:
    assert group_equal([b"a", b"b", b"a", b"c"]) == [[0, 2], [1], [3]]


def inspect_image_of(image: Image.Image) -> Any:
    import io

    stream = io.BytesIO()
    image.save(stream, "PNG")
    return inspect_image(stream.getvalue())


def test_a_record_holds_what_the_image_is(tmp_path: Path) -> None:
    path = save(photo(1).convert("L"), tmp_path / "grey.png")
    record, pixels = inspect_image(path), decode_image(path)
    assert (record.width, record.height, record.format, record.mode) == (160, 120, "PNG", "L")
    assert record.num_bytes == path.stat().st_size and record.frames == 1
    assert record.mean == pytest.approx(pixels.mean()) and record.std == pytest.approx(pixels.std(axis=(0, 1)).max())
    assert f"{record.perceptual:016x}" == str(imagehash.phash(Image.fromarray(pixels)))
    assert record.digest == inspect_image_of(Image.fromarray(pixels)).digest
    turned = inspect_image_of(Image.fromarray(pixels.reshape(160, 120, 3)))
    assert turned.digest != record.digest  # the same bytes in another shape
    with pytest.raises(BadImageError, match="no such file"):
        inspect_image(tmp_path / "no.png")


# Suspect labels


@pytest.mark.slow
def test_a_run_finds_labels_that_were_swapped(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    training = ("--trainer.limit_train_batches", "20", "--optim.lr", "0.05")
    assert call(finetune.main, *CHEAP, *training, "--out_dir", run_dir) == 0
    data = load_dataset("digits")
    swapped = set()
    for split in ("train", "test"):
        for index in range(150):
            label = int(data.splits[split].labels[index])
            name = f"{index}.png"
            if split == "test" and index % 25 == 0:
                label = (label + 3) % 10
                swapped.add(str(tmp_path / "data" / split / str(label) / name))
            image = Image.fromarray(decode_image(data.splits[split].encoded(index)))
            save(image, tmp_path / "data" / split / str(label) / name)
    report = examine(0, tmp_path / "data", "--run", run_dir)
    assert list(report["suspects"]) == ["val", "test", "train"]
    suspects = report["suspects"]["test"]
    assert len(swapped) == 6 and len(swapped & {row["image"] for row in suspects[:6]}) >= 3
    for row in suspects:
        assert Path(row["image"]).parent.name == row["label"] != row["suggested"]
        assert row["suggested_probability"] > row["label_probability"]
    assert report["recommended"]["backbone"] == "lite0" and report["run"] == str(run_dir)

    other = save_dataset(tmp_path / "animals")
    assert call(doctor.main, other, "--run", run_dir) == 2


@pytest.mark.slow
def test_as_a_user_types_it_with_worker_processes(root: Path) -> None:
    save(Image.open(root / "train/cat/3.png"), root / "test/cat/copy.png")
    command = [sys.executable, "scripts/doctor.py", str(root), "--num_workers", "2"]
    process = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 1
    assert process.stderr == f"next: efficientnet-transfer doctor {root} --out_dir doctor/\n"
    assert "error: 1 image of test with an equal picture in train" in process.stdout
