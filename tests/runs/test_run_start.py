"""A run's folder stands where weights may: its network is taken, and its head where the classes agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.runs import call, read_results, read_weights, refused, save_classes
from transfer.commands import finetune, probe

QUICK = (
    *("--pretrained", "true", "--image_size", "32", "--data.num_workers", "0", "--trainer.accelerator", "cpu"),
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--optim.warmup_epochs", "0"),
    *("--optim.lr", "1e-30", "--bn", "frozen", "--data.batch_size", "8", "--loss.label_smoothing", "0"),
)
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    photos = save_classes(folder / "photos", {"cat": 12, "dog": 12})
    scratch = tuple("false" if word == "true" else word for word in QUICK)
    assert call(finetune.main, *scratch, "--data_root", photos, "--seed", "1", "--out_dir", folder / "run") == 0
    return folder


@pytest.mark.parametrize("flag", ["--weights", "--init_from"])
def test_a_run_gives_its_network_and_its_head_where_the_classes_agree(
    first: Path, tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_weights(first / "run")
    adapted = [word if word != "frozen" else "adapt" for word in QUICK]
    again = (flag, first / "run", "--data_root", first / "photos", "--out_dir", tmp_path / "a")
    with pytest.warns() as given:
        assert call(finetune.main, *adapted, *again) == 0
    assert not any("init_head" in str(warning.message) for warning in given)
    assert f"lite0 from {first / 'run' / 'best.ckpt'}, trained on unknown data, with the head of that run; 32 px" in (
        capsys.readouterr().out.splitlines()
    )
    after = read_weights(tmp_path / "a")
    trained = [name for name in before if "classifier." in name and "running" not in name and "batches" not in name]
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in trained)
    results = read_results(tmp_path / "a")
    assert results["config"]["weights"] == str(first / "run" / "best.ckpt") and results["config"]["init_from"] is None
    others = save_classes(tmp_path / "photos", {"cat": 12, "fox": 12, "owl": 12})
    assert call(finetune.main, *QUICK, flag, first / "run", "--data_root", others, "--out_dir", tmp_path / "b") == 0
    other = read_weights(tmp_path / "b")
    same = {
        name: other[name].shape == before[name].shape and torch.allclose(other[name], before[name], atol=1e-6)
        for name in before
    }
    assert all(found for name, found in same.items() if "classifier.backbone" in name)
    assert not any(found for name, found in same.items() if "classifier.head" in name)


def test_a_run_of_another_backbone_is_refused(first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, *QUICK, "--backbone", "b0", "--weights", first / "run", "--out_dir", tmp_path / "a")
    assert f"--weights {first / 'run'}: a run of lite0, not of b0: use --backbone lite0" in message
    assert not (tmp_path / "a").exists()


def test_a_probe_reads_the_features_of_a_run(first: Path, tmp_path: Path) -> None:
    words = ("--image_size", "32", "--data.num_workers", "0", "--trainer.accelerator", "cpu", "--data.cache_dir")
    own = ("--data_root", first / "photos", "--out_dir", tmp_path / "probe")
    assert call(probe.main, *words, tmp_path / "cache", *own, "--weights", first / "run") == 0
    found, before = read_weights(tmp_path / "probe"), read_weights(first / "run")
    assert all(torch.equal(found[name], before[name]) for name in before if "classifier.backbone" in name)
    results = read_results(tmp_path / "probe")
    assert results["config"]["weights"] == str(first / "run" / "best.ckpt")
    assert results["seen_images"] == {"val": 0, "test": 0}


@pytest.mark.parametrize(
    "words", [("--init_from", "run", "--weights", "b.pth"), ("--weights", "run", "--init_from", "b2")]
)
def test_a_run_beside_other_weights_is_refused(
    first: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(first)
    assert "leave out the other" in refused(capsys, *QUICK, *words)
