"""model.json comes back as it was written, and no changed byte, newer version or name outside the folder passes."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.damages import cuts, flips, replacements
from tests.support.data import PREPROCESSING
from transfer.bundle.member import Data, Member, Network, Weights
from transfer.bundle.record import (
    MODEL,
    SCHEMA_VERSION,
    Agreement,
    Calibrated,
    Loss,
    Record,
    _digest,
    _text,
    is_safe_name,
    read_record,
    write_record,
)
from transfer.errors import DamagedFile, UserError
from transfer.records import Interval

LOSS = Loss(float32=0.9, accuracy=0.89, drop=0.01, interval=Interval(0.0, 0.02))
AGREEMENT = Agreement(
    images="val",
    num_images=180,
    num_seen=0,
    largest_difference=1.5e-5,
    relative_difference=2e-6,
    same_top1=1.0,
    milliseconds={"1": 1.25, "32": 0.75},
    cpu="a processor, 1 thread",
)
MEMBER = Member(
    run="photos_lite0/1",
    temperature=1.0,
    network=Network(
        backbone="lite0",
        head="linear",
        pretrained="efficientnet_lite0.pypi",
        init_from=None,
        in_channels=3,
        output_stride=32,
        num_parameters=3_383_818,
    ),
    metrics={"val": {"loss": 0.3, "top1": 0.93}, "test": {"top1": 0.91}},
    intervals={"val": {"top1": Interval(0.9, 0.95)}},
    weights=Weights(name="efficientnet_lite0.pypi", sha256="ab" * 32, trained_on="ImageNet-1k", licence="Apache-2.0"),
    data=Data(name="photos", hub_id=None, licence=None, fingerprint={"val": "cd" * 16}, sizes={"val": 180}),
)
RECORD = Record(
    name="photos_lite0",
    members=(MEMBER,),
    class_names=("cät", "dog | wolf", "<b>x</b>"),
    multilabel=False,
    threshold=0.5,
    temperature=1.25,
    separator="|",
    preprocessing=replace(PREPROCESSING, integer_range=(0, 4095)),
    max_pixels=1_000_000,
    metrics=MEMBER.metrics,
    intervals=MEMBER.intervals,
    golden="photos",
    formats={"onnx": AGREEMENT, "onnx-int8": replace(AGREEMENT, loss=LOSS)},
    calibration=Calibrated(num_images=180, ece_before=0.05, ece_after=0.025),
    versions={"python": "3.11", "onnx": None},
    git_commit=None,
    files={"model.onnx": "ef" * 32, "openvino/model.xml": "01" * 32},
)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    assert read_record(tmp_path / MODEL) == RECORD
    again = tmp_path / "again"
    again.mkdir()
    write_record(again, read_record(tmp_path / MODEL))
    assert (again / MODEL).read_bytes() == (tmp_path / MODEL).read_bytes()


def test_no_changed_byte_passes(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    path = tmp_path / MODEL
    content = path.read_bytes()
    changed = flips(content, 300) | cuts(content, 20) | replacements()
    changed |= {"a blank": content + b" ", "a byte-order mark": b"\xef\xbb\xbf" + content}
    changed["another layout"] = json.dumps(json.loads(content)).encode()
    for name, damaged in changed.items():
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.json") as refusal:
            read_record(path)
        assert "\n" not in str(refusal.value), name


def test_a_newer_version_is_refused_before_anything_else_of_it_is_read(tmp_path: Path) -> None:
    (tmp_path / MODEL).write_text(json.dumps({"schema_version": SCHEMA_VERSION + 1, "other": []}))
    with pytest.raises(DamagedFile, match=r"schema version 2 \(readable here: at most 1\); update"):
        read_record(tmp_path / MODEL)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": {"../x": "00"}}, "is no file inside the bundle"),
        ({"files": {"/etc/passwd": "00"}}, "is no file inside the bundle"),
        ({"files": {"C:\\x": "00"}}, "is no file inside the bundle"),
        ({"threshold": 1.5}, "threshold"),
        ({"temperature": 0.0}, "temperature"),
        ({"class_names": ()}, "no classes"),
        ({"members": ()}, "no classes or networks"),
        ({"members": (MEMBER, replace(MEMBER, temperature=-1.0))}, "temperature"),
        ({"preprocessing": replace(PREPROCESSING, interpolation="lanczos")}, "its preprocessing is"),
        ({"max_pixels": 0}, "max_pixels"),
    ],
)
def test_values_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_record(tmp_path, replace(RECORD, **change))
    with pytest.raises(DamagedFile, match=said):
        read_record(tmp_path / MODEL)


def test_an_entry_of_another_type_is_named(tmp_path: Path) -> None:
    content = {**asdict(RECORD), "class_names": "abc"}
    (tmp_path / MODEL).write_text(_text({**content, "digest": _digest(content)}))
    with pytest.raises(DamagedFile, match="class_names"):
        read_record(tmp_path / MODEL)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("model.onnx", True),
        ("openvino/model.xml", True),
        ("golden/0.pixels.png", True),
        ("..", False),
        ("a/../../b", False),
        ("/a", False),
        ("//a", False),
        ("a//b", False),
        ("./a", False),
        ("a\\b", False),
        ("C:a", False),
        ("a\nb", False),
        ("", False),
        (MODEL, False),
    ],
)
def test_names_stay_inside(name: str, safe: bool) -> None:
    assert is_safe_name(name) == safe


def test_the_reading_rules_are_in_words() -> None:
    assert {"orientation", "transparency", "deep images", "crop"} <= asdict(RECORD)["reading"].keys()
