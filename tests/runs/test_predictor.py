"""A network rebuilt from its run's folder alone, and what it predicts."""

from __future__ import annotations

import io
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import build_datamodule
from tests.support.runs import CHEAP, call, read_results
from transfer.commands import finetune
from transfer.errors import UserError
from transfer.runs.checkpoint import classifier_state
from transfer.runs.predictor import load_run
from transfer.runs.test_record import read_predictions
from transfer.weights import build, downloads
from transfer.weights.files import read_checkpoint


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cheap run with everything that load_run must not forget: another head, EMA, dropout."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    argv = ("--head", "mlp", "--ema_half_life", "0.2", "--dropout", "0.3")
    assert call(finetune.main, *CHEAP, *argv, "--out_dir", run_dir) == 0
    return run_dir


def forbid(*_: Any, **__: Any) -> None:
    raise AssertionError("this must not be asked for")


@pytest.mark.slow
def test_a_run_comes_back_without_network_and_weights_package(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = read_results(run_dir)
    for name in ("fetch_weights", "find_weights", "file_sha256"):
        monkeypatch.setattr(downloads, name, forbid)
    monkeypatch.setattr(build, "read_weights", forbid)
    monkeypatch.setattr(socket.socket, "connect", forbid)
    run = load_run(run_dir)
    assert run.config.to_dict() == results["config"]
    assert run.class_names == tuple("0123456789")
    assert not run.classifier.training and not any(module.training for module in run.classifier.modules())
    # lite0's published preprocessing, at the run's size: (x - 127) / 128, bicubic, 224 / 256 of the image.
    assert (run.preprocessing.image_size, run.preprocessing.interpolation) == (32, "bicubic")
    assert run.preprocessing.crop_ratio == pytest.approx(0.875)
    assert run.preprocessing.mean == pytest.approx([127 / 255] * 3)
    assert run.preprocessing.std == pytest.approx([128 / 255] * 3)
    assert run.data["fingerprint"] == {name: split["fingerprint"] for name, split in results["splits"].items()}


@pytest.mark.slow
def test_the_rebuilt_network_has_the_runs_accuracy(run_dir: Path) -> None:
    run = load_run(str(run_dir))
    data = build_datamodule("digits", preprocessing=run.preprocessing, num_workers=0)
    data.setup()
    right = 0
    with torch.inference_mode():
        for images, labels in data.test_dataloader():
            logits = run.classifier(data.normalize(images))
            right += int((logits.argmax(1) == labels).sum())
    assert right / 360 == pytest.approx(read_results(run_dir)["metrics"]["test"]["top1"], abs=1e-6)


@pytest.mark.slow
def test_the_tensors_are_the_averaged_ones_of_the_checkpoint(run_dir: Path) -> None:
    content = torch.load(run_dir / "best.ckpt", weights_only=True)
    averaged = {key.removeprefix("classifier."): value for key, value in content["state_dict"].items()}
    loaded = load_run(run_dir).classifier.state_dict()
    assert all(torch.equal(loaded[key], averaged[key]) for key in loaded) and len(loaded) > 100
    best = run_dir / "best.ckpt"
    state = classifier_state(read_checkpoint(best), best)
    assert state.keys() == loaded.keys()
    raw = content["current_model_state"]
    assert any(not torch.equal(raw[key], content["state_dict"][key]) for key in raw if key.endswith("weight"))


@pytest.mark.slow
def test_best_and_last_are_different_checkpoints(run_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "run")
    content = torch.load(copy / "last.ckpt", weights_only=True)
    key = next(
        key for key in content["state_dict"] if key.endswith("head.2.bias") or ("head" in key and key.endswith("bias"))
    )
    content["state_dict"][key] += 1.0
    torch.save(content, copy / "last.ckpt")
    name = key.removeprefix("classifier.")
    best, last = (load_run(copy, checkpoint).classifier.state_dict()[name] for checkpoint in ("best.ckpt", "last.ckpt"))
    original = load_run(run_dir, "last.ckpt").classifier.state_dict()[name]
    assert torch.equal(last, original + 1.0)
    assert torch.equal(best, load_run(run_dir).classifier.state_dict()[name])


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(run_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "run")
    content = (copy / "best.ckpt").read_bytes()
    other = "it is damaged or of another kind"
    for damaged, reason in ((content[: len(content) // 2], other), (b"", "it is empty"), (b"not a checkpoint", other)):
        (copy / "best.ckpt").write_bytes(damaged)
        with pytest.raises(
            UserError, match=rf"run/best\.ckpt: not a safetensors, npz or PyTorch checkpoint \({reason}"
        ):
            load_run(copy)


@pytest.mark.slow
def test_a_checkpoint_that_is_not_of_this_project_is_named(run_dir: Path, tmp_path: Path) -> None:
    shutil.copy(run_dir / "config.yaml", tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "best.ckpt")
    with pytest.raises(
        UserError, match=r"best\.ckpt: not a checkpoint of efficientnet-transfer finetune \(it names no classes\)"
    ):
        load_run(tmp_path)


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_told_by_its_tensors(run_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run_dir, tmp_path / "run")
    recipe = (copy / "config.yaml").read_text()
    assert "head: mlp\n" in recipe
    (copy / "config.yaml").write_text(recipe.replace("head: mlp\n", "head: linear\n"))
    with pytest.raises(UserError, match=r"best\.ckpt does not fit the network"):
        load_run(copy)


@pytest.mark.slow
def test_what_is_missing_is_named(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run: it has no config\.yaml"):
        load_run(tmp_path)
    shutil.copy(run_dir / "config.yaml", tmp_path)
    with pytest.raises(UserError, match=r"has no last\.ckpt: .* before its first validation; go on with `resume`"):
        load_run(tmp_path, "last.ckpt")


@pytest.mark.slow
def test_a_run_predicts_files_pictures_and_arrays_alike(run_dir: Path, tmp_path: Path) -> None:
    run = load_run(run_dir)
    data = build_datamodule("digits", preprocessing=run.preprocessing, num_workers=0)
    data.setup()
    pictures = [Image.open(io.BytesIO(data.dataset.splits["test"].encoded(index))) for index in range(6)]
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    arrays = [np.asarray(picture.convert("RGB")) for picture in pictures]
    labelled = read_predictions(run_dir).predictions
    for images in (
        pictures,
        paths,
        [str(path) for path in paths],
        arrays,
        [paths[0], *pictures[1:3], *arrays[3:]],
        [path.read_bytes() for path in paths],
    ):
        predictions = run.predict(images, top_k=3, batch_size=4)
        assert [p.class_name for p in predictions] == [run.class_names[index] for index in labelled[:6]]
    images, _ = next(iter(data.test_dataloader()))
    with torch.inference_mode():
        expected = (run.classifier(data.normalize(images[:6])) / run.temperature).softmax(1).numpy()
    for prediction, row in zip(predictions, expected, strict=True):
        np.testing.assert_allclose(prediction.probabilities, row, rtol=1e-4, atol=1e-6)
        assert prediction.probability == prediction.probabilities.max()
        order = np.argsort(-row)[:3]
        assert [name for name, _ in prediction.top] == [run.class_names[index] for index in order]


@pytest.mark.slow
def test_what_cannot_be_predicted_is_refused(run_dir: Path, tmp_path: Path) -> None:
    run = load_run(run_dir)
    assert run.predict([]) == []
    (tmp_path / "no.png").write_bytes(b"text")
    good = np.zeros((4, 4), np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)).save(file, "png")
    truncated = Image.open(io.BytesIO(file.getvalue()[:600]))
    for images, message in (
        ([good, tmp_path / "no.png"], f"^{tmp_path}/no.png: not an image"),
        ([good, tmp_path / "absent.png"], f"^{tmp_path}/absent.png: no such file"),
        ([good, good, b"text"], r"^`images`\[2\]: not an image"),
        ([good, truncated], r"^`images`\[1\]: image file is truncated"),
        ([good, 3], r"^`images`\[1\]: int \(allowed: a path, "),
        ("photo.png", "pass a list of images"),
        ([np.zeros((4, 4, 3), np.float32)], r"^`images`\[0\]: an array of float32 \(4, 4, 3\)"),
        ([np.zeros((4, 4, 4), np.uint8)], r"an array of uint8 \(4, 4, 4\)"),
    ):
        with pytest.raises(UserError, match=message):
            run.predict(images, batch_size=1)
    with pytest.raises(UserError, match="`top_k`=0"):
        run.predict([np.zeros((4, 4), np.uint8)], top_k=0)
