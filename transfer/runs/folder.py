"""A run's folder: where it lies, what is in it, and how a finished run comes back to life without any download."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transfer.config.command_line import load_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import UserError
from transfer.files import write_json
from transfer.lightning import pl
from transfer.networks.classifier import Classifier
from transfer.preprocessing import Preprocessing
from transfer.training.checkpointing import BEST as BEST
from transfer.training.checkpointing import LAST as LAST
from transfer.training.checkpointing import AtomicCheckpointIO
from transfer.weights.build import build_classifier
from transfer.weights.files import read_checkpoint, read_state_dict, strict_load

CONFIG, METRICS, RESULTS = "config.yaml", "metrics.csv", "results.json"
HELD_OUT, TEST_READS, PREDICTIONS = "held_out.json", "test_reads.json", "test_predictions.npz"
RUN_DIR_VARIABLE = "TRANSFER_RUN_DIR"


def choose_run_dir(config: FinetuneConfig, kind: str = "") -> Path:
    """Where a new run will lie, not made yet: `out_dir`, or the next number under runs/<dataset>_<backbone><kind>/.

    All processes of a run get the same folder. Processes that Lightning starts inherit it; processes that a scheduler
    starts agree on the scheduler's job id; the runs of a W&B sweep are named by their ids.

    Raises:
        UserError: `out_dir` holds another run, or independent processes could not agree.
    """
    if not is_main_process() and RUN_DIR_VARIABLE in os.environ:
        return Path(os.environ[RUN_DIR_VARIABLE])
    if config.out_dir is not None:
        run_dir = Path(config.out_dir)
        # These alone are of a run that never took a step.
        content = {p.name for p in run_dir.iterdir()} - {CONFIG, HELD_OUT} if run_dir.is_dir() else set()
        if run_dir.is_file() or (content and is_main_process()):
            raise UserError(
                f"--out_dir {run_dir} is not empty; it may hold another run: choose a new folder,"
                f" or go on with that run: --resume {run_dir}"
            )
    else:
        parent = Path("runs") / f"{config.dataset}_{config.backbone}{kind}"
        # A sweep's agent starts many runs in one job, and agents beside each other would take the same number.
        agent = os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None
        job = agent or os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID", "none")
        if job != "none":
            run_dir = parent / job
        elif "WORLD_SIZE" in os.environ or "RANK" in os.environ:
            raise UserError("processes started by hand cannot agree on a run's number: pass --out_dir")
        else:
            taken = [int(p.name) for p in parent.glob("*") if p.name.isdigit()] if parent.is_dir() else []
            run_dir = parent / str(max(taken, default=0) + 1)
    os.environ[RUN_DIR_VARIABLE] = str(run_dir.resolve())
    return run_dir


def is_main_process() -> bool:
    """Whether this process is the first of the run, known before any process group exists."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"))


@dataclass(frozen=True)
class Run:
    """A trained classifier with all that is needed to use it.

    Attributes:
        config: of the run.
        classifier: with the checkpoint's tensors, in eval mode, on CPU, channels_last.
        class_names: in the order of the logits.
        preprocessing: of the images, as in the run's evaluation.
        data: what the datamodule wrote into the checkpoint (fingerprints among it).
    """

    config: FinetuneConfig
    classifier: Classifier
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    data: dict[str, Any]


def load_run(run_dir: str | Path, checkpoint: str = BEST) -> Run:
    """Rebuilds a run from its folder; reads nothing else and downloads nothing.

    Args:
        checkpoint: `best.ckpt` or `last.ckpt`.

    Raises:
        UserError: not a run, or its checkpoint is missing or damaged.
    """
    run_dir = Path(run_dir)
    config = load_config(run_dir / CONFIG)
    path = run_dir / checkpoint
    if not path.is_file():
        raise UserError(f"{run_dir} has no {checkpoint}: the run stopped before its first validation; --resume it")
    data = datamodule_state(read_checkpoint(path), path)
    classifier = build_classifier(
        config.backbone,
        len(data["class_names"]),
        load_weights=False,
        **config.network_options(),
    )
    strict_load(classifier, read_classifier_state(path), source=str(path))
    classifier = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types
    values = {field.name: data[field.name] for field in fields(Preprocessing)}
    preprocessing = Preprocessing(**{**values, "mean": tuple(data["mean"]), "std": tuple(data["std"])})
    return Run(config, classifier.eval(), tuple(data["class_names"]), preprocessing, data)


def save_classifier(path: Path, classifier: Classifier, data: Mapping[str, Any]) -> None:
    """Writes a checkpoint that `load_run` reads, of a classifier that no Trainer has trained; whole or not at all.

    Args:
        data: the datamodule's `state_dict()`.
    """
    state = {f"classifier.{name}": tensor for name, tensor in classifier.state_dict().items()}
    AtomicCheckpointIO().save_checkpoint({"state_dict": state, "data": dict(data)}, path)


def load_head(classifier: Classifier, config: FinetuneConfig, class_names: Sequence[str]) -> None:
    """Gives a fresh classifier the head of the run in `config.init_head`.

    Raises:
        UserError: not a run, or its head belongs to another backbone, other weights, classes or kind of head.
    """
    assert config.init_head is not None
    run = load_run(config.init_head)
    differences = [
        f"{what} {theirs}, here {ours}"
        for what, theirs, ours in (
            ("--backbone", run.classifier.backbone.variant.name, classifier.backbone.variant.name),
            ("num_features", run.classifier.backbone.num_features, classifier.backbone.num_features),
            ("--head", run.config.head, config.head),
            ("classes", ", ".join(run.class_names), ", ".join(class_names)),
        )
        if theirs != ours
    ]
    if differences:
        raise UserError("\n  ".join([f"--init_head {config.init_head}: its head fits another network:", *differences]))
    strict_load(classifier.head, run.classifier.head.state_dict(), source=config.init_head)
    if config.bn != "frozen":
        pl.utilities.rank_zero_warn(
            f"--init_head with --bn {config.bn}: a probe's head is fitted to features with the checkpoint's BatchNorm"
            " statistics, and training computes them with its batches'. On images unlike the checkpoint's it starts"
            " wrong and has to learn anew. --bn frozen starts where the probe ended; it needs a lower --optim.lr."
        )


def last_results(parent: Path) -> Path | None:
    """The results of the finished run with the highest number in a folder of numbered runs."""
    found = [path for path in parent.glob(f"*/{RESULTS}") if path.parent.name.isdigit()]
    return max(found, key=lambda path: int(path.parent.name), default=None)


def read_classifier_state(path: Path) -> dict[str, Tensor]:
    """The classifier's tensors in a run's checkpoint: with EMA, the averaged ones.

    Raises:
        UserError: the file is missing or damaged.
    """
    prefix = "classifier."  # of the module that was trained, beside its metrics
    state = read_state_dict(path)
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def datamodule_state(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """What the datamodule saved in a checkpoint; Lightning files it under the name of the datamodule's class.

    Raises:
        UserError: there is none.
    """
    for value in content.values():
        if isinstance(value, dict) and "class_names" in value:
            return value
    raise UserError(f"{path}: not a checkpoint of efficientnet-transfer finetune (it names no classes)")


def count_test_read(run_dir: Path) -> int:
    """Notes in the run's folder that its test split is about to be read, and gives how often it then was.

    Before the reading, so that one which is broken off counts too.
    """
    reads = num_test_reads(run_dir) + 1
    write_json(run_dir / TEST_READS, {"reads": reads})
    return reads


def num_test_reads(run_dir: Path) -> int:
    """How often a run's test split was read.

    Raises:
        UserError: the counter is damaged.
    """
    path = run_dir / TEST_READS
    if not path.exists():
        return 0
    try:
        return int(json.loads(path.read_text())["reads"])
    except (ValueError, TypeError, KeyError):
        raise UserError(f'{path}: damaged (expected: {{"reads": n}}); nobody knows how often test was read') from None


def save_predictions(run_dir: Path, predictions: Tensor) -> None:
    """Writes `test_predictions.npz` whole or not at all: int64 arrays `label` and `prediction`, each (N,).

    Args:
        predictions: label and predicted class of each test image, in the split's order. Shape: (N, 2)
    """
    label, prediction = predictions.numpy().astype(np.int64).T
    temporary = run_dir / f"{PREDICTIONS}.tmp"
    with open(temporary, "wb") as file:
        np.savez(file, label=label, prediction=prediction)
    temporary.replace(run_dir / PREDICTIONS)


def read_predictions(run_dir: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and predicted classes of a run's test images, in the split's order. Shapes: (N,)

    Raises:
        UserError: missing or damaged.
    """
    path = run_dir / PREDICTIONS
    if not path.exists():
        raise UserError(
            f"{run_dir} has no {PREDICTIONS}: it read no or only a part of a test split, has several labels per image,"
            " or is older than that file"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            label, prediction = arrays["label"], arrays["prediction"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path}: damaged (expected: arrays 'label' and 'prediction')") from None
    if label.ndim != 1 or label.shape != prediction.shape or not label.size:
        raise UserError(f"{path}: damaged (arrays of shapes {label.shape} and {prediction.shape})")
    return label.astype(np.int64), prediction.astype(np.int64)


def check_disk_space(run_dir: Path, num_parameters: int) -> None:
    """Stops a run before it starts when its checkpoints cannot fit.

    Two checkpoints of weights, average and two moments, and a third while one is being replaced: 48 bytes a parameter.

    Raises:
        UserError: too little space.
    """
    needed = 48 * num_parameters
    free = shutil.disk_usage(run_dir).free
    if free < needed:
        raise UserError(
            f"{run_dir}: {free / 2**20:.0f} MiB free, about {needed / 2**20:.0f} MiB are needed for checkpoints:"
            " free some space or choose another --out_dir"
        )
