"""How far a run's calibration holds on images that it was not fitted to: python -m benchmarks calibration --cifar10 DIR

Linear probes of clothing photos (3,068 + 341, at 224 px) and of 10,000 images of CIFAR-10 (JPEG) at 64 px, fitted to
train alone. The error before and after the temperature is cross-fitted on val. Everything else is fitted to one half of
val and measured on the other, over seeded halves. Strangers to the clothing network are images of CIFAR-10 and, harder,
classes of clothing that a probe was not fitted to.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.errors import UserError
from transfer.files import expanded

Floats = NDArray[np.floating[Any]]

_CIFAR_SIZES = {"train": 7_000, "val": 3_000}  # of the official train split, in its order
_NUM_STRANGERS = 500
_LEFT_OUT = (("hat", "shoes"), ("pants", "skirt"))
_COVERAGES = (0.9, 0.95)


@dataclass(frozen=True)
class Images:
    """Images of one split.

    Attributes:
        features: pooled, (N, F).
        labels: (N,).
    """

    features: Floats
    labels: NDArray[np.int64]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_calibration`."""
    folder = "folder with train/CLASS/ and validation/CLASS/; default: ../shared/data/clothing"
    parser.add_argument("--photos", type=expanded, default=Path("../shared/data/clothing"), metavar="DIR", help=folder)
    copy = "folder of uoft-cs/cifar10's parquet files; default: ../shared/data/uoft-cs/cifar10"
    parser.add_argument(
        "--cifar10", type=expanded, default=Path("../shared/data/uoft-cs/cifar10"), metavar="DIR", help=copy
    )
    parser.add_argument("--halves", type=int, default=20, metavar="N", help="draws of a half of val; default: 20")


def benchmark_calibration(photos: Path, cifar10: Path, halves: int) -> dict[str, Any]:
    """Return the figures of both datasets, and of the strangers.

    Args:
        photos: folder with `train` and `validation`, in folders of classes.
        cifar10: folder with the parquet files of CIFAR-10.
        halves: number of draws.

    Raises:
        UserError: there are no images, or a probe failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        write_cifar(cifar10, Path(scratch, "cifar10"))
        clothing, train, val = fit_probe(photos, 224, Path(scratch, "clothing"))
        small, _, small_val = fit_probe(Path(scratch, "cifar10"), 64, Path(scratch, "small"))
        strangers = read_strangers(Path(scratch, "cifar10"), clothing)
        figures: dict[str, Any] = {
            "clothing": measure(clothing, val, halves),
            "cifar10_jpeg": measure(small, small_val, halves),
        }
        classes = sorted(path.name for path in (photos / "train").iterdir() if path.is_dir())
        figures["strangers"] = {"cifar10": compare(train, val, strangers, halves)}
        for names in _LEFT_OUT:
            figures["strangers"][" and ".join(names)] = leave_out([classes.index(n) for n in names], train, val, halves)
    return {**figures, "halves": halves, "cifar10_images": _CIFAR_SIZES, "stranger_images": _NUM_STRANGERS}


def write_cifar(source: Path, target: Path) -> None:
    """Write images of CIFAR-10's train split into folders of splits and classes, and strangers of its test split.

    Raises:
        UserError: there is no such copy.
    """
    import pyarrow.parquet as pq

    for name, sizes in {"train": _CIFAR_SIZES, "test": {"strangers": _NUM_STRANGERS}}.items():
        files = sorted(source.rglob(f"{name}-*.parquet"))
        if not files:
            raise UserError(f"--cifar10 {source}: no {name}-*.parquet")
        rows = pq.read_table(files[0]).slice(0, sum(sizes.values())).to_pylist()
        start = 0
        for split, size in sizes.items():
            for number, row in enumerate(rows[start : start + size]):
                folder = target.with_name("strangers") if split == "strangers" else target / split / str(row["label"])
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{number}.jpg").write_bytes(row["img"]["bytes"])
            start += size


def fit_probe(root: Path, image_size: int, scratch: Path) -> tuple[Path, Images, Images]:
    """Return the folder of a linear probe of `lite0`, and the features of train and val.

    Raises:
        UserError: it failed.
    """
    from transfer.commands import probe
    from transfer.probe.features import read_features

    run = scratch / "run"
    words = ["--dataset", "folder", "--data_root", str(root), "--backbone", "lite0", "--image_size", str(image_size)]
    words += ["--engine", "torch", "--data.cache_dir", str(scratch / "cache"), "--out_dir", str(run)]
    if probe.main(words):
        raise UserError(f"the probe of {root} failed")
    splits = json.loads((run / "results.json").read_text())["splits"]
    found = [read_features(Path(splits[name]["features"])) for name in ("train", "val")]
    train, val = (Images(part.features.float().numpy().copy(), part.labels.numpy().copy()) for part in found)
    return run, train, val


def read_strangers(cifar: Path, run_dir: Path) -> Floats:
    """Return the features that a run's network has of the images that lie beside CIFAR-10's folder."""
    import torch

    from datamodules.images.transforms import build_eval_transform, normalize
    from datamodules.loading.predicting import build_predict_loader
    from transfer.runs.predictor import load_run

    run = load_run(run_dir)
    paths = sorted((cifar.with_name("strangers")).iterdir())
    loader = build_predict_loader(paths, build_eval_transform(run.preprocessing), 50, 1, run.decoding)
    with torch.inference_mode():
        parts = [
            run.classifier.forward_with_features(normalize(images, run.preprocessing))[1] for images, _, _ in loader
        ]
    return torch.cat(parts).numpy()


def measure(run_dir: Path, val: Images, halves: int) -> dict[str, Any]:
    """Return what temperature, sets and coverage are on images that they were not fitted to."""
    from transfer.calibration.calibration import fit_calibration
    from transfer.calibration.file import load_calibration
    from transfer.calibration.rejection import ranks, risk_coverage
    from transfer.calibration.temperature import as_probabilities, expected_calibration_error
    from transfer.run_files import CALIBRATION

    found = load_calibration(run_dir / CALIBRATION)
    drawn: dict[str, list[float]] = {}
    for fitted, held in draw_halves(len(val.labels), halves):
        half = fit_calibration(found.logits[fitted], val.labels[fitted], val.features[fitted])
        logits, labels = found.logits[held], val.labels[held]
        raw, calibrated = as_probabilities(logits, False), half.probabilities(logits)
        wrong, distance = logits.argmax(1) != labels, half.distance(val.features[held])
        one = {
            "ece_raw": expected_calibration_error(raw, labels),
            "ece_calibrated": expected_calibration_error(calibrated, labels),
        }
        rank = half.rank(logits, val.features[held])
        scores = {"probability": calibrated.max(1), "distance": -distance, "combined": rank}
        scores["lower_rank"] = np.minimum(ranks(calibrated.max(1), calibrated.max(1)), ranks(-distance, -distance))
        one |= {f"aurc_{name}": float(risk_coverage(score, wrong)[1].mean()) for name, score in scores.items()}
        for coverage in _COVERAGES:
            sets = half.sets(logits, coverage)
            one[f"sets_{coverage}_hold"] = float(np.mean([t in chosen for t, chosen in zip(labels, sets, strict=True)]))
            one[f"sets_{coverage}_size"] = float(np.mean([len(chosen) for chosen in sets]))
            accepted = rank >= half.acceptance(coverage=coverage).threshold
            one[f"coverage_{coverage}_answered"] = float(accepted.mean())
            one[f"coverage_{coverage}_wrong"] = float(wrong[accepted].mean())
        for name, value in one.items():
            drawn.setdefault(name, []).append(value)
    on_val = {str(share): found.measure_sets(share) for share in _COVERAGES}
    whole = {
        **asdict(found.fit),
        "val_images": len(val.labels),
        "top1": 1 - float(found.risk_coverage()[1][-1]),
        "sets": {share: asdict(facts) for share, facts in on_val.items() if facts is not None},
    }
    return {**whole, "halves": {name: round(float(np.mean(values)), 4) for name, values in drawn.items()}}


def draw_halves(count: int, halves: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return seeded halves of a range."""
    orders = [np.random.default_rng(seed).permutation(count) for seed in range(halves)]
    return [(order[: count // 2], order[count // 2 :]) for order in orders]


def leave_out(classes: Sequence[int], train: Images, val: Images, halves: int) -> dict[str, Any]:
    """Return how well images of classes are told apart that a probe has not seen."""
    known = [
        Images(part.features[rows], part.labels[rows])
        for part in (train, val)
        for rows in [~np.isin(part.labels, classes)]
    ]
    strangers = val.features[np.isin(val.labels, classes)]
    return compare(known[0], known[1], strangers, halves)


def compare(train: Images, val: Images, strangers: Floats, halves: int) -> dict[str, Any]:
    """Return AUROC and FPR at 95% TPR of each score, the strangers against the halves of val that were not fitted to.

    TPR is the share of val that is answered, FPR that of the strangers. The probe is fitted to train with penalty 10.
    """
    import torch

    from transfer.calibration.calibration import NEIGHBOUR, fit_calibration
    from transfer.calibration.neighbours import neighbour_distances, on_sphere
    from transfer.probe.logistic import LogisticRegression

    names, labels = np.unique(train.labels, return_inverse=True)
    problem = LogisticRegression(torch.from_numpy(train.features), torch.from_numpy(labels), len(names))
    fit = next(problem.path([10.0]))
    logits, strange_logits = (fit.logits(torch.from_numpy(part)).numpy() for part in (val.features, strangers))
    some = np.random.default_rng(0).permutation(len(train.labels))[:2000]
    of_train = on_sphere(train.features[some])
    whitened = [_mahalanobis(train, labels, part) for part in (val.features, strangers)]
    drawn: dict[str, list[tuple[float, float]]] = {}
    for fitted, held in draw_halves(len(val.labels), halves):
        half_labels = np.searchsorted(names, val.labels[fitted])
        half = fit_calibration(logits[fitted], half_labels, val.features[fitted])
        known, own = val.features[held], Images(val.features[fitted], half_labels)
        of_both = {
            "probability": (half.probabilities(logits[held]).max(1), half.probabilities(strange_logits).max(1)),
            "distance": (-half.distance(known), -half.distance(strangers)),
            "combined": (half.rank(logits[held], known), half.rank(strange_logits, strangers)),
            "distance_to_2000_of_train": tuple(
                -neighbour_distances(part, of_train, NEIGHBOUR) for part in (known, strangers)
            ),
            "mahalanobis_of_val": tuple(-_mahalanobis(own, half_labels, part) for part in (known, strangers)),
            "mahalanobis_of_train": (-whitened[0][held], -whitened[1]),
        }
        for name, (inside, outside) in of_both.items():
            drawn.setdefault(name, []).append(_separation(inside, outside))
    figures: dict[str, Any] = {"known_images": len(val.labels) // 2, "strangers": len(strangers)}
    for name, pairs in drawn.items():
        auroc, fpr = np.mean(pairs, axis=0)
        figures[name] = {"auroc": round(float(auroc), 4), "fpr_at_95_tpr": round(float(fpr), 4)}
    return figures


def _separation(inside: Floats, outside: Floats) -> tuple[float, float]:
    """Return AUROC, and the share of strangers above the threshold that 95% of the known images reach."""
    from sklearn.metrics import roc_auc_score

    is_known = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    threshold = np.sort(inside)[len(inside) - int(np.ceil(0.95 * len(inside)))]
    return float(roc_auc_score(is_known, np.r_[inside, outside])), float((outside >= threshold).mean())


def _mahalanobis(images: Images, labels: NDArray[np.int64], features: Floats) -> Floats:
    """Return the distance to the nearest class of images, on the unit sphere, with a shrunk common covariance.

    Lee et al. 2018 (arXiv 1807.03888); Ledoit & Wolf's shrinkage, as there are fewer images than features.
    """
    from sklearn.covariance import ledoit_wolf

    from transfer.calibration.neighbours import on_sphere

    unit, asked = on_sphere(images.features), on_sphere(features)
    present, places = np.unique(labels, return_inverse=True)
    means = np.stack([unit[labels == label].mean(0) for label in present])
    whitening = np.linalg.cholesky(np.linalg.inv(ledoit_wolf(unit - means[places])[0]))
    return np.min([(((asked - mean) @ whitening) ** 2).sum(1) for mean in means], axis=0)
