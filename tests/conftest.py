"""What several test files share: a seed, a network that runs in milliseconds, random images, a study's stub."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from tests.support import bundles
from transfer.experiments import child_run
from transfer.networks.classifier import Classifier
from transfer.networks.efficientnet import B0, EfficientNet
from transfer.networks.heads import LinearHead
from transfer.networks.layers import LayerSettings
from transfer.networks.rows import Variant

# On networks this small, threads that wait for a busy core cost more than they give.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests keep features in a folder of their own, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(autouse=True)
def own_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each test has a user's configuration of its own, with the hashes of the weights that it has seen."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / f"config-{uuid4().hex}"))


@pytest.fixture
def tiny_classifier() -> Classifier:
    """Eight blocks of 8 to 80 channels in seven stages, three classes."""
    backbone = EfficientNet(Variant("tiny", 0.25, 0.3, 32, 0.2, 0, 0, B0), LayerSettings())
    return Classifier(backbone, LinearHead(backbone.num_features, 3, 0.2), 3)


class Batches:
    """A loader in a fixed order that draws no random numbers; it leaves out `skip` batches of its next epoch."""

    def __init__(self, images: Tensor, targets: Tensor, batch_size: int = 6) -> None:
        self.batches = list(zip(images.split(batch_size), targets.split(batch_size), strict=True))
        self.skip = self.yielded = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.yielded, self.skip = self.skip % len(self), 0
        for batch in self.batches[self.yielded :]:
            self.yielded += 1
            yield batch


class RandomImages(pl.LightningDataModule):
    """Four training batches of six images 32x32 of three classes, in order; the first two are val and test too."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.images = 2.0 + 3.0 * torch.randn(24, 3, 32, 32, generator=generator)
        self.targets = torch.arange(24) % 3
        self.train_batches = Batches(self.images, self.targets)

    def train_dataloader(self) -> Batches:
        return self.train_batches

    def calibration_dataloader(self) -> Batches:
        return Batches(self.images, self.targets)

    def val_dataloader(self) -> Batches:
        return Batches(self.images[:12], self.targets[:12])

    test_dataloader = val_dataloader

    def state_dict(self) -> dict[str, int]:
        return {"yielded": self.train_batches.yielded}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.train_batches.skip = state_dict["yielded"]


@pytest.fixture
def random_images() -> RandomImages:
    return RandomImages()


@pytest.fixture
def build_trainer() -> Callable[..., pl.Trainer]:
    """A Trainer on CPU that writes nothing but what its callbacks write."""

    def build(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
        checkpoints = any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        defaults = {**quiet, "accelerator": "cpu", "devices": 1, "num_sanity_val_steps": 0}
        return pl.Trainer(**{**defaults, "enable_checkpointing": checkpoints, **options}, callbacks=list(callbacks))

    return build


@pytest.fixture
def study_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Put `stub_study_run.py` in finetune's place and return a function that lists the runs started so far."""
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setattr(child_run, "FINETUNE", (str(Path(__file__).with_name("support") / "stub_study_run.py"),))
    monkeypatch.setenv("STUB_CALLS", str(calls))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return lambda: calls.read_text().splitlines()


@pytest.fixture
def table_stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Put `stub_finetune.py` in finetune's place and return a function that lists the runs started so far."""
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setattr(child_run, "FINETUNE", (str(Path(__file__).with_name("support") / "stub_finetune.py"),))
    monkeypatch.setenv("STUB_CALLS", str(calls))
    return lambda: calls.read_text().splitlines()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny network on digits, with its report."""
    return bundles.small_run(tmp_path_factory.mktemp("runs") / "digits_tiny" / "1", "--report", "true")


@pytest.fixture(scope="session")
def bundle(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle, in the float32 formats that are installed."""
    return bundles.exported(small_run, tmp_path_factory.mktemp("bundles") / "mymodel")


def pytest_collection_finish() -> None:
    """What was imported stays to the end: no collection has to go through it."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with most slow tests first, lest one worker ends long after the other; in a file, quick tests first."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (-slow[item.path], item.path, item.get_closest_marker("slow") is not None))
