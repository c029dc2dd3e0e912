"""A damaged network is refused by name, whichever file it comes from; a whole one is taken."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from torch import Tensor

from transfer.config.schema import FinetuneConfig
from transfer.errors import DamagedFile
from transfer.runs.checkpoint import save_classifier
from transfer.runs.predictor import load_run
from transfer.weights.build import build_classifier
from transfer.weights.files import read_checkpoint, read_state_dict
from transfer.weights.portable import save_tensors

pytestmark = pytest.mark.filterwarnings("ignore:.*is unfinished")
WEIGHT, VARIANCE = "backbone.stem.conv.weight", "backbone.stem.norm.running_var"
DATA = {
    **{"image_size": 32, "crop_ratio": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3},
    **{"resize": "short_side", "class_names": ["cat", "dog"]},
}


def write_run(folder: Path, change: Callable[[dict[str, Tensor]], None] = lambda _: None) -> Path:
    network = build_classifier("lite0", 2, pretrained=False)
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(FinetuneConfig(backbone="lite0", pretrained=False).to_dict()))
    save_classifier(folder / "best.ckpt", network, DATA)
    content = torch.load(folder / "best.ckpt", weights_only=True)
    state = {name.removeprefix("classifier."): tensor for name, tensor in content["state_dict"].items()}
    change(state)
    content["state_dict"] = {f"classifier.{name}": tensor for name, tensor in state.items()}
    torch.save(content, folder / "best.ckpt")
    return folder


def set_item(name: str, value: float) -> Callable[[dict[str, Tensor]], None]:
    def change(state: dict[str, Tensor]) -> None:
        state[name].view(-1)[3] = value

    return change


def cast(dtype: torch.dtype) -> Callable[[dict[str, Tensor]], None]:
    def change(state: dict[str, Tensor]) -> None:
        state[WEIGHT] = state[WEIGHT].to(dtype)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_item(WEIGHT, float("nan")), rf"NaN or infinity in {WEIGHT}"),
        (set_item(WEIGHT, float("-inf")), rf"NaN or infinity in {WEIGHT}"),
        (set_item(VARIANCE, -1.0), rf"negative variance in {VARIANCE} \(-1\)"),
        (cast(torch.int8), rf"{WEIGHT} of integer numbers in the source, float in the network"),
        (cast(torch.complex64), rf"{WEIGHT} of torch\.complex64 numbers in the source"),
        (cast(torch.bool), rf"{WEIGHT} of torch\.bool numbers in the source"),
        (cast(torch.float8_e4m3fn), rf"{WEIGHT} of torch\.float8_e4m3fn numbers in the source"),
        (lambda state: state.update({WEIGHT: state[WEIGHT].to_sparse()}), "torch.sparse_coo numbers in the source"),
    ],
)
def test_numbers_that_are_no_networks_are_refused(
    change: Callable[[dict[str, Tensor]], None], message: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", change)
    with pytest.raises(DamagedFile, match=rf"(?s)best\.ckpt.*{message}"):
        load_run(run)


def test_another_precision_is_taken(tmp_path: Path) -> None:
    half = load_run(write_run(tmp_path / "half", cast(torch.float16))).classifier.backbone.stem.conv.weight
    assert half.dtype == torch.float32 and torch.equal(half, half.half().float())


def test_a_flipped_bit_is_found_in_every_record(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run") / "best.ckpt"
    load_run(path.parent)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = [record for record in archive.infolist() if record.file_size > 100]
    assert len(records) > 100
    for record in records[:: len(records) // 8]:
        start = (
            record.header_offset
            + 30
            + len(record.filename)
            + int.from_bytes(content[record.header_offset + 28 : record.header_offset + 30], "little")
        )
        flipped = bytearray(content)
        flipped[start + record.file_size // 2] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(DamagedFile, match=r"best\.ckpt: "):
            read_checkpoint(path)


def test_a_short_or_compressed_record_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run") / "best.ckpt"
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    largest = max(records, key=lambda name: len(records[name]))
    for content, compression in ((records[largest][:64], zipfile.ZIP_STORED), (records[largest], zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in records.items():
                archive.writestr(name, content if name == largest else data)
        with pytest.raises(DamagedFile, match=r"best\.ckpt: "):
            read_checkpoint(path)


@pytest.mark.parametrize("entry", ["tensor", "header"])
def test_a_converted_file_carries_a_digest(entry: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors({"b": torch.ones(3), "a": torch.tensor(7)}, {"note": "rgb"}, path)
    assert torch.equal(read_state_dict(path)["b"], torch.ones(3))
    with safe_open(path, "pt") as file:
        assert len(file.metadata()["xxh3"]) == 16
    content = bytearray(path.read_bytes())
    if entry == "header":
        content = bytearray(bytes(content).replace(b'"rgb"', b'"bgr"'))
    else:
        content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"a\.safetensors: damaged since it was written"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("std", [0.0] * 3), ("mean", "rgb"), ("image_size", 0), ("crop_ratio", None), ("class_names", [1, 2])],
)
def test_facts_of_the_data_are_checked(name: str, value: object, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run") / "best.ckpt"
    content = torch.load(path, weights_only=True)
    content["data"][name] = value
    torch.save(content, path)
    with pytest.raises(DamagedFile, match=r"best\.ckpt: its (preprocessing is|class_names are)"):
        load_run(path.parent)
