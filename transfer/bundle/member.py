"""What a bundle says of each of its networks: how to build it, and the run that it is of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transfer.records import Interval


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The network from whose answers a network learned.

    Attributes:
        backbone, image_size, num_parameters: its own, with its head.
        metrics: by split, of those whose images are the student's, too.
        milliseconds, student_milliseconds: time of one image in float32 PyTorch, for it and for the student, measured
            when the student's training had ended; None: not measured.
        device: the processor that took this time, and its threads.
    """

    backbone: str
    image_size: int
    num_parameters: int
    metrics: dict[str, dict[str, float]]
    milliseconds: float | None
    student_milliseconds: float | None
    device: str | None


@dataclass(frozen=True, kw_only=True)
class Network:
    """How to build the network; see `transfer.build_classifier`.

    Attributes:
        pretrained, init_from: row of weights whose padding, BatchNorm constants and activation it has.
        teacher: the network that it learned from; None: it had none.
    """

    backbone: str
    head: str
    pretrained: str | Literal[False]
    init_from: str | None
    in_channels: int
    output_stride: int
    num_parameters: int
    teacher: Teacher | None = None


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The public weights that the network started from.

    Attributes:
        name: of their row, or of a file.
        sha256: of their file; None where it is gone.
        trained_on: their training data.
        licence: theirs; None: unknown.
    """

    name: str
    sha256: str | None
    trained_on: str
    licence: str | None


@dataclass(frozen=True, kw_only=True)
class Data:
    """The images that the network was trained on.

    Attributes:
        name: of the dataset.
        hub_id: where the Hub has it; None: nowhere known.
        licence: in words; None: unknown.
        fingerprint: digest of each split's images and labels.
        sizes: images of each split.
    """

    name: str
    hub_id: str | None
    licence: str | None
    fingerprint: dict[str, str]
    sizes: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Member:
    """A run's network: the bundle's only one, or one of those whose probabilities are averaged.

    Attributes:
        run: name of the run, such as `photos_lite0/1`.
        network: how to build it.
        temperature: what its logits are divided by before the average; 1 where it is alone.
        weights: what it started from; None: random weights.
        data: what it was trained on.
        metrics, intervals: its own, by split.
    """

    run: str
    network: Network
    temperature: float
    weights: Weights | None
    data: Data
    metrics: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, Interval]]
