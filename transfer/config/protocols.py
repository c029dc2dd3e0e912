"""Published fine-tuning protocols as rows, and the settings of a run that follow from a row.

A row states every setting that affects the result, even where it equals the default. In all protocols, norms and biases
get no weight decay, SGD uses Nesterov momentum, and the run chooses the weights and the image size. BatchNorm sees the
batch of one device: where a protocol's batch is spread over devices or accumulated, its statistics come from fewer
images than in the source (`--trainer.sync_batchnorm true` joins devices; nothing joins accumulated batches).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transfer.errors import unknown_name

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Deviation:
    """Settings that a protocol changes for some datasets or backbones.

    Attributes:
        names: the datasets or backbones.
        settings: dotted fields that change.
        batch_size: images per optimizer step; None keeps the protocol's.
    """

    names: tuple[str, ...]
    settings: Settings
    batch_size: int | None = None


@dataclass(frozen=True)
class Larger:
    """What a protocol changes for datasets of a size and up.

    Attributes:
        num_images: the size, in images of train and val together.
        steps, warmup: see `Protocol`.
        settings: dotted fields that change.
    """

    num_images: int
    steps: int
    warmup: float
    settings: Settings


# Size of Flowers' train and val together (Tan & Le 2019, Table 6), the smallest of the eight datasets.
_FEWEST_IMAGES = 2040


@dataclass(frozen=True)
class Protocol:
    """The settings with which the networks of a published table were fine-tuned.

    Args:
        name: the protocol's name.
        source: where the settings come from, and which of them are ours.
        batch_size: images per optimizer step, over all processes.
        steps: optimizer steps of one fit.
        settings: dotted fields of the configuration.
        warmup: share of the run that the linear warm-up takes, where the source states it for another dataset; 0
            leaves it to `settings`.
        grid: dotted fields of each trial; val chooses one. One empty trial where there is nothing to choose.
        middle: the trial that a single run uses.
        deviations: settings that differ for some datasets or backbones.
        larger: what differs for larger datasets, by rising size.
        full_from: number of images, train and val together, from which on a fit takes all the steps; fewer images get
            proportionally fewer steps. 0 for a protocol that was published for few images.
    """

    name: str
    source: str
    batch_size: int
    steps: int
    settings: Settings
    warmup: float = 0.0
    grid: tuple[Settings, ...] = ({},)
    middle: Settings = field(default_factory=dict)
    deviations: tuple[Deviation, ...] = ()
    larger: tuple[Larger, ...] = ()
    full_from: int = _FEWEST_IMAGES


def _log_spaced(low: float, high: float, num: int) -> tuple[float, ...]:
    """Return `num` values spaced evenly in the logarithm from 10**low to 10**high, to four digits."""
    return tuple(_four_digits(10 ** (low + i * (high - low) / (num - 1))) for i in range(num))


def _four_digits(value: float) -> float:
    return float(f"{value:.3e}")


def _trial(lr: float, weight_decay: float) -> Settings:
    return {"optim.lr": lr, "optim.weight_decay": _four_digits(weight_decay)}


def _ema_half_life(decay: float, steps: int) -> float:
    """Return an average's decay per step as a half-life, in fractions of a run."""
    return _four_digits(math.log(0.5) / math.log(decay) / steps)


_PLAIN: Settings = {
    "progressive": None,
    "augment": "basic",
    "data.min_crop_area": None,
    "dropout": 0.0,
    "stochastic_depth_prob": 0.0,
    "bn": "adapt",
    "freeze": "none",
    "ema_half_life": None,
    "early_stopping": None,
    "loss.name": "cross_entropy",
    "loss.label_smoothing": 0.0,
    "loss.class_weights": "none",
    "loss.logit_adjustment": False,
    "loss.mixup_alpha": 0.0,
    "loss.cutmix_alpha": 0.0,
    "optim.name": "sgd",
    "optim.momentum": 0.9,
    "optim.backbone_lr_factor": 1.0,
    "optim.layer_decay": 1.0,
    "optim.schedule": "cosine",
    "optim.warmup_epochs": 0.0,
    "optim.sam_rho": None,
    "trainer.gradient_clip_val": None,
}

# Kornblith, Shlens & Le 2019 as restated by SimCLR (arXiv 2002.05709, B.8): weight decay is divided by the learning
# rate.
_KORNBLITH_LRS = _log_spaced(-4, -1, 7)
_KORNBLITH_DECAYS = (0.0, *_log_spaced(-6, -3, 7))
KORNBLITH = Protocol(
    name="kornblith",
    source="Kornblith et al. 2019 as restated in SimCLR (arXiv 2002.05709) B.8 and BYOL (arXiv 2006.07733) D. No label"
    " smoothing, dropout or stochastic depth: none is mentioned there. Ours: the middle of the grid for a single run.",
    batch_size=256,
    steps=20_000,
    settings=_PLAIN,
    grid=tuple(_trial(lr, decay / lr) for lr in _KORNBLITH_LRS for decay in _KORNBLITH_DECAYS),
    middle=_trial(_KORNBLITH_LRS[3], _KORNBLITH_DECAYS[4] / _KORNBLITH_LRS[3]),
)
# The same sources; they mention dividing the decay for fine-tuning only.
_SCRATCH_LRS = _log_spaced(-3, 0, 7)
_SCRATCH_DECAYS = _log_spaced(-5, -1.5, 8)
SCRATCH = Protocol(
    name="scratch",
    source="Random weights as in SimCLR (arXiv 2002.05709) B.8: its grid and 40,000 steps, the rest as kornblith. Ours:"
    " the decay is not divided by the learning rate, bn=adapt, and the trial of a single run.",
    batch_size=256,
    steps=40_000,
    settings={**_PLAIN, "pretrained": False},
    grid=tuple(_trial(lr, decay) for lr in _SCRATCH_LRS for decay in _SCRATCH_DECAYS),
    middle=_trial(_SCRATCH_LRS[3], _SCRATCH_DECAYS[3]),
)
# The author's comment in tensorflow/tpu issue 476: mostly the ImageNet settings, with a quarter of the learning rate.
# Those settings are from Tan & Le 2019, section 5.2; only the released code states 0.016 per 256 images, warm-up,
# epsilon 1e-3, label smoothing and the average's decay of 0.9999.
PAPER = Protocol(
    name="paper",
    source="M. Tan in tensorflow/tpu issue 476: ImageNet settings (arXiv 1905.11946 5.2 and the released code) with a"
    " quarter of the learning rate. He does not state length and batch: ours are Kornblith's 20,000 steps of 256, and"
    " the average's half-life (6,931 steps at 0.9999) is a fraction of these. The decay (x0.97 every 2.4 epochs) and"
    " the warm-up (5 epochs) are stated in epochs of ImageNet, of which its run has 350: ours are the same shares of"
    " the run, which ends at 1.2% of its peak rate as there. Also ours: AutoAugment's published policies, CIFAR's on"
    " CIFAR, where the code has another policy (v0).",
    batch_size=256,
    steps=20_000,
    settings={
        **_PLAIN,
        "augment": "autoaugment",
        "dropout": None,
        "stochastic_depth_prob": 0.2,
        "bn": "train",
        "ema_half_life": _ema_half_life(0.9999, 20_000),
        "loss.label_smoothing": 0.1,
        "optim.name": "rmsprop",
        "optim.lr": 0.016 / 4,
        "optim.weight_decay": 1e-5,
        "optim.schedule": "exponential",
    },
    warmup=5 / 350,
)
# Foret et al. 2021 (arXiv 2010.01412), fine-tuning of EfficientNet-B7 and -L2.
SAM_PAPER = Protocol(
    name="sam-paper",
    source="Foret et al. 2021 (arXiv 2010.01412), fine-tuning, the rows without SAM. Not stated there: label smoothing"
    " (its code's default, none), and the steps with l2 (ours: the same). Also ours: dropout and stochastic depth as"
    " published with the backbone.",
    batch_size=1024,
    steps=5_000,
    settings={
        **_PLAIN,
        "dropout": None,
        "stochastic_depth_prob": 0.2,
        "bn": "frozen",
        "optim.lr": 0.016,
        "optim.weight_decay": 1e-5,
    },
    deviations=(
        Deviation(("cifar10", "cifar100"), {"augment": "autoaugment"}),
        Deviation(("l2",), {"optim.lr": 0.008}, batch_size=512),
    ),
)
SAM_PAPER_RHO = replace(
    SAM_PAPER,
    name="sam-paper-rho0.05",
    source=SAM_PAPER.source.replace("the rows without SAM", "the rows with SAM at rho 0.05"),
    settings={**SAM_PAPER.settings, "optim.sam_rho": 0.05},
)
# Tan & Le 2021 (arXiv 2104.00298) and google/automl efficientnetv2 disagree: the code has a constant learning rate and
# weight decay 1e-5. The row follows the paper, and the code where the paper says nothing.
EFFICIENTNETV2 = Protocol(
    name="efficientnetv2",
    source="Tan & Le 2021 (arXiv 2104.00298): batch 512, learning rate 0.001, cosine, no weight decay, Cutout. Its code"
    " (google/automl) disagrees (constant rate, decay 1e-5) and is followed where the paper is silent: RMSProp, one"
    " epoch of warm-up, label smoothing 0.1, average 0.9996, no dropout, whole squashed images. Ours: Cutout's square"
    " has the mean colour, not noise.",
    batch_size=512,
    steps=10_000,
    settings={
        **_PLAIN,
        "augment": "cutout",
        "data.min_crop_area": 1.0,
        "stochastic_depth_prob": 0.2,
        "bn": "train",
        "ema_half_life": _ema_half_life(0.9996, 10_000),
        "loss.label_smoothing": 0.1,
        "optim.name": "rmsprop",
        "optim.lr": 0.001,
        "optim.weight_decay": 0.0,
        "optim.warmup_epochs": 1.0,
    },
)
# Kolesnikov et al. 2020 (arXiv 1912.11370) and google-research/big_transfer: bit_hyperrule.py states lengths,
# milestones, warm-up, mixup and sizes, bit_pytorch/train.py the optimizer (SGD, momentum 0.9, "no weight-decay"), crop,
# flip and the head of zeros.
BIT_HYPERRULE = Protocol(
    name="bit-hyperrule",
    source="BiT-HyperRule: Kolesnikov et al. 2020 (arXiv 1912.11370) and its code (bit_hyperrule.py, bit_pytorch/"
    "train.py): 500 steps, from 20,000 images on 10,000 and mixup 0.1, from 500,000 on 20,000. Its images are squashed"
    " to 160 px and cropped to 128 if smaller than 96x96, else to 512 and 480: set image_size 128 or 480. Ours: a"
    " random crop of at least that share of the area, where the code's has its size; Nesterov; bn=adapt, as its"
    " networks have no BatchNorm; of fewer images than a batch, all in each step, where the code repeats some.",
    batch_size=512,
    steps=500,
    settings={
        **_PLAIN,
        "data.min_crop_area": _four_digits((480 / 512) ** 2),
        "optim.lr": 0.003,
        "optim.weight_decay": 0.0,
        "optim.schedule": "step-40-60-80",
    },
    warmup=100 / 500,
    deviations=(Deviation(("cifar10", "cifar100", "digits"), {"data.min_crop_area": (128 / 160) ** 2}),),
    larger=(
        Larger(20_000, 10_000, 500 / 10_000, {"optim.schedule": "step-30-60-90", "loss.mixup_alpha": 0.1}),
        Larger(500_000, 20_000, 500 / 20_000, {"optim.schedule": "step-30-60-90", "loss.mixup_alpha": 0.1}),
    ),
    full_from=0,
)
# google-research/task_adaptation: scripts/run_all_tasks.sh states every number, task_adaptation/trainer.py the
# optimizer (momentum 0.9, no weight decay) and the schedule, data_loader.py the images (squashed to 224 px, not
# augmented), model.py the head of zeros.
VTAB_1K = Protocol(
    name="vtab-1k",
    source="VTAB-1k: Zhai et al. 2019 (arXiv 1910.04867), as its code runs it (google-research/task_adaptation,"
    " scripts/run_all_tasks.sh): 1,000 training images, 1,000 steps of 64. Its images are squashed to 224 px: set"
    " image_size 224. What to tune, tune on 800 images and 200 of val, then train on both. Ours: the draw of the 1,000,"
    " which data.per_class or data.fraction makes (theirs are the first 800 and 200 of a shuffled file); images cropped"
    " as in evaluation; Nesterov; bn=adapt. The paper's sweeps are not here.",
    batch_size=64,
    steps=1_000,
    settings={
        **_PLAIN,
        "augment": "none",
        "optim.lr": 0.01,
        "optim.weight_decay": 0.0,
        "optim.schedule": "step-30-60-90",
    },
    warmup=80 / 1_000,
    full_from=0,
)

PROTOCOLS = {
    row.name: row
    for row in (BIT_HYPERRULE, EFFICIENTNETV2, KORNBLITH, PAPER, SAM_PAPER, SAM_PAPER_RHO, SCRATCH, VTAB_1K)
}


def list_protocols() -> list[str]:
    """Return the protocols' names, sorted."""
    return sorted(PROTOCOLS)


def get_protocol(name: str) -> Protocol:
    """Return the protocol of that name.

    Raises:
        BadValue: unknown name; the message lists the nearest and all names.
    """
    if name not in PROTOCOLS:
        raise unknown_name("protocol", name, list_protocols())
    return PROTOCOLS[name]


def protocol_steps(protocol: Protocol, num_images: int) -> int:
    """Return the optimizer steps of one fit: the protocol's, or proportionally fewer below `full_from` images.

    Thus no image is seen more often than one of the smallest of the datasets that it was published for. More passes
    than that were never published, and would take as long as a dataset ten times the size.

    Args:
        protocol: the protocol.
        num_images: number of images in train and val together, even where a trial is fitted to train alone.
    """
    protocol = _of_size(protocol, num_images)
    return math.ceil(protocol.steps * min(1.0, num_images / max(1, protocol.full_from)))


def _of_size(protocol: Protocol, num_images: int) -> Protocol:
    """Return the protocol as it is for a dataset of so many images."""
    rows = [row for row in protocol.larger if row.num_images <= num_images]
    if not rows:
        return protocol
    row = rows[-1]
    settings = {**protocol.settings, **row.settings}
    return replace(protocol, steps=row.steps, warmup=row.warmup, settings=settings, larger=())


def protocol_settings(
    protocol: Protocol,
    trial: Settings,
    *,
    dataset: str,
    backbone: str,
    num_images: int,
    epoch_images: int | None = None,
    steps: int | None = None,
) -> dict[str, Any]:
    """Return the settings of one run by dotted field, including those that set the protocol's batch and length.

    The last step of an epoch takes the remaining images. A run validates about twenty times.

    Args:
        protocol: the protocol.
        trial: a trial of the protocol's grid.
        dataset, backbone: short names, for the protocol's deviations.
        num_images: see `protocol_steps`.
        epoch_images: images that the run sees in an epoch; None for all of them, as in a final fit.
        steps: optimizer steps of a run of another length, over which warm-up and validations are spread.
    """
    protocol = _of_size(protocol, num_images)
    settings, batch_size = dict(protocol.settings), protocol.batch_size
    for deviation in protocol.deviations:
        if dataset in deviation.names or backbone in deviation.names:
            settings |= deviation.settings
            batch_size = deviation.batch_size or batch_size
    own_steps = protocol_steps(protocol, num_images)
    steps_per_epoch = math.ceil((epoch_images or num_images) / batch_size)
    epochs = (own_steps if steps is None else steps) / steps_per_epoch
    if protocol.warmup:
        settings["optim.warmup_epochs"] = _four_digits(protocol.warmup * epochs)
    return {
        **settings,
        **trial,
        "global_batch_size": batch_size,
        "trainer.max_steps": own_steps,
        "trainer.max_epochs": -1,
        "trainer.check_val_every_n_epoch": max(1, int(epochs / 20)),
    }
