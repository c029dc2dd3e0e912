"""A linear probe's fits against scikit-learn's lbfgs: python -m benchmarks probe PROBE_RUN_DIR

Both fit the same penalties to the same cached features, strong to weak, each started from the one before. The losses
are computed anew from the weights, in float64 for both. Where scikit-learn takes all iterations that it may, it has not
arrived, and the ratio is a lower bound.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from transfer.probe.features import Features


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `benchmark_probe` takes."""
    parser.add_argument(
        "run_dir", type=Path, metavar="PROBE_RUN_DIR", help="run of scripts/probe.py, with its features"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="compare on every Nth of the 45 penalties")
    parser.add_argument("--images", type=int, metavar="N", help="compare on the first N training images; default: all")
    parser.add_argument("--tol", type=float, default=1e-4, help="scikit-learn's; default: its own, 1e-4")
    parser.add_argument("--max_iter", type=int, default=20_000, help="scikit-learn's, per penalty; default: 20000")


@dataclass(frozen=True)
class Timed:
    """Weights (C, F), biases (C,) and passes over the features (iterations) per penalty; the time of all."""

    fits: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
    passes: list[int]
    seconds: float
    processor_seconds: float


def benchmark_probe(
    run_dir: Path, every: int = 1, images: int | None = None, tol: float = 1e-4, max_iter: int = 20_000
) -> dict[str, Any]:
    """Seconds of a whole probe, then of ours and scikit-learn's path on the compared images and penalties.

    Raises:
        UserError: no features, or of two classes only.
    """
    import torch

    from transfer.probe.features import Features, read_features
    from transfer.probe.penalties import PENALTIES, fit_probe

    try:
        results = json.loads((run_dir / "results.json").read_text())
        files = {name: Path(split["features"]) for name, split in results["splits"].items()}
    except (OSError, ValueError, KeyError):
        raise UserError(f"{run_dir}: not a finished run of `efficientnet-transfer probe`") from None
    train, val, test = (read_features(files[name]) for name in ("train", "val", "test"))
    num_classes = len(results["splits"]["train"]["class_counts"])
    if num_classes < 3:
        raise UserError(f"{run_dir}: {num_classes} classes; from three on both have a row of weights per class")
    figures: dict[str, Any] = {
        "dataset": results["dataset"],
        "backbone": results["backbone"],
        "image_size": results["image_size"],
        "metrics": results["metrics"],
        "features": list(train.features.shape),
        "threads": torch.get_num_threads(),
    }

    whole, seconds, processor_seconds = timed(lambda: fit_probe(train, val, num_classes, results["quoted_metric"]))
    figures["probe"] = {
        "penalties": len(PENALTIES),
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "passes": whole.passes,
        "penalty": whole.penalty,
    }

    compared = Features(train.features[:images], train.labels[:images])
    return figures | compare_fits(compared, test, num_classes, PENALTIES[::every], tol, max_iter)


def compare_fits(
    compared: Features, test: Features, num_classes: int, penalties: Sequence[float], tol: float, max_iter: int
) -> dict[str, Any]:
    """Return seconds, losses and test predictions of our fits and of scikit-learn's on the same features."""
    figures: dict[str, Any] = {}
    ours = fit_ours(compared, num_classes, penalties)
    theirs = fit_sklearn(compared, penalties, tol, max_iter)
    figures["compared"] = {"images": len(compared.labels), "penalties": list(penalties)}
    figures["compared"] |= {"sklearn_tol": tol, "sklearn_max_iter": max_iter}
    for name, contender in (("ours", ours), ("sklearn", theirs)):
        figures[name] = {
            "seconds": contender.seconds,
            "processor_seconds": contender.processor_seconds,
            "passes": contender.passes,
            "losses": [loss(compared, *fit, penalty) for fit, penalty in zip(contender.fits, penalties, strict=True)],
        }
    pairs = list(zip(figures["ours"]["losses"], figures["sklearn"]["losses"], strict=True))
    figures["ours_loss_over_sklearn"] = [own / other - 1 for own, other in pairs]
    figures["equal_test_predictions"] = [
        float((predicted(test, *own) == predicted(test, *other)).mean())
        for own, other in zip(ours.fits, theirs.fits, strict=True)
    ]
    figures["times_faster"] = round(theirs.seconds / ours.seconds, 2)
    figures["times_less_processor_time"] = round(theirs.processor_seconds / ours.processor_seconds, 2)
    return figures


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """What the function gives, the seconds it took and the processor seconds of all its threads."""
    started, processor = time.perf_counter(), time.process_time()
    result = function()
    return result, round(time.perf_counter() - started, 2), round(time.process_time() - processor, 2)


def fit_ours(features: Features, num_classes: int, penalties: Sequence[float]) -> Timed:
    """The path of `transfer.probe.logistic`, its preparation counted."""
    from transfer.probe.logistic import LogisticRegression

    path, *seconds = timed(
        lambda: list(LogisticRegression(features.features, features.labels, num_classes).path(penalties))
    )
    return Timed([(fit.weight.numpy(), fit.bias.numpy()) for fit in path], [fit.passes for fit in path], *seconds)


def fit_sklearn(features: Features, penalties: Sequence[float], tol: float, max_iter: int) -> Timed:
    """The path of scikit-learn's LogisticRegression(solver="lbfgs", warm_start=True) on float32 features."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, y = features.features.float().numpy(), features.labels.numpy()
    model = LogisticRegression(solver="lbfgs", warm_start=True, tol=tol, max_iter=max_iter)
    fits, iterations = [], []

    def run() -> None:
        for penalty in penalties:
            model.set_params(C=1 / penalty).fit(x, y)
            fits.append((model.coef_.astype("float64"), model.intercept_.astype("float64")))
            iterations.append(int(model.n_iter_[0]))
            print(f"scikit-learn: penalty {penalty:.3g}, {iterations[-1]} iterations", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        _, *seconds = timed(run)
    return Timed(fits, iterations, *seconds)


def predicted(features: Features, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> NDArray[np.int64]:
    """The predicted classes. Shape: (N,)"""
    return (features.features.double().numpy() @ weight.T + bias).argmax(1)


def loss(features: Features, weight: NDArray[np.float64], bias: NDArray[np.float64], penalty: float) -> float:
    """What both minimise: the summed cross entropy in nats, plus half the penalty times the squared weights."""
    import numpy as np
    from scipy.special import log_softmax

    logits = features.features.double().numpy() @ weight.T + bias
    chosen = log_softmax(logits, axis=1)[np.arange(len(logits)), features.labels.numpy()]
    return float(penalty / 2 * (weight**2).sum() - chosen.sum())
