"""The learning curve of the network that a choice takes: what more photos would bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from transfer.errors import printable
from transfer.probe.learning_curve import Extrapolation, Measured, extrapolate, measure_curve
from transfer.records import Interval

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from datamodules.dataset.loaded import Dataset
    from transfer.commands.choose.candidates import Tried
    from transfer.commands.choose.images import Images
    from transfer.config.choose_schema import ChooseConfig

PICTURE = "learning_curve.png"
FACTORS = {2: "twice", 4: "four times"}  # of the photos


@dataclass(frozen=True)
class Point:
    """The accuracy, in [0, 1], of heads fitted to so many images, and its 95% interval over draws and images."""

    images: float
    accuracy: float
    interval: Interval


@dataclass(frozen=True)
class Forecast:
    """What `factor` times the photos would bring.

    Attributes:
        factor: of the photos there are.
        accuracy: extrapolated, in [0, 1], with its 95% interval.
        gain: over the photos there are, with its 95% interval.
    """

    factor: int
    accuracy: float
    accuracy_interval: Interval
    gain: float
    gain_interval: Interval


@dataclass(frozen=True)
class ClassGain:
    """A class, and what the share of its images that are predicted right gained from half of the photos to all."""

    class_name: str
    images: int
    gain: float
    interval: Interval


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy by the number of photos.

    Attributes:
        head: of the fits, `logistic` or `ridge`.
        draws: of the photos of each size.
        points: rising.
        forecasts: beyond the photos there are; none if they cannot be told.
        refusal: why they cannot be told.
        most_gained: the class that gained most from half of the photos to all; None if none did beyond its interval.
    """

    head: str
    draws: int
    points: list[Point]
    forecasts: list[Forecast]
    refusal: str | None
    most_gained: ClassGain | None

    def __str__(self) -> str:
        if self.refusal is not None:
            text = f"what more photos would bring cannot be told: {self.refusal}"
        else:
            gains = [
                f"{FACTORS[one.factor]} the photos: {_points(one.gain, one.gain_interval)}" for one in self.forecasts
            ]
            text = "; ".join(gains)
        if self.most_gained is None:
            return text
        best, name = self.most_gained, printable(self.most_gained.class_name)
        gain = _points(best.gain, best.interval)
        return f"{text}\nfrom half of the photos to all, {name} ({best.images:,} photos) gained most: {gain}"


def _points(gain: float, interval: Interval) -> str:
    return f"{100 * gain:+z.1f} points ({100 * interval.low:+z.1f} to {100 * interval.high:+z.1f})"


def learn(
    tried: Tried, own: ChooseConfig, seed: int, dataset: Dataset, images: Images, fabric: Fabric, folder: Path
) -> LearningCurve | None:
    """Measure, print and draw the learning curve of a network's linear head, if it was asked for."""
    from transfer.commands.choose.candidates import features_of
    from transfer.commands.choose.curve_figure import draw_curve

    if not own.learning_curve:
        return None
    features, _, _ = features_of(tried.candidate, replace(own, engine=tried.engine), dataset, images, fabric)
    device = fabric.device if fabric.device.type == "cuda" else "cpu"  # MPS has no float64
    choice, metric = tried.found.choice, dataset.metric
    seen = features.leading(choice.num_features)
    measured = measure_curve(seen, dataset.num_classes, choice, images.num_folds, metric, images.groups, seed, device)
    found = extrapolate(measured)
    curve = summarise(measured, found, choice.head, dataset.class_names)
    print(curve)
    title = f"{tried.candidate}, linear probe: accuracy by the photos it learns from"
    unit = "mean per class (%)" if metric == "mean_per_class" else "accuracy (%)"
    draw_curve(curve.points, found, len(images.labels), dataset.num_classes, (title, unit), folder / PICTURE)
    return curve


def summarise(measured: Measured, found: Extrapolation | str, head: str, class_names: Sequence[str]) -> LearningCurve:
    """Return the figures of a measured curve and of its extrapolation, or the reason why there is none."""
    of_classes, resampled = measured.of_classes, measured.resampled
    accuracies = measured.accuracy(of_classes).mean(0)
    bounds = np.quantile(measured.accuracy(resampled), [0.025, 0.975], axis=0)
    points = [
        Point(float(size), float(accuracy), Interval(float(low), float(high)))
        for size, accuracy, low, high in zip(measured.sizes, accuracies, *bounds, strict=True)
    ]
    forecasts: list[Forecast] = []
    if not isinstance(found, str):
        now = len(measured.labels)
        forecasts = [
            Forecast(factor, *found.accuracy(factor * now), *found.gain(now, factor * now)) for factor in FACTORS
        ]
    return LearningCurve(
        head=head,
        draws=len(measured.right),
        points=points,
        forecasts=forecasts,
        refusal=found if isinstance(found, str) else None,
        most_gained=_most_gained(measured, class_names),
    )


def _most_gained(measured: Measured, class_names: Sequence[str]) -> ClassGain | None:
    half = int(np.abs(measured.sizes - measured.sizes[-1] / 2).argmin())
    gains = np.diff(measured.of_classes.mean(0)[[half, -1]], axis=0)[0]
    low, high = np.nanquantile(np.diff(measured.resampled[:, [half, -1]], axis=1)[:, 0], [0.025, 0.975], axis=0)
    best = int(gains.argmax())
    if low[best] <= 0:
        return None
    label = int(np.unique(measured.labels)[best])
    images = int((measured.labels == label).sum())
    return ClassGain(class_names[label], images, float(gains[best]), Interval(float(low[best]), float(high[best])))
