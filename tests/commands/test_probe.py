"""The linear probe: features in their file, the choice of the penalty, the script, and the head a run starts from."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression as Sklearn
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import __main__ as benchmark
from benchmarks import probe_photos
from tests.support.runs import CHEAP, ROOT, call, environment, read_results, save_classes
from transfer.commands import evaluate, finetune, predict, probe
from transfer.config.command_line import parse_probe_config
from transfer.config.probe_schema import PROBE_FIELDS, PROBE_TRAINER_FIELDS
from transfer.config.schema import FinetuneConfig, TrainerConfig
from transfer.errors import BadValue, UserError
from transfer.folds import draw_folds
from transfer.networks.classifier import Classifier
from transfer.networks.layers import LayerSettings
from transfer.probe import linear
from transfer.probe.cross_validation import TEMPERATURES
from transfer.probe.fabric import build_fabric
from transfer.probe.features import Features, cached_features, feature_file, read_features
from transfer.probe.linear import fit_probe, linear_metrics
from transfer.probe.neighbours import neighbour_votes
from transfer.probe.network import PooledFeatures, backbone_digest
from transfer.probe.penalties import PENALTIES
from transfer.runs.predictor import load_run
from transfer.runs.test_record import read_predictions
from transfer.weights.build import build_classifier

# Features


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return fabric


class Loader(DataLoader[Any]):
    """A loader that knows the positions of its images."""

    def positions(self) -> list[int]:
        return list(self.sampler)


class Images:
    """Ten images of three classes, and how often a loader of them was asked for."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(10, 3, 32, 32, generator=generator)
        self.labels = torch.arange(10) % 3
        self.loaders = 0

    def loader(self) -> Loader:
        self.loaders += 1
        return Loader(TensorDataset(self.images, self.labels), batch_size=4)


def double(images: Tensor) -> Tensor:
    return 2 * images


def compute(path: Path, classifier: Classifier, images: Images, fabric: Fabric, dtype: str = "float32") -> Features:
    features = classifier.backbone.num_features
    return cached_features(path, 10, features, dtype, PooledFeatures(classifier).eval(), images.loader, double, fabric)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_are_the_backbones_and_computed_once(
    dtype: str, tiny_classifier: Classifier, tmp_path: Path, fabric: Fabric
) -> None:
    images, path = Images(), tmp_path / "new" / "folder" / "x.features"
    first = compute(path, tiny_classifier, images, fabric, dtype)
    second = compute(path, tiny_classifier, images, fabric, dtype)
    with torch.inference_mode():
        expected = tiny_classifier.eval().backbone(2 * images.images).mean((2, 3))
    assert images.loaders == 1
    for found in (first, second, read_features(path)):
        assert found.features.dtype == getattr(torch, dtype) and torch.equal(found.labels, images.labels)
        tolerance = {"float32": 1e-6, "bfloat16": 2**-8}[dtype] * float(expected.abs().max())
        torch.testing.assert_close(found.features.float(), expected, atol=tolerance, rtol=0)
    size = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    assert path.stat().st_size == 128 + 10 * (8 + size * tiny_classifier.backbone.num_features)
    assert {file.name for file in path.parent.iterdir()} == {"x.features", "x.features.lock"}


def test_what_a_caller_does_to_the_features_stays_out_of_the_file(
    tiny_classifier: Classifier, tmp_path: Path, fabric: Fabric
) -> None:
    path = tmp_path / "x.features"
    before = compute(path, tiny_classifier, Images(), fabric)
    kept = before.features.clone()
    before.features.zero_()
    assert torch.equal(read_features(path).features, kept)


def test_what_a_killed_process_left_behind_is_not_taken(
    tiny_classifier: Classifier, tmp_path: Path, fabric: Fabric
) -> None:
    images, path = Images(), tmp_path / "x.features"
    whole = compute(path, tiny_classifier, images, fabric).features.clone()
    content = path.read_bytes()
    for name, left in (
        ("x.partial", content[:1000]),
        ("x.features", content[:-1]),
        ("x.features", b"y" * len(content)),
    ):
        path.unlink(missing_ok=True)
        (tmp_path / name).write_bytes(left)
        assert torch.equal(compute(path, tiny_classifier, images, fabric).features, whole)
        assert path.read_bytes() == content and not (tmp_path / "x.partial").exists()
    assert images.loaders == 4


def test_a_file_that_was_damaged_since_is_not_believed(
    tiny_classifier: Classifier, tmp_path: Path, fabric: Fabric
) -> None:
    images, path = Images(), tmp_path / "x.features"
    labels = compute(path, tiny_classifier, images, fabric).labels.clone()
    content = path.read_bytes()
    path.write_bytes(content[:128] + bytes(80) + content[208:])  # every label is 0
    with pytest.warns(UserWarning, match="x.features: damaged"), pytest.raises(UserError, match="not a whole file"):
        read_features(path)
    with pytest.warns(UserWarning, match="x.features: damaged"):
        again = compute(path, tiny_classifier, images, fabric)
    assert images.loaders == 2 and torch.equal(again.labels, labels) and path.read_bytes() == content


def test_a_full_disk_is_told_before_anything_is_computed(
    tiny_classifier: Classifier, tmp_path: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        assert size == 128 + 10 * (8 + 4 * tiny_classifier.backbone.num_features)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    images = Images()
    with pytest.raises(OSError) as raised:
        compute(tmp_path / "x.features", tiny_classifier, images, fabric)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path))
    assert images.loaders == 0 and [path.name for path in tmp_path.iterdir()] == ["x.features.lock"]


def test_a_computation_that_breaks_off_leaves_no_file(
    tiny_classifier: Classifier, tmp_path: Path, fabric: Fabric
) -> None:
    path = tmp_path / "x.features"
    engine, features = PooledFeatures(tiny_classifier).eval(), tiny_classifier.backbone.num_features
    calls = 0

    def breaks(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("killed")
        return images

    with pytest.raises(RuntimeError, match="killed"):
        cached_features(path, 10, features, "float32", engine, Images().loader, breaks, fabric)
    assert not path.exists()
    with pytest.raises(UserError, match=r"x.features: 10 of 11 images came from the loader"):
        cached_features(path, 11, features, "float32", engine, Images().loader, double, fabric)
    assert not path.exists()


def test_two_that_want_the_same_file_compute_it_once(
    tiny_classifier: Classifier, tmp_path: Path, fabric: Fabric
) -> None:
    images, found = Images(), []
    slow = threading.Event()

    def normalize(pixels: Tensor) -> Tensor:
        slow.wait(0.2)
        return pixels

    def work() -> None:
        path = tmp_path / "x.features"
        found.append(cached_features(path, 10, features, "float32", engine, images.loader, normalize, fabric))

    engine, features = PooledFeatures(tiny_classifier).eval(), tiny_classifier.backbone.num_features
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert images.loaders == 1 and len(found) == 3
    assert all(torch.equal(each.features, found[0].features) for each in found)


def test_a_folder_that_cannot_be_written_is_named(
    tiny_classifier: Classifier, tmp_path: Path, fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/cache: the features cannot be written: .*pass `cache_dir`=DIR"):
        compute(tmp_path / "file" / "cache" / "x.features", tiny_classifier, Images(), fabric)
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("transfer.probe.features.shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"the features take 0.00 GB, 0.00 GB are free; .*`feature_dtype`=bfloat16"):
        compute(tmp_path / "x.features", tiny_classifier, Images(), fabric)


def test_reading_names_what_is_no_file_of_features(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"x.features: no such file or directory; efficientnet-transfer probe computes it"
    ):
        read_features(tmp_path / "x.features")
    (tmp_path / "y").write_bytes(b"\xff" * 200)
    with pytest.raises(UserError, match="y: not a file of features"):
        read_features(tmp_path / "y")


def test_a_file_is_named_by_all_that_its_numbers_depend_on(tiny_classifier: Classifier, tmp_path: Path) -> None:
    names = {feature_file(tmp_path, "a", "float32", "digest", {"size": 64})}
    names |= {feature_file(tmp_path, "a", "bfloat16", "digest", {"size": 64})}
    names |= {feature_file(tmp_path, "a", "float32", "digest", {"size": 65})}
    names |= {feature_file(tmp_path, "a", "float32", "other", {"size": 64})}
    assert len(names) == 4 and all(name.name.startswith("a-") and name.suffix == ".features" for name in names)

    digest = backbone_digest(tiny_classifier)
    assert digest == backbone_digest(tiny_classifier.train()) == backbone_digest(tiny_classifier.eval())
    tiny_classifier.reset_head(7)
    assert backbone_digest(tiny_classifier) == digest
    with torch.no_grad():
        next(tiny_classifier.backbone.parameters()).view(-1)[0] += 1e-3
    changed = {digest, backbone_digest(tiny_classifier)}
    torch.manual_seed(0)
    state = tiny_classifier.backbone.state_dict()
    for settings in (LayerSettings(padding="symmetric"), LayerSettings(bn_eps=1e-5)):
        other = type(tiny_classifier.backbone)(tiny_classifier.backbone.variant, settings)
        other.load_state_dict(state)
        changed.add(backbone_digest(Classifier(other, tiny_classifier.head, 3)))
    assert len(changed) == 4


# The choice


def blobs(num_images: int, seed: int) -> Features:
    """Four classes; one feature in five says something, so that a middle penalty is best."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=num_images)
    features = rng.normal(size=(num_images, 40))
    features[:, :8] += 0.7 * np.random.default_rng(0).normal(size=(4, 8))[labels]
    return Features(torch.from_numpy(features).float(), torch.from_numpy(labels))


@pytest.fixture
def val_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were many images."""
    monkeypatch.setattr(linear, "MOST_CROSS_VALIDATED", 0)


def test_of_few_images_train_chooses_and_val_has_no_part_in_it() -> None:
    train, val, groups = blobs(80, 1), blobs(80, 2), np.arange(80).astype(str)
    found = fit_probe([train], val, 4, groups=groups)
    x, y = train.features.double().numpy(), train.labels.numpy()
    splits = PredefinedSplit(draw_folds(y, 5, groups=groups)[0])
    losses = {}
    for penalty in PENALTIES[::2]:
        model = Sklearn(C=1 / penalty, tol=1e-8, max_iter=10_000)
        scores = cross_val_predict(model, x, y, cv=splits, method="decision_function")
        for t in TEMPERATURES:
            each = -log_softmax(scores / t, axis=1)
            losses[penalty, t] = (81 / 82 * each[np.arange(80), y] + each.mean(1) / 82).mean()
    assert (found.penalty, found.temperature) == min(losses, key=lambda key: losses[key])
    assert (found.chosen_on, list(found.val_metrics)) == ("train", [found.penalty])
    for fit, rows in ((found.train_fit, [train]), (found.fit, [train, val])):
        features, labels = (torch.cat([getattr(row, name) for row in rows]) for name in ("features", "labels"))
        model = Sklearn(C=1 / found.penalty, tol=1e-8, max_iter=10_000).fit(features.double(), labels)
        expected = torch.from_numpy(model.decision_function(val.features.double())) / found.temperature
        logits = fit.logits(val.features.double())
        torch.testing.assert_close(logits.log_softmax(1), expected.log_softmax(1), atol=1e-4, rtol=1e-3)
    assert found.val_metrics[found.penalty]["top1"] == float((found.val_logits.argmax(1) == val.labels).float().mean())


@pytest.mark.filterwarnings("error")
def test_where_folds_are_impossible_val_chooses() -> None:
    lonely = blobs(4, 1)
    lonely.labels.copy_(torch.arange(4))
    assert fit_probe([lonely], blobs(40, 2), 4).chosen_on == "val"
    one_group = np.repeat("camera", 80)
    assert fit_probe([blobs(80, 1)], blobs(40, 2), 4, groups=one_group).chosen_on == "val"


@pytest.mark.usefixtures("val_chooses")
def test_the_penalty_is_chosen_on_val_and_fitted_to_both() -> None:
    train, val = blobs(80, 1), blobs(80, 2)
    found = fit_probe([train], val, 4)
    assert (found.chosen_on, found.temperature) == ("val", 1.0)
    assert list(found.val_metrics) == list(PENALTIES)
    for penalty in PENALTIES[::8]:
        model = Sklearn(C=1 / penalty, tol=1e-8, max_iter=10_000).fit(train.features.double(), train.labels)
        top1 = model.score(val.features.double(), val.labels)
        assert found.val_metrics[penalty]["top1"] == pytest.approx(top1, abs=1.01 / 80)
    best = max(metrics["top1"] for metrics in found.val_metrics.values())
    equals = [penalty for penalty, metrics in found.val_metrics.items() if metrics["top1"] == best]
    assert found.penalty == max(equals) and 1e-6 < found.penalty < 1e5
    both = torch.cat([train.features, val.features]).double(), torch.cat([train.labels, val.labels])
    model = Sklearn(C=1 / found.penalty, tol=1e-8, max_iter=10_000).fit(*both)
    torch.testing.assert_close(found.fit.weight, torch.from_numpy(model.coef_), atol=1e-4, rtol=1e-3)
    test = blobs(200, 3)
    metrics = linear_metrics(found.fit, test)
    assert metrics["top1"] == pytest.approx(model.score(test.features.double(), test.labels), abs=1e-6)
    assert metrics.keys() == {"loss", "top1", "mean_per_class", "ece"}


@pytest.mark.usefixtures("val_chooses")
def test_the_quoted_metric_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transfer.probe.linear.PENALTIES", (1e3, 1e2, 1.0))
    train, val = blobs(80, 1), blobs(80, 2)
    rows = iter([{"top1": 0.1, "mean_per_class": 0.3}, {"top1": 0.5, "mean_per_class": 0.2}, {"top1": 0.5}] * 2)
    monkeypatch.setattr("transfer.probe.linear.linear_metrics", lambda *_: {"mean_per_class": 0.0, **next(rows)})
    assert fit_probe([train], val, 4, "top1").penalty == 1e2
    assert fit_probe([train], val, 4, "mean_per_class").penalty == 1e3


@pytest.mark.usefixtures("val_chooses")
@pytest.mark.filterwarnings("error")
def test_the_last_fit_separates_what_the_fit_to_train_got_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "PENALTIES", (1e3, 1.0, 1e-3, 1e-6))
    monkeypatch.setattr(linear, "linear_metrics", lambda fit, _: {"top1": -fit.penalty})  # the weakest is chosen
    rng = np.random.default_rng(0)
    rows = [Features(torch.from_numpy(rng.normal(size=(n, 200))), torch.arange(n) % 10) for n in (30, 13)]
    found = fit_probe([rows[0]], rows[1], 10)
    for row in rows:  # 43 points in 200 dimensions
        assert (found.fit.logits(row.features).argmax(1) == row.labels).all()
    assert (found.train_fit.logits(rows[1].features).argmax(1) == rows[1].labels).float().mean() < 0.5


@pytest.mark.usefixtures("val_chooses")
def test_an_image_has_the_mean_loss_of_its_views() -> None:
    views, val = [blobs(80, 1), blobs(80, 1)], blobs(80, 2)
    views[1].features.add_(torch.randn(views[1].features.shape))
    found = fit_probe(views, val, 4)
    rows = [*views, val, val]
    x, y = torch.cat([row.features for row in rows]).double(), torch.cat([row.labels for row in rows])
    model = Sklearn(C=1 / found.penalty, tol=1e-8, max_iter=10_000).fit(x, y, sample_weight=np.full(len(y), 0.5))
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    expected = torch.nn.functional.cross_entropy(x @ weight.T + bias, y, reduction="sum") / 2
    expected += found.penalty / 2 * weight.square().sum()
    assert found.fit.loss == pytest.approx(float(expected), rel=1e-6)
    once, twice = fit_probe([val], val, 4), fit_probe([val, val], val, 4)
    assert twice.penalty == once.penalty and twice.fit.loss == pytest.approx(once.fit.loss, rel=1e-6)


# The command line


def test_a_probe_has_the_fields_of_a_run_and_none_that_it_would_ignore() -> None:
    fields = FinetuneConfig.__dataclass_fields__.keys()
    assert set(PROBE_FIELDS) <= fields and set(PROBE_TRAINER_FIELDS) <= TrainerConfig.__dataclass_fields__.keys()
    config, own = parse_probe_config(["--dataset", "pets", "--engine", "torch", "--data.batch_size", "7"])
    assert (config.dataset, own.engine, config.data.batch_size) == ("pets", "torch", 7)
    assert (own.feature_dtype, own.views, own.beside) == ("bfloat16", 1, None)
    for flag in (
        "--trainer.precision",
        "--optim.lr",
        "--augment",
        "--trainer.max_epochs",
        "--head",
        "--bn",
        "--init_head",
    ):
        with pytest.raises(UserError, match=f"unknown option '{flag.removeprefix('--')}'"):
            parse_probe_config([flag, "1"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--feature_dtype", "float16"], "`feature_dtype`='float16'; did you mean .* (allowed: float32, bfloat16)"),
        (["--engine", "torch-bf1"], "`engine`='torch-bf1'; did you mean 'torch-bf16'? (allowed: auto, torch, "),
        (["--views", "0"], "`views`=0 (allowed: 1 to 1000)"),
        (["--data.multilabel", "true"], "`data.multilabel`=True: a probe supports one label per image only"),
        (["--data.train_on", "trainval"], "`data.train_on`=trainval: a probe chooses on val"),
        (["--data.stream", "true", "--on_bad_image", "skip"], "`data.stream`=True with `on_bad_image`=skip"),
        (["--image_size", "8"], "`image_size`=8 (allowed: 32 to 8192)"),
    ],
)
def test_what_a_probe_cannot_do_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")):
        parse_probe_config(argv)


def test_data_that_cannot_be_read_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(probe.main, "--dataset", "folder", "--data_root", "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_device_that_is_not_there_is_one_line() -> None:
    with pytest.raises(BadValue, match="`trainer`: No supported gpu"):
        build_fabric(TrainerConfig(accelerator="gpu"))


# The script


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classes(tmp_path_factory.mktemp("photos") / "photos", {"dark": 20, "grey": 20, "light": 20})


def quick(photos: Path, cache: Path, *argv: str | Path) -> tuple[str | Path, ...]:
    sizes = ("--image_size", "32", "--data.num_workers", "0", "--trainer.accelerator", "cpu", "--trainer.devices", "1")
    data = ("--dataset", "folder", "--data_root", photos, "--data.cache_dir", cache)
    return (*data, *sizes, "--report", "false", *argv)


@pytest.fixture(scope="module")
def probed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe's folder; its features lie in `cache` beside it."""
    folder = tmp_path_factory.mktemp("probe")
    assert call(probe.main, *quick(photos, folder / "cache", "--report", "true", "--out_dir", folder / "run")) == 0
    return folder / "run"


@pytest.mark.slow
def test_a_probe_leaves_its_files_and_says_what_it_did(probed: Path) -> None:
    names = {"probe.yaml", "config.yaml", "best.ckpt", "results.json", "test_reads.json", "test_predictions.npz"}
    assert {path.name for path in probed.iterdir()} == names | {
        *("calibration.safetensors", "val_predictions.npz", "report.html", "report_photos.safetensors")
    }
    results = read_results(probed)
    assert results["penalty"] in PENALTIES and results["test_reads"] == 1
    assert results["chosen_on"] == "train" and results["temperature"] in TEMPERATURES
    assert results["val_metrics"] == [{"penalty": results["penalty"], **results["metrics"]["val"]}]
    assert results["weights"]["name"] == "efficientnet_lite0.pypi" and len(results["weights"]["sha256"]) == 64
    assert results["per_class_accuracy"].keys() == {"dark", "grey", "light"}
    for name, split in results["splits"].items():
        features = read_features(Path(split["features"]))
        assert features.features.shape == (split["size"], 1280 + 112 + 192 + 320)
        assert torch.bincount(features.labels, minlength=3).tolist() == split["class_counts"]
        assert Path(split["features"]).name.startswith(f"folder-{name}-lite0-32-")
    files = (Path(results["splits"][name]["features"]) for name in ("train", "val", "test"))
    train, val, test = (read_features(file).leading(results["num_features"]) for file in files)
    for name, images, known in (("val", val, [train]), ("test", test, [train, val])):
        features, labels = (torch.cat([getattr(part, field) for part in known]) for field in ("features", "labels"))
        right = neighbour_votes(images.features, features, labels, 3).argmax(1) == images.labels
        assert results["neighbours"][name]["top1"] == pytest.approx(right.float().mean().item())
    assert results["engine"] == {
        **{"engine": "torch", "precision": "float32", "images_compared": 0},
        **{"agreement": None, "largest_difference": None, "refused": {}},
    }
    found = read_predictions(probed)
    assert (found.labels == found.predictions).mean() == pytest.approx(results["metrics"]["test"]["top1"])
    assert found.probabilities is not None and found.probabilities.sum(1) == pytest.approx(1.0, abs=1e-5)
    assert all(Path(path).is_file() for path in found.paths) and found.class_names == ("dark", "grey", "light")


@pytest.mark.slow
def test_evaluate_and_predict_take_the_probes_folder(probed: Path, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "evaluated.json"
    assert call(evaluate.main, probed, "--num_workers", "0", "--json", file) == 0
    evaluated, results = json.loads(file.read_text())["metrics"], read_results(probed)
    assert evaluated == pytest.approx(results["metrics"]["test"], abs=1e-3)  # the fit saw bfloat16
    table = tmp_path / "predictions.csv"
    assert call(predict.main, probed, photos, "--format", "csv", "--out", table) == 0
    assert len(table.read_text().splitlines()) == 61


@pytest.mark.slow
def test_a_second_probe_reads_the_features_and_finds_the_same(
    probed: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = probed.parent / "cache"
    before = {path: path.stat().st_mtime_ns for path in cache.glob("*.features")}
    assert len(before) == 3
    monkeypatch.setattr(Classifier, "forward_features", lambda *_: pytest.fail("computed again"))
    again = quick(photos, cache, "--out_dir", tmp_path / "run", "--beside", probed)
    assert call(probe.main, *again) == 0
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.features")} == before
    first, second = read_results(probed), read_results(tmp_path / "run")
    assert first["metrics"] == second["metrics"] and first["val_metrics"] == second["val_metrics"]
    top1 = f"{100 * first['metrics']['test']['top1']:.2f}%"
    low, high = (100 * second["intervals"]["test"]["top1"][end] for end in ("low", "high"))
    top1 += f" ({low:.1f}% to {high:.1f}%)"
    line = f"test top1: probe {top1}, fine-tuned {top1} at 32 px ({probed / 'results.json'})"
    assert line in capsys.readouterr().out.splitlines()
    for seen, head, width in (("last", "linear", 1280), ("stages", "stages", 1904)):
        words = ("--out_dir", tmp_path / seen, "--features", seen)
        assert call(probe.main, *quick(photos, cache, *words)) == 0
        found = read_results(tmp_path / seen)
        assert (found["config"]["head"], found["num_features"]) == (head, width)
        assert load_run(tmp_path / seen).classifier.head.state_dict()["fc.weight"].shape == (3, width)
    assert read_results(tmp_path / "last")["protocol"] == "linear probe" != found["protocol"]


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "taken"), [("auto", True), ("off", False)])
def test_data_judged_by_the_mean_per_class_get_an_adjusted_head(
    asked: str, taken: bool, probed: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--data.metric", "mean_per_class", "--logit_adjustment", asked, "--report", "false")
    assert call(probe.main, *quick(photos, probed.parent / "cache", *words, "--out_dir", tmp_path / "run")) == 0
    found = read_results(tmp_path / "run")
    assert (found["logit_adjustment"], found["quoted_metric"]) == (taken, "mean_per_class")
    assert (", with logit adjustment, penalty" in capsys.readouterr().out) == taken
    assert (read_results(probed)["logit_adjustment"], read_results(probed)["quoted_metric"]) == (False, "top1")


@pytest.mark.slow
def test_views_are_computed_once_and_more_are_added(probed: Path, photos: Path, tmp_path: Path) -> None:
    cache = probed.parent / "cache"

    def views(out: str, *argv: str) -> dict[str, Path]:
        """Run a probe, and return the files that it adds, by their view."""
        before = set(cache.glob("*.features"))
        assert call(probe.main, *quick(photos, cache, *argv, "--out_dir", tmp_path / out)) == 0
        return {path.name.split("-")[4]: path for path in set(cache.glob("*.features")) - before}

    added = views("two", "--views", "2")
    results = read_results(tmp_path / "two")
    plain = Path(results["splits"]["train"]["features"])
    assert added.keys() == {"view1"} and results["views"] == 2
    assert plain == Path(read_results(probed)["splits"]["train"]["features"])
    added |= views("three", "--views", "3")
    assert added.keys() == {"view1", "view2"}
    first, second, whole = map(read_features, (added["view1"], added["view2"], plain))
    assert torch.equal(first.labels, whole.labels) and torch.equal(second.labels, whole.labels)
    differ = [(a.features != b.features).any(1).double().mean() for a, b in ((first, whole), (first, second))]
    assert min(differ) > 0.9
    assert views("seed", "--views", "2", "--seed", "1").keys() == {"view1"}
    assert views("crops", "--views", "2", "--data.min_crop_area", "0.5").keys() == {"view1"}


@pytest.mark.slow
def test_a_probe_starts_anew_in_the_folder_of_one_that_was_killed(
    probed: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = quick(photos, probed.parent / "cache", "--out_dir", tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(probe, "fit", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        call(probe.main, *argv)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"probe.yaml", "config.yaml"}
    assert call(finetune.main, *CHEAP, "--out_dir", tmp_path / "run") == 2
    assert "is not empty" in capsys.readouterr().err
    (tmp_path / "run" / "best.ckpt").write_bytes(b"stale")
    assert call(probe.main, *argv) == 0
    found = read_results(tmp_path / "run")
    assert found["metrics"] == read_results(probed)["metrics"] and found["test_reads"] == 1
    assert call(probe.main, *argv) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.slow
def test_the_last_fine_tuned_run_stands_beside_the_probe(
    probed: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, top1 in ((9, 0.25), (10, 0.75)):
        run = tmp_path / "runs" / "photos_lite0" / str(number)
        run.mkdir(parents=True)
        splits = {"test": {"size": 1, "fingerprint": "another", "class_counts": [1]}}
        content = {"metrics": {"test": {"top1": top1}}, "splits": splits, "image_size": 224}
        content |= {"command": [], "dataset": "folder", "backbone": "lite0", "config": {"data_root": str(photos)}}
        (run / "results.json").write_text(json.dumps(content))
    cache = probed.parent / "cache"
    assert call(probe.main, *quick(photos, cache)) == 0
    assert (tmp_path / "runs" / "photos_lite0_probe" / "1" / "results.json").exists()
    printed = capsys.readouterr().out
    assert "fine-tuned 75.00% at 224 px on other test images (runs/photos_lite0/10/results.json)" in printed
    others = {**content, "config": {"data_root": str(tmp_path / "elsewhere" / "photos")}}  # a folder of the same name
    (tmp_path / "runs" / "photos_lite0" / "10" / "results.json").write_text(json.dumps(others))
    assert call(probe.main, *quick(photos, cache)) == 0
    assert "fine-tuned" not in capsys.readouterr().out
    assert call(probe.main, *quick(photos, cache, "--beside", "nowhere")) == 2
    assert capsys.readouterr().err.startswith("error: --beside nowhere: no finished run there")


@pytest.mark.slow
def test_two_processes_share_the_images(probed: Path, photos: Path, tmp_path: Path) -> None:
    argv = quick(photos, tmp_path / "cache", "--out_dir", tmp_path / "run", "--trainer.devices", "2")
    command = [sys.executable, "scripts/probe.py", *map(str, argv), "--trainer.strategy", "ddp"]
    process = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr
    one, two = read_results(probed), read_results(tmp_path / "run")
    assert (one["world_size"], two["world_size"], two["test_reads"]) == (1, 2, 1)
    for name in ("train", "val", "test"):
        alone, shared = (read_features(Path(results["splits"][name]["features"])) for results in (one, two))
        assert torch.equal(alone.labels, shared.labels)
        torch.testing.assert_close(alone.features, shared.features, atol=1e-4, rtol=2**-7)
    assert two["metrics"]["test"] == pytest.approx(one["metrics"]["test"], abs=1e-3)


# The head that a fine-tuning run starts from


@pytest.mark.slow
def test_init_head_starts_a_run_from_the_fitted_head(
    probed: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A learning rate of next to nothing: the best checkpoint is the start.
    still = ("--optim.lr", "1e-12", "--trainer.max_epochs", "1", "--bn", "frozen", "--trainer.limit_train_batches", "1")
    sizes = ("--data.batch_size", "8", "--optim.warmup_epochs", "0")
    argv = ("--config", probed / "config.yaml", *still, *sizes, "--out_dir", tmp_path / "run")
    assert call(finetune.main, *argv, "--init_head", probed) == 0
    started, fitted = load_run(tmp_path / "run").classifier.head, load_run(probed).classifier.head
    for name, tensor in fitted.state_dict().items():
        torch.testing.assert_close(started.state_dict()[name], tensor, atol=1e-6, rtol=0)
    found, expected = read_results(tmp_path / "run"), read_results(probed)
    assert found["metrics"]["test"]["top1"] == expected["metrics"]["test"]["top1"]
    assert found["config"]["init_head"] == str(probed)

    capsys.readouterr()
    refusals: list[tuple[tuple[str, ...], str]] = [
        (("--head", "mlp"), f"--head {expected['config']['head']}, here mlp"),
        (("--backbone", "b0", "--pretrained", "false"), "--backbone lite0, here b0"),
        (
            ("--dataset", "digits", "--data_root", "null"),
            "classes dark, grey, light, here 0, 1, 2, 3, 4",
        ),
    ]
    for number, (changes, message) in enumerate(refusals):
        place = ("--out_dir", tmp_path / f"refused{number}", "--init_head", probed)
        assert call(finetune.main, "--config", probed / "config.yaml", *sizes, *place, *changes) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: --init_head {probed}: its head fits another network:") and message in error
        assert not (tmp_path / f"refused{number}").exists()
    assert call(finetune.main, *CHEAP, "--init_head", tmp_path / "none", "--out_dir", tmp_path / "r") == 2
    assert "is not a run: there is no such folder" in capsys.readouterr().err


def test_a_head_of_other_classes_order_is_refused(tmp_path: Path) -> None:
    from transfer.config.command_line import save_config
    from transfer.runs.checkpoint import save_classifier
    from transfer.runs.predictor import load_head

    classifier = build_classifier("lite0", 2)
    data: dict[str, Any] = {
        "class_names": ["cat", "dog"],
        "image_size": 32,
        "crop_ratio": 0.875,
        "resize": "short_side",
    }
    data |= {"interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    save_config(FinetuneConfig(pretrained=False), tmp_path / "config.yaml")
    save_classifier(tmp_path / "best.ckpt", classifier, data)
    config = FinetuneConfig(init_head=str(tmp_path))
    with pytest.raises(UserError, match="classes cat, dog, here dog, cat"):
        load_head(build_classifier("lite0", 2), config, ("dog", "cat"))
    with torch.no_grad():
        classifier.head.fc.weight.fill_(3.0)
    save_classifier(tmp_path / "best.ckpt", classifier, data)
    fresh = build_classifier("lite0", 2)
    (tmp_path / "probe.yaml").touch()
    with pytest.warns(UserWarning, match="`init_head` with `bn`=adapt: .* `bn`=frozen starts where the probe ended"):
        load_head(fresh, config, ("cat", "dog"))
    assert (fresh.head.fc.weight == 3).all()


# The benchmark


@pytest.mark.slow
def test_the_benchmark_compares_equal_optima(
    probed: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last, file = tmp_path / "last", tmp_path / "probe.json"
    words = ("--features", "last", "--out_dir", last)
    assert call(probe.main, *quick(photos, probed.parent / "cache", *words)) == 0
    assert benchmark.main(["probe", str(last), "--every", "20", "--tol", "1e-7", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert figures["features"] == [read_results(last)["splits"]["train"]["size"], 1280]
    assert figures["compared"]["penalties"] == list(PENALTIES[::20])
    assert figures["probe"]["penalties"] == 45 and figures["probe"]["penalty"] == read_results(last)["penalty"]
    assert np.abs(figures["ours_loss_over_sklearn"]).max() < 1e-4
    assert min(figures["equal_test_predictions"][1:]) == 1  # at the strongest penalty all logits are nearly equal
    # The seconds and their ratio have two decimals.
    theirs, ours = figures["sklearn"]["seconds"], figures["ours"]["seconds"]
    assert (theirs - 0.005) / (ours + 0.005) - 0.005 <= figures["times_faster"]
    assert figures["times_faster"] <= (theirs + 0.005) / max(ours - 0.005, 1e-9) + 0.005
    assert benchmark.main(["probe", str(tmp_path)]) == 2
    assert "not a finished run of `efficientnet-transfer probe`" in capsys.readouterr().err


@pytest.mark.slow
def test_the_benchmark_of_photos_measures_every_part(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_here(path: Path, argv: list[str]) -> int:
        return probe_photos.run_timed(path, [*argv, "--data.num_workers", "0", "--trainer.accelerator", "cpu"])

    monkeypatch.setattr(probe_photos, "run_anew", run_here)
    file = tmp_path / "figures.json"
    argv = ["probe_photos", "--data_root", str(photos), "--image_size", "32", "--rounds", "1", "--json", str(file)]
    assert benchmark.main(argv) == 0
    figures = json.loads(file.read_text())
    assert sum(figures["images"].values()) == 60 and figures["engine"]["engine"] == "torch"
    parts = figures["parts"]
    assert parts.keys() == {"imports", *probe_photos.PARTS} and all(part["wall"] >= 0 for part in parts.values())
    assert parts["fits"]["user"] + parts["fits"]["kernel"] > 0 and figures["whole"]["wall"] > 0
    assert probe.fit.__name__ == "fit"  # no longer timed


@pytest.mark.slow
def test_the_benchmark_of_choices_fits_each(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    sizes = ["--image_size", "32", "--cache_dir", str(tmp_path / "cache"), "--views", "2", "--few", "6", "--seeds", "1"]
    assert benchmark.main(["probe_choices", "--data_root", str(photos), *sizes, "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    plain, rounded = figures["torch, float32"], figures["torch, bfloat16"]
    assert plain == figures["auto, float32"] == figures["views"]["1"]  # so few images are computed by torch
    assert rounded["train_losses"] == pytest.approx(plain["train_losses"], rel=0.05)
    assert rounded["train_losses"] != plain["train_losses"] != figures["views"]["2"]["train_losses"]
    draws = figures["views of 6 images, top1 of the others by seed"]
    assert draws.keys() == {"1", "2"} and all(0 <= top1 <= 1 for each in draws.values() for top1 in each)
