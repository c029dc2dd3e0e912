"""Samplers, loaders, resume and checks: what every dataset inherits."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DistributedSampler

from datamodules import build_datamodule, get_sheet, load_dataset
from datamodules.datamodule import DataModule
from datamodules.dataset.sheet import ReadOptions
from datamodules.dataset.split import Split
from datamodules.loading.workers import default_num_workers
from datamodules.reading.tables import encoded_images, read_splits
from tests.support.data import PREPROCESSING
from transfer.errors import UserError


def digits(**options: Any) -> DataModule:
    return build_datamodule("digits", preprocessing=PREPROCESSING, **{"num_workers": 0, "batch_size": 250, **options})


def tiny_table(labels: list, label_feature: object) -> datasets.Dataset:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    images = [{"bytes": stream.getvalue(), "path": None}] * len(labels)
    features = datasets.Features({"image": datasets.Image(), "label": label_feature})
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features)


def read(table: datasets.Dataset, multilabel: bool = False) -> tuple[tuple[str, ...], Split]:
    names, splits = read_splits({"train": table}, "tiny", "image", "label", ReadOptions(multilabel=multilabel))
    return names, splits["train"]


# --- loaders


def test_lightning_leaves_our_samplers_in_place() -> None:
    data = digits()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert isinstance(loader.sampler, DistributedSampler)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_any_split_is_read_in_order_as_in_evaluation(split: str) -> None:
    data = digits()
    labels = torch.cat([labels for _, labels in data.eval_dataloader(split)])
    assert labels.tolist() == data.dataset.split(split).labels.tolist()
    assert data.test_order(split, 1).tolist() == list(range(len(labels)))
    # Asking for one split leaves what is tested as it was.
    assert len(data.test_dataloader().dataset) == len(data.dataset.split("test"))  # type: ignore[arg-type]  # ours


def test_train_drops_the_last_partial_batch_unless_it_is_the_only_one() -> None:
    assert [len(batch[1]) for batch in digits(batch_size=500).train_dataloader()] == [500, 500]
    assert [len(batch[1]) for batch in digits(batch_size=2000).train_dataloader()] == [1257]
    assert sum(len(batch[1]) for batch in digits(batch_size=500).val_dataloader()) == 180


def test_augmentation_does_not_depend_on_the_number_of_workers() -> None:
    first = [images for images, _ in digits(augment="trivialaugment").train_dataloader()]
    second = [images for images, _ in digits(augment="trivialaugment", num_workers=2).train_dataloader()]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_default_workers_leave_a_core_free() -> None:
    assert 1 <= default_num_workers() <= 8


def test_batches_are_normalised_after_the_transfer() -> None:
    data = digits()
    images, labels = next(iter(data.val_dataloader()))
    normalised, same_labels = data.on_after_batch_transfer((images, labels), 0)
    torch.testing.assert_close(normalised, data.normalize(images))
    assert torch.equal(labels, same_labels)


# --- resume


class Interrupted(Exception):
    """Stands for a crash right after a checkpoint."""


class Recorder(pl.LightningModule):
    """Records what it is trained on; saves and stops after `stop_after` batches in the hook `stop_in`."""

    def __init__(self, checkpoint: Path, stop_after: int | None = None, stop_in: str = "") -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 10)
        self.checkpoint, self.stop_after, self.stop_in = checkpoint, stop_after, stop_in
        self.seen: list[tuple[int, int, float, tuple[int, ...]]] = []

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        self.seen.append((self.current_epoch, batch_idx, images.double().sum().item(), tuple(labels.tolist())))
        return torch.nn.functional.cross_entropy(self.layer(images.mean((2, 3))), labels)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def _stop(self, hook: str) -> None:
        if hook == self.stop_in and len(self.seen) == self.stop_after:
            self.trainer.save_checkpoint(self.checkpoint)
            raise Interrupted

    def on_train_batch_end(self, *args: Any) -> None:
        self._stop("on_train_batch_end")

    def on_validation_end(self) -> None:
        self._stop("on_validation_end")

    def on_train_epoch_end(self) -> None:
        self._stop("on_train_epoch_end")


def fit(module: Recorder, data: DataModule, resume_from: Path | None = None) -> list:
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(Interrupted):
            trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True)
    return module.seen


@pytest.fixture(scope="module")
def uninterrupted() -> list:
    return fit(Recorder(Path()), digits())


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("stop_in", "stop_after"),
    [
        ("on_train_batch_end", 2),
        ("on_train_batch_end", 7),
        ("on_train_batch_end", 10),
        ("on_validation_end", 5),
        ("on_train_epoch_end", 5),
        ("on_train_epoch_end", 10),
    ],
)
def test_resumed_run_sees_what_the_uninterrupted_one_sees(
    tmp_path: Path, uninterrupted: list, num_workers: int, stop_in: str, stop_after: int
) -> None:
    checkpoint = tmp_path / "last.ckpt"
    before = fit(Recorder(checkpoint, stop_after, stop_in), digits(num_workers=num_workers))
    after = fit(Recorder(checkpoint), digits(num_workers=num_workers), resume_from=checkpoint)
    assert len(before) == stop_after and len(uninterrupted) == 15
    assert before + after == uninterrupted


def test_loader_state_outside_lightning() -> None:
    loader = digits().train_dataloader()
    loader.sampler.set_epoch(1)
    whole = [labels for _, labels in loader]
    resumed = digits().train_dataloader()
    resumed.load_state_dict({"epoch": 1, "batches": 3})
    rest = [labels for _, labels in resumed]
    assert len(resumed) == 5 and [r.tolist() for r in rest] == [w.tolist() for w in whole[3:]]
    assert resumed.state_dict() == {"epoch": 1, "batches": 5}
    resumed.load_state_dict(resumed.state_dict())
    assert resumed.state_dict() == {"epoch": 2, "batches": 0}


# --- a dataset is read once


def test_a_loaded_dataset_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset("digits")
    monkeypatch.setattr(type(dataset.sheet), "load_splits", None)
    first, second = (DataModule(dataset, PREPROCESSING, image_size=size, num_workers=0) for size in (32, 48))
    first.prepare_data()
    second.setup()
    assert first.dataset is second.dataset is dataset
    assert [next(iter(data.val_dataloader()))[0].shape[1] for data in (first, second)] == [32, 48]


def test_nothing_is_read_before_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(get_sheet("digits")), "load_splits", None)
    data = digits()
    assert data.num_classes == 10
    with pytest.raises(TypeError):
        data.setup()


def test_a_sheet_is_imported_without_torch() -> None:
    code = "import sys, datamodules as d\nfor name in d.list_datasets(): d.get_sheet(name)\nprint(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in process.stdout.split()}
    assert "datamodules" in loaded
    assert not loaded & {"torch", "numpy", "datasets", "pyarrow", "pytorch_lightning", "albumentations", "cv2", "PIL"}


# --- checkpoint state


def test_state_is_plain_and_matches_itself(tmp_path: Path) -> None:
    data = digits()
    data.setup()
    torch.save(data.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (
        state["dataset"] == "digits" and state["image_size"] == 32 and state["fingerprint"] == data.dataset.fingerprint
    )
    digits().load_state_dict(state)


def test_changed_data_is_refused_on_resume() -> None:
    data = digits()
    data.setup()
    state = data.state_dict()
    with pytest.raises(UserError, match=r"data changed since the checkpoint \(split: train\)"):
        data.load_state_dict({**state, "fingerprint": {**state["fingerprint"], "train": "0"}})
    with pytest.raises(UserError, match="classes changed since the checkpoint: it has a, b; the data has 0, 1"):
        data.load_state_dict({**state, "class_names": ["a", "b"]})


def test_repaired_val_and_test_images_are_only_named() -> None:
    data = digits()
    data.setup()
    state = data.state_dict()
    assert data.dataset.check_same_data(state) == []
    state["fingerprint"] |= {"val": "0", "test": "1"}
    with pytest.warns(UserWarning, match="digits: test and val changed since the checkpoint"):
        assert data.dataset.check_same_data(state) == ["test", "val"]


def relabel_first(split: Split) -> Split:
    labels = split.labels.clone()
    labels[0] = (labels[0] + 1) % 10
    return replace(split, labels=labels)


def test_fingerprint_ignores_order_and_notices_labels() -> None:
    data = digits()
    data.setup()
    split = data.dataset.splits["val"]
    assert split.select(np.arange(180)[::-1].copy()).fingerprint() == split.fingerprint()
    assert split.select(range(179)).fingerprint() != split.fingerprint()
    relabelled = relabel_first(split)
    assert relabelled.fingerprint() != split.fingerprint()


def test_the_ordered_fingerprint_notices_the_order_too() -> None:
    data = digits()
    data.setup()
    split = data.dataset.splits["val"]
    assert split.select(range(180)).ordered_fingerprint() == split.ordered_fingerprint()
    others = [split.select(np.arange(180)[::-1].copy()), split.select(range(179)), relabel_first(split)]
    assert len({split.ordered_fingerprint(), *(other.ordered_fingerprint() for other in others)}) == 4


# --- splits, labels and options


def test_multilabel_from_lists_and_from_text() -> None:
    expected = [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    class_label = datasets.ClassLabel(names=["x", "y", "z"])
    for table in (
        tiny_table([[0, 2], [1], []], datasets.List(class_label)),
        tiny_table(["x|z", "y", ""], datasets.Value("string")),
        tiny_table([["x", "z"], ["y"], []], datasets.List(datasets.Value("string"))),
    ):
        if isinstance(table.features["label"], datasets.Value):
            names, split = read(table, multilabel=True)
        else:
            with pytest.raises(UserError, match="'label' holds lists of labels; set `multilabel`=True"):
                read(table)
            names, split = read(table, multilabel=True)
        assert names == ("x", "y", "z") and split.labels.dtype == torch.float32
        assert split.labels.tolist() == expected and split.class_counts(3) == [1, 1, 1]


def test_integer_labels_without_names_become_numbers() -> None:
    names, split = read(tiny_table([10, 9, 2, 10], datasets.Value("int64")))
    assert names == ("2", "9", "10") and split.labels.tolist() == [2, 1, 0, 2]


def test_columns_that_hold_no_images_are_refused() -> None:
    table = datasets.Dataset.from_dict({"image": [1.5], "label": ["a"]})
    with pytest.raises(UserError, match=r"column 'image' is .*float64.* not images, encoded bytes or file paths"):
        read(table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "basics"}, "unknown augment 'basics'; did you mean 'basic'"),
        ({"on_bad_image": "skp"}, "unknown on_bad_image 'skp'; did you mean 'skip'"),
        ({"image_size": 16}, "`image_size`=16 is too small"),
        ({"batch_size": 0}, "`batch_size`=0 (allowed: at least 1)"),
        ({"batch_size": 10**20}, f"`batch_size`={10**20} (allowed: below 2147483648)"),
        ({"val_fraction": 0.7}, "`val_fraction`=0.7 (allowed: above 0, below 0.5)"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        digits(**options)


def test_image_size_is_the_given_one_then_the_preprocessings() -> None:
    assert digits(image_size=96).preprocessing == replace(PREPROCESSING, image_size=96)
    assert digits().preprocessing == PREPROCESSING


def test_a_datamodule_without_a_preprocessing_says_how_to_get_one() -> None:
    with pytest.raises(UserError, match=r"`preprocessing` is missing.*classifier\.preprocessing.*Preprocessing\("):
        build_datamodule("digits")


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_crop_keeps_more_than_nothing_and_no_more_than_all(share: float) -> None:
    with pytest.raises(UserError, match=rf"`min_crop_area`={share} \(allowed: above 0, at most 1\)"):
        digits(min_crop_area=share)


def test_min_crop_area_takes_the_place_of_the_sheets() -> None:
    def smallest(**options: float) -> float:
        return digits(**options).train_transform.transforms[0].scale[0]

    assert (smallest(), smallest(min_crop_area=0.9)) == (0.5, 0.9)


def test_a_bad_test_image_is_refused_before_a_training_and_not_before_a_test() -> None:
    dataset = load_dataset("digits")
    split = dataset.splits["test"]
    table = encoded_images([(split.encoded(0), None), (b"no image", "bad.png"), (split.encoded(2), None)])
    broken = Split("digits test", table, np.arange(3), split.labels[:3])
    data = DataModule(replace(dataset, splits={**dataset.splits, "test": broken}), PREPROCESSING, num_workers=0)
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="test"))
    data.prepare_data()
    data.trainer.state.fn = "fit"
    with pytest.raises(UserError, match=r"digits test row 1 \(bad.png\): not an image(.|\n)*`on_bad_image`=skip"):
        data.prepare_data()


def test_augmentations_reach_the_training_loader_with_and_without_a_cache() -> None:
    def batch(**options: Any) -> torch.Tensor:
        return next(iter(digits(batch_size=8, **options).train_dataloader()))[0]

    chosen = {"vertical_flip": True, "quarter_turns": True, "color_jitter": 0.3}
    assert not torch.equal(batch(**chosen), batch())
    assert torch.equal(batch(**chosen), batch(**chosen, cache="ram"))
