"""A teacher: its part in the loss, what it sees, what it leaves no trace in, how often it computes, what is refused."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit, log_softmax, softmax
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from datamodules import build_datamodule
from datamodules.datamodule import DataModule
from datamodules.images.transforms import normalize
from tests.conftest import RandomImages
from tests.support.data import PREPROCESSING
from tests.support.pretend_gpu import DEVICE, PretendGPU, pretend_gpu
from tests.support.ranks import run_ranks
from tests.support.runs import (
    CHEAP,
    call,
    read_results,
    read_rows,
    read_weights,
    refused,
    same_weights,
    save_classes,
    save_photo,
)
from tests.training.test_device_waits import LIGHTNINGS_LOG, NoFiles, WaitsPerStep
from transfer.bundle.record import MODEL, read_record
from transfer.commands import export, finetune
from transfer.config.command_line import load_config, save_config
from transfer.errors import UserError
from transfer.networks.classifier import Classifier
from transfer.networks.efficientnet import B0, EfficientNet
from transfer.networks.heads import LinearHead
from transfer.networks.layers import LayerSettings
from transfer.networks.rows import Variant
from transfer.preprocessing import LITE, Preprocessing
from transfer.runs import results as results_file
from transfer.training.batch_norm import BatchNormPolicy
from transfer.training.callbacks import EMA
from transfer.training.distillation import Distillation, softened_divergence
from transfer.training.mixing import draw_mix
from transfer.training.module import TransferModule
from transfer.weights.build import build_classifier

Array = NDArray[np.float64]
THEIRS = Preprocessing(40, 0.9, "bilinear", *LITE)  # the teacher's: other pixels, other constants


def network(
    preprocessing: Preprocessing | None = THEIRS, names: tuple[str, ...] | None = ("a", "b", "c")
) -> Classifier:
    """A network with a head that answers differently to different images."""
    backbone = EfficientNet(Variant("tiny", 0.25, 0.3, 32, 0.2, 0, 0, B0), LayerSettings())
    head = LinearHead(backbone.num_features, 3, 0.2)
    nn.init.normal_(head.fc.weight, std=0.1)
    return Classifier(backbone, head, 3, preprocessing=preprocessing, class_names=names)


@pytest.fixture
def teacher() -> Classifier:
    return network()


def pictures(size: int = 10) -> datasets.DatasetDict:
    """Images of noise in three classes, as many to train on as asked, and two to validate."""
    rng = np.random.default_rng(0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {
                    "image": [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(count)],
                    "label": [i % 3 for i in range(count)],
                },
                features=features,
            )
            for split, count in (("train", size), ("validation", 2))
        }
    )


def data(**options: Any) -> DataModule:
    given = {"preprocessing": PREPROCESSING, "batch_size": 4, "num_workers": 0, "augment": "none"}
    return build_datamodule(pictures(), **{**given, **options})


# ---------------------------------------------------------------------------------------------------------- the loss


def divergence(student: Array, teacher: Array, temperature: float) -> float:
    """Hinton's formula, by NumPy."""
    wanted = softmax(teacher / temperature, axis=1)
    logs = np.log(wanted) - log_softmax(student / temperature, axis=1)
    return float(temperature**2 * (wanted * logs).sum(axis=1).mean())


def binary_divergence(student: Array, teacher: Array, temperature: float) -> float:
    p, q = expit(teacher / temperature), expit(student / temperature)
    return float(temperature**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("multilabel", "expected"), [(False, divergence), (True, binary_divergence)])
def test_the_divergence_is_the_formulas(
    temperature: float, multilabel: bool, expected: Callable[[Array, Array, float], float]
) -> None:
    rng = np.random.default_rng(0)
    student, teacher = 3 * rng.normal(size=(5, 4)), 3 * rng.normal(size=(5, 4))
    found = softened_divergence(torch.tensor(student), torch.tensor(teacher), temperature, multilabel)
    assert found.item() == pytest.approx(expected(student, teacher, temperature), rel=1e-5)
    same = softened_divergence(torch.tensor(teacher), torch.tensor(teacher), temperature, multilabel)
    assert same.item() == pytest.approx(0.0, abs=1e-6)


def test_the_gradient_of_several_labels_is_that_of_binary_cross_entropy_with_the_teachers_probabilities() -> None:
    student = torch.randn(5, 4, requires_grad=True)
    teacher = torch.randn(5, 4)
    (found,) = torch.autograd.grad(softened_divergence(student, teacher, 1.0, True), student)
    (expected,) = torch.autograd.grad(nn.functional.binary_cross_entropy(student.sigmoid(), teacher.sigmoid()), student)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("options", [{}, {"loss": "bce"}, {"loss": "bce", "multilabel": True}])
@pytest.mark.parametrize("alphas", [(0.0, 0.0), (0.4, 0.0), (0.0, 1.0)], ids=["plain", "mixup", "cutmix"])
def test_a_batchs_loss_is_the_labels_and_the_teachers_answers_to_the_mixed_images(
    tiny_classifier: Classifier, teacher: Classifier, options: dict[str, Any], alphas: tuple[float, float]
) -> None:
    nn.init.normal_(tiny_classifier.head.fc.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    distillation = Distillation(teacher, weight=0.3, temperature=2.0)
    distillation.meet(("a", "b", "c"), PREPROCESSING)
    module = TransferModule(tiny_classifier, distillation=distillation, **options).eval()
    images, targets = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    if module.multilabel:
        targets = nn.functional.one_hot(targets, 3).float()
    mix = draw_mix(images, *alphas)
    shown = images if mix is None else mix.blend(images)
    with torch.no_grad():
        logits, answers = module(shown), distillation.answer(shown)
        own = TransferModule(tiny_classifier, **options).batch_loss(images, targets, mix)[0].item()
        found = module.batch_loss(images, targets, mix)[0].item()
    formula = binary_divergence if module.multilabel else divergence
    expected = 0.7 * own + 0.3 * formula(logits.double().numpy(), answers.double().numpy(), 2.0)
    assert found == pytest.approx(expected, rel=1e-5)
    assert abs(found - own) > 1e-4


# --------------------------------------------------------------------------------------------------- what it sees


def test_the_teacher_sees_the_same_pixels_in_its_own_normalisation(teacher: Classifier) -> None:
    teacher.preprocessing = replace(THEIRS, image_size=32)
    distillation = Distillation(teacher)
    distillation.meet(None, PREPROCESSING)
    pixels = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    found = distillation.answer(normalize(pixels, PREPROCESSING))
    with torch.no_grad():
        torch.testing.assert_close(found, teacher(normalize(pixels, THEIRS)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [48, 96])
def test_the_teacher_sees_its_own_size_resized_as_pillow_does(interpolation: str, side: int) -> None:
    """Smaller and larger; Pillow rounds to whole values."""
    theirs = replace(THEIRS, image_size=64, interpolation=interpolation)
    seen: list[Tensor] = []
    teacher = network(theirs)
    teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    distillation = Distillation(teacher)
    distillation.meet(None, PREPROCESSING)
    rows = np.linspace(40, 210, side)
    pixels = np.stack(
        [rows[:, None] + 0 * rows, rows + 0 * rows[:, None], 128 + 40 * np.sin(rows / 9) + 0 * rows[:, None]], 2
    )
    pixels = pixels.round().astype(np.uint8)
    distillation.answer(normalize(torch.from_numpy(pixels[None]), PREPROCESSING))
    resized = Image.fromarray(pixels).resize((64, 64), Image.Resampling[interpolation.upper()])
    expected = normalize(torch.from_numpy(np.array(resized)[None]), theirs)
    assert seen[0].shape == (1, 3, 64, 64)
    # A whole value is 2 / 256 after the lite family's normalisation; Pillow rounds after each direction.
    torch.testing.assert_close(seen[0], expected.contiguous(), rtol=0, atol=2.2 / 128)
    assert (seen[0] - expected).abs().mean() < 0.5 / 128


# ------------------------------------------------------------------------------------------------- where it is not


def test_it_is_no_part_of_the_module_its_average_its_optimizer_or_its_checkpoints(
    tiny_classifier: Classifier,
    teacher: Classifier,
    random_images: RandomImages,
    build_trainer: Callable[..., pl.Trainer],
    tmp_path: Path,
) -> None:
    before = copy.deepcopy(teacher.state_dict())
    distillation = Distillation(teacher, digest="123")
    module = TransferModule(tiny_classifier, distillation=distillation)
    plain = TransferModule(tiny_classifier)
    assert [name for name, _ in module.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert module.state_dict().keys() == plain.state_dict().keys()
    assert copy.deepcopy(module).distillation is distillation
    module.classifier.preprocessing = PREPROCESSING
    trainer = build_trainer(EMA(0.2), max_epochs=1)
    trainer.fit(module, random_images)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    mine = {id(parameter) for parameter in module.parameters()}
    assert {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]} == mine
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert not teacher.training and all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["callbacks"]["Distillation"] == {"teacher": "123"}
    assert not any("teacher" in name or "distillation" in name for name in content["state_dict"])
    assert "distillation" not in content["hyper_parameters"]
    names = {name.removeprefix("classifier.") for name in content["state_dict"] if name.startswith("classifier.")}
    assert names == set(tiny_classifier.state_dict())


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("bf16-true", torch.bfloat16)]
)
def test_it_computes_in_the_precision_of_the_step(
    tiny_classifier: Classifier,
    teacher: Classifier,
    random_images: RandomImages,
    build_trainer: Callable[..., pl.Trainer],
    precision: Any,
    dtype: torch.dtype,
) -> None:
    found: set[Any] = set()
    conv: Any = teacher.backbone.stem.conv  # type: ignore[union-attr]
    conv.register_forward_hook(lambda *called: found.add((called[2].dtype, torch.is_grad_enabled())))
    tiny_classifier.preprocessing = PREPROCESSING
    module = TransferModule(tiny_classifier, distillation=Distillation(teacher))
    build_trainer(max_epochs=1, precision=precision).fit(module, random_images)
    assert found == {(dtype, False)}
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_no_step_waits_for_the_device(tiny_classifier: Classifier, teacher: Classifier, tmp_path: Path) -> None:
    for repeats in (False, True):
        with pretend_gpu() as found:
            waits = WaitsPerStep(found)
            trainer = pl.Trainer(
                max_epochs=2,
                strategy=pl.strategies.SingleDeviceStrategy(device=DEVICE, accelerator=PretendGPU()),
                callbacks=[waits],
                logger=pl.loggers.CSVLogger(tmp_path),
                plugins=[NoFiles()],
                enable_checkpointing=False,
                num_sanity_val_steps=0,
                log_every_n_steps=100,
                use_distributed_sampler=False,
                enable_model_summary=False,
                enable_progress_bar=False,
            )
            distillation = Distillation(teacher, repeats=repeats)
            module = TransferModule(copy.deepcopy(tiny_classifier), warmup_epochs=0, distillation=distillation)
            trainer.fit(module, data())
            teacher.to_empty(device="cpu")
        assert len(waits.steps) == 4 and all(waits.was_on_device)
        assert [wait for step in waits.steps for wait in step if not any(file in wait for file in LIGHTNINGS_LOG)] == []


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_a_step_is_one_graph(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mobilenet-v2@d=0.1,w=0.1"
    distillation = Distillation(build_classifier("b0@d=0.1,w=0.1", 3))
    distillation.meet(None, PREPROCESSING)
    module = TransferModule(build_classifier(name, 3), mixup_alpha=alpha, distillation=distillation).train()
    monkeypatch.setattr(module, "log", lambda *_: None)  # Lightning's own, outside the graph
    BatchNormPolicy(module.bn).on_train_epoch_start(None, module)  # type: ignore[arg-type]
    torch._dynamo.reset()
    counter = CompileCounter()
    loss = torch.compile(module.batch_loss, backend=counter, fullgraph=True, dynamic=False)
    for _ in range(3):
        images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        loss(images, torch.tensor([0, 1, 2, 0]), draw_mix(images, alpha, 0.0))[0].backward()
    assert counter.frame_count == 1


# ------------------------------------------------------------------------------------------- how often it computes


class Checked(pl.Callback):
    """Counts the images that a teacher sees, and compares the answers in each step with those computed then."""

    def __init__(self, distillation: Distillation, stop_at: int | None = None, path: Path | None = None) -> None:
        self.distillation, self.stop_at, self.path = distillation, stop_at, path
        self.images, self.known, self.largest, self._counts = 0, 0, 0.0, True
        distillation.teacher.register_forward_pre_hook(self.count)

    def count(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.images += self._counts * len(inputs[0])

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        answers = self.distillation._answers
        if answers is not None:
            self._counts = False
            self.largest = max(self.largest, (answers - self.distillation.answer(batch[0])).abs().max().item())
            self._counts = True
            self.known += 1

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.stop_at:
            trainer.save_checkpoint(self.path)  # type: ignore[arg-type]
            raise InterruptedError


def fit(teacher: Classifier, stop_at: int | None, path: Path | None, **options: Any) -> tuple[TransferModule, Checked]:
    torch.manual_seed(0)
    resumed = None if stop_at else path
    student = network(PREPROCESSING)
    distillation = Distillation(copy.deepcopy(teacher), repeats=options.pop("repeats"))
    module = TransferModule(student, distillation=distillation)
    checked = Checked(distillation, stop_at, path)

    class Brought(TransferModule):
        """The distillation's hooks come before those of `Checked`."""

        def configure_callbacks(self) -> list[pl.Callback]:
            return [*super().configure_callbacks(), checked]

    module.__class__ = Brought
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_checkpointing=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, data(**options), ckpt_path=resumed, weights_only=True)
    return module, checked


def test_it_answers_each_image_once_where_epochs_show_the_same(teacher: Classifier) -> None:
    _, checked = fit(teacher, None, None, repeats=True)
    assert (checked.images, checked.known) == (10, 4)  # ten images; two steps of four in each of two epochs
    assert checked.largest < 1e-5


@pytest.mark.parametrize("augment", ["none", "basic"])
def test_it_answers_each_batch_elsewhere(teacher: Classifier, augment: str) -> None:
    _, checked = fit(teacher, None, None, repeats=False, augment=augment)
    assert (checked.images, checked.known) == (16, 0)


@pytest.mark.parametrize(("repeats", "augment"), [(True, "none"), (False, "basic")])
@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_resumed_it_is_the_uninterrupted_run_to_the_bit(
    teacher: Classifier, stop_at: int, repeats: bool, augment: str, tmp_path: Path
) -> None:
    options = {"repeats": repeats, "augment": augment}
    whole, _ = fit(teacher, None, None, **options)
    with pytest.raises(InterruptedError):
        fit(teacher, stop_at, tmp_path / "last.ckpt", **options)
    resumed, checked = fit(teacher, None, tmp_path / "last.ckpt", **options)
    assert checked.largest < 1e-5 and checked.known == (4 - stop_at if repeats else 0)
    assert same_weights(whole.state_dict(), resumed.state_dict())


def compute_ranks(folder: Path) -> None:
    torch.manual_seed(0)
    distillation = Distillation(network(), repeats=True)
    checked = Checked(distillation)
    module = TransferModule(network(PREPROCESSING), lr=1e-4, distillation=distillation)
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False, enable_checkpointing=False,
        callbacks=[], enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    configured = module.configure_callbacks
    module.configure_callbacks = lambda: [*configured(), checked]  # type: ignore[method-assign]
    trainer.fit(module, data(batch_size=2))
    found = {"images": checked.images, "known": checked.known, "largest": checked.largest}
    weight = module.classifier.head.fc.weight.sum().item()  # type: ignore[union-attr, operator]
    (folder / f"{torch.distributed.get_rank()}.json").write_text(json.dumps({**found, "weight": weight}))


@pytest.mark.slow
def test_ranks_divide_the_images_among_them(tmp_path: Path) -> None:
    run_ranks(compute_ranks, tmp_path)
    one, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (one["images"], other["images"]) == (5, 5)
    assert one["known"] == other["known"] == 4 and max(one["largest"], other["largest"]) < 1e-5
    assert one["weight"] == other["weight"]


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "c", "b"), "the order differs from class 1 on, 'b' of the teacher and 'c'"),
        (("a", "b", "d"), r"the teacher lacks 1 \('d'\); it alone has 1 \('c'\)"),
        (("a", "b"), r"classes are not the data's: it alone has 1 \('c'\)"),
        (("a", "b", "c", "d", "e"), r"the teacher lacks 2 \('d', 'e'\)$"),
    ],
)
def test_other_classes_are_refused_with_what_differs(teacher: Classifier, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Distillation(teacher).meet(names, PREPROCESSING)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "`weight`=0.0"),
        ({"weight": 1.5}, "`weight`=1.5"),
        ({"temperature": 0.0}, "`temperature`=0.0"),
    ],
)
def test_values_out_of_range_are_refused(teacher: Classifier, options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Distillation(teacher, **options)


def test_a_teacher_of_other_images_is_refused(
    teacher: Classifier, tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Callable[..., Any]
) -> None:
    with pytest.raises(UserError, match="nobody said how its images are prepared"):
        Distillation(tiny_classifier)
    deep = replace(PREPROCESSING, integer_range=(0.0, 4095.0))
    with pytest.raises(UserError, match=r"integer_range None, the data \(0.0, 4095.0\)"):
        Distillation(teacher).meet(None, deep)
    with pytest.raises(UserError, match="3 channels, the data have 1"):
        Distillation(teacher).meet(None, PREPROCESSING.grey())
    student = build_classifier("b0@d=0.3,w=0.25", 5)
    with pytest.raises(UserError, match="it has 3 classes, the student 5"):
        build_trainer(max_epochs=1).fit(TransferModule(student, distillation=Distillation(teacher)), random_images)
    module = TransferModule(tiny_classifier, distillation=Distillation(teacher))
    with pytest.raises(UserError, match="nobody said how the student's images are prepared"):
        build_trainer(max_epochs=1).fit(module, random_images)


# --------------------------------------------------------------------------------------------------- the command

NETWORK = ("--backbone", "b0@d=0.3,w=0.25", "--pretrained", "false", "--data.batch_size", "8")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos in three splits, a teacher, and a student of it."""
    folder = tmp_path_factory.mktemp("taught")
    for start, (split, count) in enumerate({"train": 12, "val": 3, "test": 4}.items()):
        save_classes(folder / "photos" / split, {f"c{i}": count for i in range(3)})
        for number, image in enumerate(sorted((folder / "photos" / split).rglob("*.png"))):
            save_photo(image, 10_000 * (start + 1) + number)
    run(folder, "teacher", "--image_size", "48", "--seed", "1")
    run(folder, "student", "--teacher", folder / "teacher", "--distill.weight", "0.7")
    return folder


def run(folder: Path, name: str, *words: str | Path) -> dict[str, Any]:
    own = ("--data_root", folder / "photos", "--out_dir", folder / name)
    assert call(finetune.main, *CHEAP, *NETWORK, *own, *words) == 0
    return read_results(folder / name)


@pytest.mark.slow
def test_results_name_the_teacher(taught: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, its = read_results(taught / "student"), read_results(taught / "teacher")
    times = {name: found["teacher"].pop(name) for name in ("milliseconds", "student_milliseconds")}
    assert all(0 < time < 1000 for time in times.values())
    assert re.match(r"\d+ threads? of ", found["teacher"].pop("device"))
    assert found["teacher"] == {
        "run_dir": str(taught / "teacher"),
        "backbone": "b0@d=0.3,w=0.25",
        "image_size": 48,
        "num_parameters": its["num_parameters"],
        "sha256": hashlib.sha256((taught / "teacher" / "best.ckpt").read_bytes()).hexdigest(),
        "metrics": its["metrics"],
        "fingerprint": {name: split["fingerprint"] for name, split in its["splits"].items()},
    }
    assert its["teacher"] is None and found["num_parameters"] == its["num_parameters"]
    facts = results_file.read_results(taught / "student").teacher
    assert facts is not None and facts.metrics["test"].top1 == its["metrics"]["test"]["top1"]
    run(taught, "again", "--teacher", taught / "teacher", "--distill.weight", "0.7")
    out = capsys.readouterr().out
    top1 = [f"{split} top1 {100 * its['metrics'][split]['top1']:.2f}%" for split in ("val", "test")]
    assert (
        f"teacher: b0@d=0.3,w=0.25 at 48 px from {taught / 'teacher'} ({its['num_parameters']:,} parameters,"
        f" {', '.join(top1)}), 0.7 of the loss at temperature 2" in out.splitlines()
    )
    assert same_weights(read_weights(taught / "student"), read_weights(taught / "again"))
    shutil.rmtree(taught / "again")


@pytest.mark.slow
def test_a_students_bundle_shows_both_networks(taught: Path, tmp_path: Path) -> None:
    results = read_results(taught / "student")
    assert call(export.main, taught / "student", "--out", tmp_path / "bundle", "--format", "torch") == 0
    teacher = read_record(tmp_path / "bundle" / MODEL).members[0].network.teacher
    assert teacher is not None and teacher.num_parameters == results["num_parameters"]
    assert (teacher.image_size, teacher.device) == (48, results["teacher"]["device"])
    assert teacher.metrics == results["teacher"]["metrics"]  # of the same images
    section = (tmp_path / "bundle" / "README.md").read_text().split("## Teacher")[1]
    header, _, own, its = re.findall(r"^\|.*", section, re.MULTILINE)[:4]
    assert header.split(" | ")[-2:] == ["val top1", "test top1 |"]
    mib = f"{4 * results['num_parameters'] / 2**20:.1f}"
    for row, size, metrics, time in (
        (own, 32, results["metrics"], results["teacher"]["student_milliseconds"]),
        (its, 48, results["teacher"]["metrics"], results["teacher"]["milliseconds"]),
    ):
        assert f"b0@d=0.3,w=0.25 at {size} px | {results['num_parameters']:,} | {mib} | {time:g} |" in row
        assert [f"{metrics[split]['top1']:.4f}" for split in ("val", "test")] == row.strip("| ").split(" | ")[-2:]
    assert call(export.main, tmp_path / "bundle", "--out", tmp_path / "again") == 0
    assert (tmp_path / "again" / MODEL).read_bytes() == (tmp_path / "bundle" / MODEL).read_bytes()


@pytest.mark.slow
def test_a_student_starts_as_without_a_teacher(taught: Path, tmp_path: Path) -> None:
    """The same head, order and crops: only the loss differs."""
    still = ("--optim.lr", "1e-30", "--optim.warmup_epochs", "0", "--data_root", taught / "photos")
    words = (*CHEAP, *NETWORK, *still)
    assert call(finetune.main, *words, "--out_dir", tmp_path / "alone") == 0
    assert call(finetune.main, *words, "--out_dir", tmp_path / "with", "--teacher", taught / "teacher") == 0
    alone, taught_one = (read_weights(tmp_path / name) for name in ("alone", "with"))
    assert all(torch.allclose(alone[name].double(), taught_one[name].double(), rtol=0, atol=1e-20) for name in alone)
    losses = [[row["train/loss"] for row in read_rows(tmp_path / name)] for name in ("alone", "with")]
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_a_resumed_run_refuses_another_teacher(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("teacher", "student"):
        shutil.copytree(taught / name, tmp_path / name)
    config = load_config(tmp_path / "student" / "config.yaml")
    save_config(replace(config, teacher=str(tmp_path / "teacher")), tmp_path / "student" / "config.yaml")
    longer = ("--resume", tmp_path / "student", "--trainer.max_epochs", "3")
    content = torch.load(tmp_path / "teacher" / "best.ckpt", weights_only=True)
    content["state_dict"]["classifier.head.fc.bias"] += 1.0
    torch.save(content, tmp_path / "teacher" / "best.ckpt")
    capsys.readouterr()
    assert call(finetune.main, *longer) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    sha256 = read_results(taught / "student")["teacher"]["sha256"]
    assert f"--teacher: its checkpoint is another than when the run began (sha256 {sha256}, now" in message
    shutil.copy(taught / "teacher" / "best.ckpt", tmp_path / "teacher" / "best.ckpt")
    assert call(finetune.main, *longer) == 0
    assert len(read_rows(tmp_path / "student")) == 3


@pytest.mark.slow
def test_a_teacher_that_saw_this_runs_test_images_is_said(taught: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for split, source in {"train": "val", "val": "test", "test": "train"}.items():
        shutil.copytree(taught / "photos" / source, photos / split)
    count = len(list((taught / "photos" / "train").rglob("*.png")))
    words = ("--data_root", photos, "--out_dir", tmp_path / "run", "--teacher", taught / "teacher")
    with pytest.warns(UserWarning, match=f"{count} of {count} test images were trained on before.* or its teacher"):
        assert call(finetune.main, *CHEAP, *NETWORK, *words) == 0
    assert read_results(tmp_path / "run")["seen_images"]["test"] == count


@pytest.mark.slow
def test_a_mistaken_teacher_is_one_line(taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*CHEAP, *NETWORK, "--data_root", taught / "photos", "--out_dir", tmp_path / "run", "--teacher")
    assert refused(capsys, *words, tmp_path / "none").startswith(f"--teacher {tmp_path / 'none'}: ")
    assert "it is the run's own folder" in refused(capsys, *words, tmp_path / "run")
    for name in ("unfinished", "cut", "kind"):
        shutil.copytree(taught / "teacher", tmp_path / name)
    (tmp_path / "unfinished" / "results.json").unlink()
    assert "is not a finished run" in refused(capsys, *words, tmp_path / "unfinished")
    whole = (tmp_path / "cut" / "best.ckpt").read_bytes()
    (tmp_path / "cut" / "best.ckpt").write_bytes(whole[: len(whole) // 2])
    assert "best.ckpt" in refused(capsys, *words, tmp_path / "cut")
    config = load_config(tmp_path / "kind" / "config.yaml")
    several = replace(config, data=replace(config.data, multilabel=True), loss=replace(config.loss, name="bce"))
    save_config(several, tmp_path / "kind" / "config.yaml")
    assert "trained with several labels per image: train both with the same --data.multilabel" in refused(
        capsys, *words, tmp_path / "kind"
    )
    save_config(replace(config, head="evil.Head"), tmp_path / "kind" / "config.yaml")
    message = refused(capsys, *words, tmp_path / "kind")
    assert "evil.Head" in message and "--allow_user_code" in message
    others = save_classes(tmp_path / "photos", {"cat": 12, "dog": 12})
    differ = (*CHEAP, *NETWORK, "--data_root", others, "--out_dir", tmp_path / "run", "--teacher", taught / "teacher")
    assert "the teacher lacks 2 ('cat', 'dog'); it alone has 3 ('c0', 'c1', 'c2')" in refused(capsys, *differ)
    alone = (*CHEAP, *NETWORK, "--data_root", others, "--distill.weight", "0.9")
    assert refused(capsys, *alone) == "--distill.weight 0.9 without --teacher: unused"
    assert not (tmp_path / "run").exists()
