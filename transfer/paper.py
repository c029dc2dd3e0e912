"""Published numbers, each table with its source in the comment above it. Accuracies are in percent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

# The datasets of Table 5, in its order and with the paper's names.
DATASET_TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "birdsnap": "Birdsnap",
    "cars": "Stanford Cars",
    "flowers": "Flowers",
    "aircraft": "FGVC Aircraft",
    "pets": "Oxford-IIIT Pets",
    "food101": "Food-101",
}
# Others that results are published on, as Kornblith et al. call them.
FURTHER_TITLES = {
    "caltech101": "Caltech-101",
    "dtd": "DTD",
    "sun397": "SUN397",
    "voc2007": "VOC2007",
}


@dataclass(frozen=True)
class PaperResult:
    """One of the 16 EfficientNet cells of Table 5, with the network that it is compared with.

    Attributes:
        dataset: the dataset's name.
        column: `public` compares with the best public model, `best` with the best reported result.
        peer, peer_accuracy, peer_millions: the other network, its accuracy in percent, and its parameters without the
            classifier in millions, as printed.
        backbone, accuracy, millions: the same of the EfficientNet, as printed.
        printed_ratio: ratio of the parameters, as printed; misprints are kept.
    """

    dataset: str
    column: Literal["public", "best"]
    peer: str
    peer_accuracy: float
    peer_millions: float | None
    backbone: str
    accuracy: float
    millions: float | None
    printed_ratio: float | None

    @property
    def ratio(self) -> float | None:
        """The ratio of the printed parameters, computed as in the paper; None where it prints none."""
        if self.peer_millions is None or self.millions is None:
            return None
        return self.peer_millions / self.millions


TABLE5_COLUMNS = {"public": "Against the best public models", "best": "Against the best reported results"}
# Tan & Le 2019 (arXiv 1905.11946v5), Table 5. It is the same in the first version, where B0 had 76.3% on ImageNet, so
# its checkpoints were trained before those with AutoAugment.
TABLE5 = (
    PaperResult("cifar10", "public", "NASNet-A", 98.0, 85, "b0", 98.1, 4, 21),
    PaperResult("cifar10", "best", "GPipe", 99.0, 556, "b7", 98.9, 64, 8.7),
    PaperResult("cifar100", "public", "NASNet-A", 87.5, 85, "b0", 88.1, 4, 21),
    PaperResult("cifar100", "best", "GPipe", 91.3, 556, "b7", 91.7, 64, 8.7),
    PaperResult("birdsnap", "public", "Inception-v4", 81.8, 41, "b5", 82.0, 28, 1.5),
    PaperResult("birdsnap", "best", "GPipe", 83.6, 556, "b7", 84.3, 64, 8.7),
    PaperResult("cars", "public", "Inception-v4", 93.4, 41, "b3", 93.6, 10, 4.1),
    PaperResult("cars", "best", "DAT", 94.8, None, "b7", 94.7, None, None),
    PaperResult("flowers", "public", "Inception-v4", 98.5, 41, "b5", 98.5, 28, 1.5),
    PaperResult("flowers", "best", "DAT", 97.7, None, "b7", 98.8, None, None),
    PaperResult("aircraft", "public", "Inception-v4", 90.9, 41, "b3", 90.7, 10, 4.1),
    PaperResult("aircraft", "best", "DAT", 92.9, None, "b7", 92.9, None, None),
    PaperResult("pets", "public", "ResNet-152", 94.5, 58, "b4", 94.8, 17, 5.6),
    PaperResult("pets", "best", "GPipe", 95.9, 556, "b6", 95.4, 41, 14),
    PaperResult("food101", "public", "Inception-v4", 90.8, 41, "b4", 91.5, 17, 2.4),
    PaperResult("food101", "best", "GPipe", 93.0, 556, "b7", 93.0, 64, 8.7),
)
# The last line of the same table.
PRINTED_GEO_MEANS = {"public": 4.7, "best": 9.6}


@dataclass(frozen=True)
class ScalingResult:
    """A scaled network of the paper.

    Args:
        backbone: our name of the network.
        gmacs: billions of multiply-adds, as printed.
        top1: ImageNet top-1 accuracy in percent, as printed.
        image_size: side in pixels at which it is counted, if it differs from the resolution that the name implies.
        computed: billions of multiply-adds counted from the architecture outside this project, if they differ from the
            printed ones.
    """

    backbone: str
    gmacs: float
    top1: float
    image_size: int | None = None
    computed: float | None = None


# Tan & Le 2019, Table 3. Among its compound rows, only MobileNetV1's coefficients are printed; the others are counted
# with the same ones. The MobileNets match the printed numbers best at 288 px, a multiple of 32, ResNet-50 at 291 px.
TABLE3 = (
    ScalingResult("mobilenet-v1", 0.6, 70.6, computed=0.569),
    ScalingResult("mobilenet-v1@w=2", 2.2, 74.2, computed=2.216),
    ScalingResult("mobilenet-v1@r=2", 2.2, 72.7, computed=2.272),
    ScalingResult("mobilenet-v1@d=1.4,w=1.2,r=1.3", 2.3, 75.6, 288, computed=2.24),
    ScalingResult("mobilenet-v2", 0.3, 72.0, computed=0.301),
    ScalingResult("mobilenet-v2@d=4", 1.2, 76.8, computed=1.220),
    ScalingResult("mobilenet-v2@w=2", 1.1, 76.4, computed=1.137),
    ScalingResult("mobilenet-v2@r=2", 1.2, 74.8, computed=1.199),
    ScalingResult("mobilenet-v2@d=1.4,w=1.2,r=1.3", 1.3, 77.4, 288, computed=1.28),
    ScalingResult("resnet50", 4.1, 76.0, computed=4.089),
    ScalingResult("resnet50@d=4", 16.2, 78.1, computed=14.57),
    ScalingResult("resnet50@w=2", 14.7, 77.7, computed=16.12),
    ScalingResult("resnet50@r=2", 16.4, 77.5, computed=16.35),
    ScalingResult("resnet50@d=1.4,w=1.2,r=1.3", 16.7, 78.8, computed=15.95),
)
# Tan & Le 2019, Table 7: the networks of its Figure 7.
TABLE7 = (
    ScalingResult("b0", 0.4, 77.3, computed=0.386),
    ScalingResult("b0@d=4", 1.8, 79.0, computed=1.575),
    ScalingResult("b0@w=2", 1.8, 78.9, computed=1.450),
    ScalingResult("b0@r=2", 1.9, 79.1, computed=1.538),
    ScalingResult("b0@d=1.4,w=1.2,r=1.3", 1.8, 81.1, computed=1.800),
)


@dataclass(frozen=True)
class LatencyResult:
    """A row of Table 4: seconds per image and ImageNet top-1 in percent of a peer and an EfficientNet, as printed."""

    peer: str
    peer_seconds: float
    peer_top1: float
    backbone: str
    seconds: float
    top1: float
    printed_ratio: float


# Tan & Le 2019, Table 4: batch 1 on one core of an Intel Xeon E5-2690, the mean of 20 runs.
TABLE4 = (
    LatencyResult("ResNet-152", 0.554, 77.8, "b1", 0.098, 78.8, 5.7),
    LatencyResult("GPipe", 19.0, 84.3, "b7", 3.1, 84.4, 6.1),
)


def paper_results(dataset: str) -> list[PaperResult]:
    """Return the paper's results on a dataset, smallest network first; empty if it has none."""
    return [result for result in TABLE5 if result.dataset == dataset]


def geo_mean(ratios: Iterable[float]) -> float:
    """Return the geometric mean of at least one ratio, as in the last line of Table 5."""
    logarithms = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logarithms) / len(logarithms))


@dataclass(frozen=True)
class Misprint:
    """A misprint of the paper.

    Attributes:
        place: table, figure or text.
        printed: what is printed.
        correct: the correct value, or the evidence against the printed one.
    """

    place: str
    printed: str
    correct: str


# Found by comparing arXiv 1905.11946v5 with itself, with its first version and with the counted networks; the size of
# Pets with BYOL (arXiv 2006.07733), App. D.
MISPRINTS = (
    Misprint("Table 5", "Pets: ResNet-152 / B4 = 5.6x", "58M / 17M = 3.4x, and the geo-mean 4.7x is then 4.4x"),
    Misprint("Table 5", "B3 10M, B4 17M", "10.70M and 17.55M, cut off where the others are rounded"),
    Misprint("Table 6", "Pets: 3,369 test images", "3,669"),
    Misprint("Table 2", "B2 9.2M parameters; B4 4.2B, B5 9.9B FLOPs", "9.11M; 4.39B, 10.27B"),
    Misprint("Table 4", "B1 78.8%, B7 84.4%", "79.1%, 84.3% (Table 2): left over from the first version"),
    Misprint("Table 7", "B0 77.3%", "77.1% (Table 2)"),
    Misprint("Figure 4, text", "r=2.0", "r=1.3, as in the figure"),
    Misprint("Figure 5", "NASNet-A 80.7%", "82.7% (Table 2)"),
)
TRANSFER_MISPRINTS = [misprint for misprint in MISPRINTS if misprint.place in ("Table 5", "Table 6")]

# Counted here: trainable parameters without the 1000-class classifier; efficientnet-pytorch 0.7.1 has the same numbers.
PARAMETERS_WITHOUT_CLASSIFIER = {
    "b0": 4_007_548,
    "b1": 6_513_184,
    "b2": 7_700_994,
    "b3": 10_696_232,
    "b4": 17_548_616,
    "b5": 28_340_784,
    "b6": 40_735_704,
    "b7": 63_786_960,
}


@dataclass(frozen=True)
class ImageNetResult:
    """A row of Table 2: single-crop accuracy, parameters with the classifier in millions, FLOPs in billions."""

    network: str
    top1: float
    top5: float
    millions: float
    gflops: float | None


# arXiv 1905.11946v5, Table 2: each EfficientNet above the networks that it is compared with.
TABLE2 = (
    ImageNetResult("b0", 77.1, 93.3, 5.3, 0.39),
    ImageNetResult("ResNet-50", 76.0, 93.0, 26, 4.1),
    ImageNetResult("DenseNet-169", 76.2, 93.2, 14, 3.5),
    ImageNetResult("b1", 79.1, 94.4, 7.8, 0.70),
    ImageNetResult("ResNet-152", 77.8, 93.8, 60, 11),
    ImageNetResult("DenseNet-264", 77.9, 93.9, 34, 6.0),
    ImageNetResult("Inception-v3", 78.8, 94.4, 24, 5.7),
    ImageNetResult("Xception", 79.0, 94.5, 23, 8.4),
    ImageNetResult("b2", 80.1, 94.9, 9.2, 1.0),
    ImageNetResult("Inception-v4", 80.0, 95.0, 48, 13),
    ImageNetResult("Inception-ResNet-v2", 80.1, 95.1, 56, 13),
    ImageNetResult("b3", 81.6, 95.7, 12, 1.8),
    ImageNetResult("ResNeXt-101", 80.9, 95.6, 84, 32),
    ImageNetResult("PolyNet", 81.3, 95.8, 92, 35),
    ImageNetResult("b4", 82.9, 96.4, 19, 4.2),
    ImageNetResult("SENet", 82.7, 96.2, 146, 42),
    ImageNetResult("NASNet-A", 82.7, 96.2, 89, 24),
    ImageNetResult("AmoebaNet-A", 82.8, 96.1, 87, 23),
    ImageNetResult("PNASNet", 82.9, 96.2, 86, 23),
    ImageNetResult("b5", 83.6, 96.7, 30, 9.9),
    ImageNetResult("AmoebaNet-C", 83.5, 96.5, 155, 41),
    ImageNetResult("b6", 84.0, 96.8, 43, 19),
    ImageNetResult("b7", 84.3, 97.0, 66, 37),
    ImageNetResult("GPipe", 84.3, 97.0, 557, None),
)


@dataclass(frozen=True)
class TransferRow:
    """The published accuracies of one network after transfer.

    Attributes:
        network: the network's name.
        millions: parameters without the classifier, in millions; None if unknown.
        accuracy: accuracy on each dataset, in percent.
        spread: the +- printed after the accuracy on each dataset, in points.
    """

    network: str
    millions: float | None
    accuracy: Mapping[str, float]
    spread: Mapping[str, float] = field(default_factory=dict)


def _row(datasets: Sequence[str], network: str, millions: float | None, *accuracies: float | None) -> TransferRow:
    pairs = zip(datasets, accuracies, strict=True)
    return TransferRow(network, millions, {dataset: value for dataset, value in pairs if value is not None})


# Fine-tuned networks, probably of Kornblith et al. 2019 (arXiv 1805.08974). Digitised to +-0.1 from the figure
# assets/images/dataset.png of github.com/human-analysis/neural-architecture-transfer at 5aca00a. No table of these
# values could be read, so nothing is asserted about them. Parameters without the classifier: torchvision 0.28.0 and
# transformers 5.23.0; for Inception v4 and NASNet-A Large, Table 5; for NASNet-A Mobile, the 5.3M of
# tf.keras.applications minus its classifier's 1.06M.
_NAT = ("cifar10", "cifar100", "flowers", "cars", "aircraft", "pets", "food101")
KORNBLITH_DIGITISED = (
    _row(_NAT, "MobileNet v1", 3.2, 96.1, 82.3, 96.7, 91.4, 85.8, 89.9, 87.1),
    _row(_NAT, "MobileNet v2", 2.2, 95.7, 80.8, 96.6, 91.0, 82.8, 90.5, 86.2),
    _row(_NAT, "MobileNet v2 1.4", 4.3, 96.1, 82.5, 97.5, 91.8, 86.8, 91.0, 87.7),
    _row(_NAT, "NASNet-A Mobile", 4.2, 96.8, 83.9, 96.8, None, None, 89.4, 85.5),
    _row(_NAT, "Inception v1", 5.6, 96.2, 83.2, 97.3, 91.0, 82.7, 91.9, 85.6),
    _row(_NAT, "DenseNet-121", 7.0, 97.2, 84.8, 97.2, 91.5, 85.4, 92.9, 87.7),
    _row(_NAT, "DenseNet-169", 12.5, 97.4, 85.0, 97.9, 91.5, 84.5, 93.1, 88.0),
    _row(_NAT, "DenseNet-201", 18.1, 97.4, 86.0, 97.7, 91.0, 84.6, 92.8, 87.3),
    _row(_NAT, "ResNet-50", 23.5, 96.8, 84.5, 97.5, 91.7, 86.6, 92.5, 87.8),
    _row(_NAT, "ResNet-101", 42.5, 97.7, 87.0, 97.9, 91.7, 85.6, 94.0, 87.6),
    _row(_NAT, "ResNet-152", 58.1, 97.9, 87.6, 97.4, 92.0, 85.3, 94.5, 87.6),
    _row(_NAT, "Inception v3", 21.8, 97.5, 86.6, 98.0, 92.3, 88.8, 93.5, 88.8),
    _row(_NAT, "Inception v4", 41, 97.9, 87.5, 98.45, 93.3, 89.0, 93.7, 90.0),
    _row(_NAT, "NASNet-A Large", 85, 98.0, 87.7, 98.2, 91.1, 87.2, 93.3, 88.9),
)
# EfficientNets in the same figure, digitised to +-0.1; probably those of the EfficientNet paper's Figure 6. Where
# Table 5 has the same cell, its value takes precedence.
EFFICIENTNET_DIGITISED = (
    _row(_NAT, "b0", 4.01, 98.1, 88.1, 96.9, 90.8, 87.4, 91.0, 87.4),
    _row(_NAT, "b1", 6.51, None, None, 97.55, 92.1, 88.7, 92.2, 88.4),
    _row(_NAT, "b2", 7.70, None, None, 97.65, 92.35, 88.5, 92.3, 88.6),
    _row(_NAT, "b3", 10.70, None, None, 97.8, None, 90.7, 93.8, None),
)

# Huang et al. 2019 (GPipe, arXiv 1811.06965), transfer table: AmoebaNet-B(18, 512) at 480 px, mean of 5 runs.
# Parameters: Tan & Le, Table 5.
_GPIPE = ("cifar10", "cifar100", "cars", "pets", "food101", "aircraft", "birdsnap")
GPIPE = (_row(_GPIPE, "GPipe", 556, 99.0, 91.3, 94.6, 95.9, 93.0, 92.7, 83.6),)

# The twelve datasets of Kornblith et al. 2019 (arXiv 1805.08974), in the order of the tables of SimCLR and BYOL. Mean
# per class on Aircraft, Pets, Caltech-101 and Flowers, 11-point mAP on VOC2007, top-1 on the others.
_TWELVE = (
    *("food101", "cifar10", "cifar100", "birdsnap", "sun397", "cars", "aircraft", "voc2007", "dtd", "pets"),
    *("caltech101", "flowers"),
)


def _resnet50(*accuracies: float) -> TransferRow:
    return _row(_TWELVE, "ResNet-50", 23.5, *accuracies)


# Chen et al. 2020 (SimCLR, arXiv 2002.05709), Table B.5: ResNet-50 trained with labels, by the protocol of Kornblith et
# al., one of whom is an author; it has that paper's datasets and metrics.
SIMCLR_RESNET50 = {
    "linear": _resnet50(72.3, 93.6, 78.3, 53.7, 61.9, 66.7, 61.0, 82.8, 74.9, 91.5, 94.5, 94.7),
    "fine-tuned": _resnet50(88.3, 97.5, 86.4, 75.8, 64.3, 92.1, 86.0, 85.0, 74.6, 92.1, 93.3, 97.6),
    "random": _resnet50(86.9, 95.9, 80.2, 76.1, 53.6, 91.4, 85.9, 67.3, 64.8, 81.5, 72.6, 92.0),
}
# The same table: ResNet-50 trained on ImageNet without labels, by SimCLR.
SIMCLR = {
    "linear": _resnet50(68.4, 90.6, 71.6, 37.4, 58.8, 50.3, 50.3, 80.5, 74.5, 83.6, 90.3, 91.2),
    "fine-tuned": _resnet50(88.2, 97.7, 85.9, 75.9, 63.5, 91.3, 88.1, 84.1, 73.2, 89.2, 92.1, 97.0),
}
# Grill et al. 2020 (BYOL, arXiv 2006.07733), Table 3: ResNet-50 trained on ImageNet without labels.
BYOL = {
    "linear": _resnet50(75.3, 91.3, 78.4, 57.2, 62.2, 67.8, 60.6, 82.5, 75.5, 90.4, 94.2, 96.1),
    "fine-tuned": _resnet50(88.5, 97.8, 86.1, 76.3, 63.7, 91.6, 88.1, 85.4, 76.2, 91.7, 93.8, 97.0),
}

# Kolesnikov et al. 2020 (BiT, arXiv 1912.11370), ResNet-152x4 (ResNet-v2 with group normalisation) fine-tuned by
# BiT-HyperRule, top-1: Table 2 for BiT-S and BiT-M; Table 1 for BiT-L, median and standard deviation of 3 runs. The
# data of the weights: ImageNet-1k, ImageNet-21k and JFT-300M. Parameters without the classifier are not printed.
_BIT = ("cifar10", "cifar100", "pets", "flowers")
BIT = (
    _row(_BIT, "BiT-S R152x4", None, 97.51, 86.21, 93.97, 89.89),
    _row(_BIT, "BiT-M R152x4", None, 98.91, 92.17, 94.46, 99.30),
    TransferRow(
        "BiT-L R152x4",
        None,
        {"cifar10": 99.37, "cifar100": 93.51, "pets": 96.62, "flowers": 99.63},
        {"cifar10": 0.06, "cifar100": 0.08, "pets": 0.23, "flowers": 0.03},
    ),
)

# Tan & Le 2021 (EfficientNetV2, arXiv 2104.00298), transfer table, ImageNet-1k checkpoints, mean of 5 runs with the
# printed +-. Parameters counted without the classifier.
EFFICIENTNETV2 = (
    TransferRow(
        "v2-s",
        20.2,
        {"cifar10": 98.7, "cifar100": 91.5, "flowers": 97.9, "cars": 93.8},
        {"cifar10": 0.04, "cifar100": 0.11, "flowers": 0.13, "cars": 0.11},
    ),
    TransferRow(
        "v2-m",
        52.9,
        {"cifar10": 99.0, "cifar100": 92.2, "flowers": 98.5, "cars": 94.6},
        {"cifar10": 0.08, "cifar100": 0.08, "flowers": 0.08, "cars": 0.10},
    ),
    TransferRow(
        "v2-l",
        117.2,
        {"cifar10": 99.1, "cifar100": 92.3, "flowers": 98.8, "cars": 95.1},
        {"cifar10": 0.03, "cifar100": 0.13, "flowers": 0.05, "cars": 0.10},
    ),
)

# Foret et al. 2021 (SAM, arXiv 2010.01412), 100 minus the printed errors, mean of 5 runs: B7 from a RandAugment
# checkpoint (84.7% on ImageNet), L2 from NoisyStudent's, which saw JFT-300M.
_SAM = ("cifar10", "cifar100", "flowers", "pets", "cars", "aircraft", "birdsnap", "food101")
SAM = {
    "b7": _row(_SAM, "b7", 63.8, 99.05, 92.32, 98.84, 95.76, 94.06, 91.85, 85.70, 92.83),
    "b7, SAM": _row(_SAM, "b7", 63.8, 99.12, 92.56, 99.37, 96.03, 94.82, 93.20, 86.36, 92.98),
    "b7, SAM, rho 0.05": _row(_SAM, "b7", 63.8, 99.12, 92.44, 99.19, 95.85, 94.43, 92.94, 86.36, 92.94),
    "l2": _row(_SAM, "l2", 474.8, 99.66, 95.93, 99.60, 96.92, 95.07, 94.20, 89.69, 96.03),
    "l2, SAM": _row(_SAM, "l2", 474.8, 99.70, 96.08, 99.65, 97.10, 95.96, 95.18, 90.07, 96.18),
}


@dataclass(frozen=True)
class Published:
    """What a protocol's own paper reports, and what a result must have in common with it to be compared.

    Attributes:
        source: the table, in words.
        accuracy: the accuracy in percent.
        image_size: side of the images in pixels.
        trained_on: data of the weights, as results state it; None for random weights.
    """

    source: str
    accuracy: float
    image_size: int
    trained_on: str | None = "ImageNet-1k"


# Side of the images: the released code's for b0 to b7 (on CIFAR too, by the author in tensorflow/tpu issue 476) and the
# evaluation size of V2; SAM's L2 is NoisyStudent's at 475 px; SimCLR's ResNet-50, its B.8.
_SIZES = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600, "l2": 475}
_SIZES |= {"v2-s": 384, "v2-m": 480, "v2-l": 480, "resnet50": 224}
TABLE5_SOURCE = "Tan & Le 2019, Table 5"
_SIMCLR_SOURCE, _SAM_SOURCE = "SimCLR (arXiv 2002.05709), App. B.8", "SAM (arXiv 2010.01412)"
_V2_SOURCE = "EfficientNetV2 (arXiv 2104.00298)"
_BYOL_SOURCE, _BIT_SOURCE = "BYOL (arXiv 2006.07733), Table 3", "BiT (arXiv 1912.11370), Tables 1 and 2"
_GPIPE_SOURCE = "GPipe (arXiv 1811.06965)"
_IMAGENET, _NOISY_STUDENT = "ImageNet-1k", "JFT-300M and ImageNet-1k"


@cache
def _by_protocol() -> dict[tuple[str, str, str], Published]:
    """By protocol, dataset and backbone: the table that the protocol was published with.

    Table 5 names Kornblith's settings, and `paper` is its author's description of them. L2 has no row at rho 0.05.
    """
    rows: list[tuple[str, str, str, Mapping[str, float], str | None]] = [
        ("kornblith", _SIMCLR_SOURCE, "resnet50", SIMCLR_RESNET50["fine-tuned"].accuracy, _IMAGENET),
        *(  # as results.json names it, and as a table does
            (name, _SIMCLR_SOURCE, "resnet50", SIMCLR_RESNET50["linear"].accuracy, _IMAGENET)
            for name in ("linear probe", "linear-probe")
        ),
        ("scratch", _SIMCLR_SOURCE, "resnet50", SIMCLR_RESNET50["random"].accuracy, None),
        ("sam-paper", _SAM_SOURCE, "b7", SAM["b7"].accuracy, _IMAGENET),
        ("sam-paper", _SAM_SOURCE, "l2", SAM["l2"].accuracy, _NOISY_STUDENT),
        ("sam-paper-rho0.05", _SAM_SOURCE, "b7", SAM["b7, SAM, rho 0.05"].accuracy, _IMAGENET),
        *(("efficientnetv2", _V2_SOURCE, row.network, row.accuracy, _IMAGENET) for row in EFFICIENTNETV2),
    ]
    for protocol in ("paper", "kornblith"):
        rows += [(protocol, TABLE5_SOURCE, cell.backbone, {cell.dataset: cell.accuracy}, _IMAGENET) for cell in TABLE5]
    return {
        (protocol, dataset, backbone): Published(source, accuracy, _SIZES[backbone], data)
        for protocol, source, backbone, accuracies, data in rows
        for dataset, accuracy in accuracies.items()
    }


def published_result(protocol: str, dataset: str, backbone: str) -> Published | None:
    """Return what the protocol's own paper reports for a dataset and a backbone, or None if it does not."""
    return _by_protocol().get((protocol, dataset, backbone))


def published_results(protocol: str | None, dataset: str) -> list[tuple[str, Published]]:
    """Return the backbones with what the protocol's own paper reports for them on a dataset; without one, Table 5's."""
    wanted = (protocol or "paper", dataset)
    return [(backbone, found) for (*key, backbone), found in _by_protocol().items() if tuple(key) == wanted]


@dataclass(frozen=True)
class Cited:
    """A row of a published table, to read beside results on the same datasets.

    Attributes:
        row: the network and its accuracies.
        how: how it was transferred, in a few words.
        source: the table, in words.
    """

    row: TransferRow
    how: str
    source: str


@cache
def cited_rows() -> tuple[Cited, ...]:
    """Return the rows of every table with printed accuracies after transfer; those read off figures are left out.

    The EfficientNets of Table 5 come first, each with its datasets of that table.
    """
    table5: dict[str, dict[str, float]] = {}
    for cell in sorted(TABLE5, key=lambda cell: cell.backbone):
        table5.setdefault(cell.backbone, {})[cell.dataset] = cell.accuracy
    own = [TransferRow(name, PARAMETERS_WITHOUT_CLASSIFIER[name] / 1e6, accuracy) for name, accuracy in table5.items()]
    l2 = "fine-tuned from NoisyStudent"
    return (
        *(Cited(row, "fine-tuned", TABLE5_SOURCE) for row in own),
        *(Cited(row, "fine-tuned", _V2_SOURCE) for row in EFFICIENTNETV2),
        *(
            Cited(row, f"{l2 if row.network == 'l2' else 'fine-tuned'}{name.removeprefix(row.network)}", _SAM_SOURCE)
            for name, row in SAM.items()
        ),
        *(Cited(row, "fine-tuned by BiT-HyperRule", _BIT_SOURCE) for row in BIT),
        *(Cited(row, "fine-tuned", _GPIPE_SOURCE) for row in GPIPE),
        *(Cited(row, f"{how}, supervised", _SIMCLR_SOURCE) for how, row in SIMCLR_RESNET50.items() if how != "random"),
        Cited(SIMCLR_RESNET50["random"], "trained from scratch", _SIMCLR_SOURCE),
        *(Cited(row, f"{how}, SimCLR", _SIMCLR_SOURCE) for how, row in SIMCLR.items()),
        *(Cited(row, f"{how}, BYOL", _BYOL_SOURCE) for how, row in BYOL.items()),
    )
