"""A linear probe's fits against scikit-learn's lbfgs: python -m benchmarks probe PROBE_RUN_DIR

Both fit the same penalties to the same cached features, from strong to weak, each fit starting from the previous one.
Both losses are recomputed from the weights in float64. If scikit-learn uses all allowed iterations, it has not
converged, and the ratio is a lower bound.
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
from transfer.files import expanded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from transfer.probe.features import Features


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_probe`."""
    parser.add_argument(
        "run_dir", type=expanded, metavar="PROBE_RUN_DIR", help="folder of a linear probe that still has its features"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="compare on every Nth of the 45 penalties")
    parser.add_argument("--images", type=int, metavar="N", help="compare on the first N training images; default: all")
    parser.add_argument("--tol", type=float, default=1e-4, help="scikit-learn's tolerance; default: its own, 1e-4")
    parser.add_argument(
        "--max_iter", type=int, default=20_000, help="scikit-learn's largest number of iterations; default: 20000"
    )


@dataclass(frozen=True)
class Timed:
    """Timed fits of all penalties.

    Attributes:
        fits: weights (C, F) and biases (C,) for each penalty.
        passes: passes over the features (iterations) for each penalty.
        seconds: wall-clock time of all fits.
        processor_seconds: processor time of all fits, over all threads.
    """

    fits: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
    passes: list[int]
    seconds: float
    processor_seconds: float


def benchmark_probe(
    run_dir: Path, every: int = 1, images: int | None = None, tol: float = 1e-4, max_iter: int = 20_000
) -> dict[str, Any]:
    """Return the time of a whole probe, then of our and scikit-learn's fits on the compared images and penalties.

    Args:
        run_dir: folder of a finished probe.
        every: step between compared penalties.
        images: number of compared training images; None for all.
        tol: scikit-learn's tolerance.
        max_iter: scikit-learn's largest number of iterations per penalty.

    Raises:
        UserError: the features are missing or have fewer than three classes.
    """
    import torch

    from transfer.probe.features import Features, read_features
    from transfer.probe.linear import fit_probe
    from transfer.probe.penalties import PENALTIES

    try:
        results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
        files = {name: Path(split["features"]) for name, split in results["splits"].items()}
    except (OSError, ValueError, KeyError):
        raise UserError(f"{run_dir}: not a finished run of `efficientnet-transfer probe`") from None
    width = results["num_features"]
    train, val, test = (read_features(files[name]).leading(width) for name in ("train", "val", "test"))
    num_classes = len(results["splits"]["train"]["class_counts"])
    if num_classes < 3:
        raise UserError(f"{run_dir}: {num_classes} classes (allowed: at least 3, as both then have weights per class)")
    figures: dict[str, Any] = {
        "dataset": results["dataset"],
        "backbone": results["backbone"],
        "image_size": results["image_size"],
        "metrics": results["metrics"],
        "features": list(train.features.shape),
        "threads": torch.get_num_threads(),
    }

    whole, seconds, processor_seconds = timed(lambda: fit_probe([train], val, num_classes, results["quoted_metric"]))
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
    """Return the function's result, the seconds it took, and the processor seconds of all its threads."""
    started, processor = time.perf_counter(), time.process_time()
    result = function()
    return result, round(time.perf_counter() - started, 2), round(time.process_time() - processor, 2)


def fit_ours(features: Features, num_classes: int, penalties: Sequence[float]) -> Timed:
    """Return the timed fits of `transfer.probe.logistic`, including its preparation."""
    from transfer.probe.logistic import LogisticRegression

    path, *seconds = timed(
        lambda: list(LogisticRegression(features.features, features.labels, num_classes).path(penalties))
    )
    return Timed([(fit.weight.numpy(), fit.bias.numpy()) for fit in path], [fit.passes for fit in path], *seconds)


def fit_sklearn(features: Features, penalties: Sequence[float], tol: float, max_iter: int) -> Timed:
    """Return the timed fits of scikit-learn's LogisticRegression(solver="lbfgs", warm_start=True), in float32."""
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
    """Return the predicted classes, (N,)."""
    return (features.features.double().numpy() @ weight.T + bias).argmax(1)


def loss(features: Features, weight: NDArray[np.float64], bias: NDArray[np.float64], penalty: float) -> float:
    """Return the loss that both minimise: summed cross-entropy in nats, plus penalty / 2 times the squared weights."""
    import numpy as np
    from scipy.special import log_softmax

    logits = features.features.double().numpy() @ weight.T + bias
    chosen = log_softmax(logits, axis=1)[np.arange(len(logits)), features.labels.numpy()]
    return float(penalty / 2 * (weight**2).sum() - chosen.sum())
