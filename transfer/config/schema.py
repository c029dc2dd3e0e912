"""The schema of a run: typed dataclasses with every default, the only place where they are written."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

SMALLEST_IMAGE = 32  # side in pixels, of which the networks leave one cell
FREEZE = re.compile(r"none|backbone|until-epoch[ =-]?(\d+)")

# The fields of DataConfig that concern batches; the others say how the data are read.
_LOADER_FIELDS = ("batch_size", "num_workers", "min_crop_area", "cache", "cache_dir")

Augment = Literal["none", "basic", "randaugment", "trivialaugment", "autoaugment", "cutout"]


@dataclass(kw_only=True)
class DataConfig:
    """Data"""

    batch_size: int = 64
    """images per process and step"""
    num_workers: int | None = None
    """loader processes per training process; unset: usable cores - 1, at most 8"""
    train_on: Literal["train", "trainval"] = "train"
    """trainval adds val to train, for a last fit once everything is chosen: nothing is validated, the end is tested"""
    val_fraction: float = 0.1
    """share of your own data held out for val, and for test where it has no splits at all, above 0 to below 0.5"""
    min_crop_area: float | None = None
    """smallest share of the image that a random crop keeps, above 0 to 1; unset: the dataset's, 0.08 as in the paper"""
    multilabel: bool = False
    """several labels per image (needs --loss.name bce)"""
    image_column: str | None = None
    """of a table: the images or their paths; unset: the dataset's own"""
    label_column: str | None = None
    """of a table: the labels; unset: the dataset's own"""
    split_column: str | None = None
    """of a table: train, val or test per row"""
    label_separator: str = "|"
    """between several labels in one cell"""
    cache: Literal["none", "ram", "disk"] = "none"
    """decode and resize each image once, into memory or a file: training crops are then cut from the resized image"""
    cache_dir: str | None = None
    """of cache disk; unset: efficientnet-transfer in XDG_CACHE_HOME, or else in ~/.cache"""
    stream: bool = False
    """fetch images from the hub while training, for what does not fit on the disk; with 1, 2, 4 or 8 workers"""


@dataclass(kw_only=True)
class LossConfig:
    """Loss and mixing"""

    name: Literal["cross_entropy", "bce"] = "cross_entropy"
    """bce asks one yes-or-no question per class"""
    label_smoothing: float = 0.1
    """share of the target spread over all classes, 0 to below 1"""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced gives every class the same say, from the counts of the train split"""
    mixup_alpha: float = 0.0
    """of Beta(alpha, alpha), 0 is off; typical 0.2"""
    cutmix_alpha: float = 0.0
    """of Beta(alpha, alpha), 0 is off; typical 1.0"""


@dataclass(kw_only=True)
class OptimConfig:
    """Optimizer and schedule"""

    name: Literal["sgd", "adamw", "rmsprop"] = "sgd"
    """sgd with Nesterov momentum, adamw, or TensorFlow's rmsprop (the paper's)"""
    lr: float = 0.02
    """peak learning rate of the head, for the whole batch of all processes and accumulated steps"""
    momentum: float = 0.9
    """of sgd and rmsprop, 0 to below 1"""
    weight_decay: float = 1e-5
    """of weights; norms and biases get none"""
    backbone_lr_factor: float = 1.0
    """learning rate of the backbone relative to the head's"""
    layer_decay: float = 1.0
    """learning rate of each stage relative to the next one's, above 0 to 1"""
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    """cosine to zero; exponential is the paper's x0.97 every 2.4 epochs"""
    warmup_epochs: float = 0.5
    """linear warm-up, in epochs"""
    sam_rho: float | None = None
    """sharpness-aware minimization with this neighbourhood (typical 0.05), two passes a step; unset: off"""


# Left out of Lightning's: logger, callbacks, enable_checkpointing and default_root_dir (a run writes its own files),
# plugins and model_registry (objects, not values), fast_dev_run and barebones (they turn the results off),
# use_distributed_sampler and reload_dataloaders_every_n_epochs (the datamodule shards and resumes by itself),
# limit_predict_batches and enable_autolog_hparams (play no role).
@dataclass(kw_only=True)
class TrainerConfig:
    """PyTorch Lightning's Trainer"""

    max_epochs: int = 10
    """passes over the training images; -1 with max_steps"""
    accelerator: str = "auto"
    """auto, cpu, gpu, mps, tpu"""
    devices: int | str | list[int] = "auto"
    """number, list of indices, or auto"""
    num_nodes: int = 1
    """machines"""
    strategy: str = "auto"
    """auto, ddp, ddp_spawn, ddp_find_unused_parameters_true, ..."""
    precision: str = "auto"
    """auto (bf16-mixed where the GPU computes it, else 32-true), 32-true, bf16-mixed, 16-mixed, ..."""
    max_steps: int = -1
    """optimizer steps; -1 is no limit"""
    min_epochs: int | None = None
    """before early stopping may act"""
    min_steps: int | None = None
    """before early stopping may act"""
    max_time: str | None = None
    """DD:HH:MM:SS after which training ends"""
    limit_train_batches: int | float | None = None
    """batches per epoch: a number, or a share as 0.1"""
    limit_val_batches: int | float | None = None
    """validation batches: a number, or a share"""
    limit_test_batches: int | float | None = None
    """test batches: a number, or a share"""
    overfit_batches: int | float = 0.0
    """train on the same few batches in every epoch, to see whether it learns them: a number, or a share"""
    val_check_interval: int | float | None = None
    """validate every so many batches, or after this share of an epoch"""
    check_val_every_n_epoch: int | None = 1
    """validate every so many epochs"""
    num_sanity_val_steps: int = 0
    """validation batches before training starts"""
    log_every_n_steps: int = 50
    """steps between rows of a logger's step metrics"""
    accumulate_grad_batches: int = 1
    """batches per optimizer step"""
    gradient_clip_val: float | None = None
    """largest norm (or value) of the gradient"""
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    """what gradient_clip_val limits; unset: norm"""
    deterministic: bool | Literal["warn"] | None = None
    """only deterministic GPU kernels (slower); on CPU a seed always gives the same run"""
    benchmark: bool | None = None
    """let cuDNN choose its kernels by timing them"""
    sync_batchnorm: bool = False
    """BatchNorm over the batches of all processes"""
    inference_mode: bool = True
    """torch.inference_mode in validation and test"""
    profiler: str | None = None
    """simple, advanced, pytorch"""
    detect_anomaly: bool = False
    """trace where a NaN gradient comes from (slow)"""
    enable_progress_bar: bool | None = None
    """unset: on a terminal only"""
    enable_model_summary: bool = False
    """print Lightning's table of layers"""


@dataclass(kw_only=True)
class FinetuneConfig:
    """Run"""

    backbone: str = "lite0"
    """b0 ... b8, l2, lite0 ... lite4, v2-b0 ... v2-xl, mobilenet-v1, mobilenet-v2, resnet50; scaled: b0@phi=1.5; with
    other blocks: b0@blocks=r1_k3_e1_se0.25-...; or the import path of a function of your own (called with depth, width
    and resolution), scaled too: my_net.build@phi=1"""
    dataset: str = "digits"
    """digits, folder, cifar10, cifar100, birdsnap, cars, flowers, aircraft, pets, food101"""
    data_root: str | None = None
    """the hub's files (DIR/uoft-cs/cifar10/...) or the authors' archive, extracted; for folder: your own data"""
    protocol: str | None = None
    """published settings in place of the defaults: kornblith, paper, sam-paper, efficientnetv2, scratch, ..."""
    recipe: Literal["none", "auto"] = "none"
    """auto: chooses what depends on the size of the data, says why, and leaves alone what you set"""
    pretrained: bool | str = True
    """true: the best of ImageNet-1k; false: random; paper: nearest its transfer table; or a row's or family's name"""
    init_from: str | None = None
    """start from what overlaps of another backbone's weights (b2, or a row's name), in place of pretrained"""
    weights: str | None = None
    """file to read in place of the weights' own source; pretrained says what it was trained like"""
    image_size: int | None = None
    """side of the square input, in pixels; unset: the dataset's, else the weights'"""
    augment: Augment = "basic"
    """none: as in evaluation; basic: random resized crop and flip; the others add to basic"""
    on_bad_image: Literal["error", "skip"] = "error"
    """what an unreadable image does: stop with all their names, or be left out and counted"""
    allow_decayed: bool = False
    """train on the images that are left of birdsnap; results then say how many"""
    init_head: str | None = None
    """folder of a run on the same classes and backbone, a probe's for example, whose head this one starts as"""
    head: str = "linear"
    """linear, mlp, cosine, or the import path of your own (called with num_features, num_classes, dropout)"""
    dropout: float | None = None
    """before the last layer, 0 to below 1; unset: the backbone's published rate"""
    stochastic_depth_prob: float = 0.2
    """probability of dropping the last residual branch, 0 to below 1; a function of your own decides for itself"""
    grad_checkpointing: bool = False
    """less memory for more time"""
    bn: Literal["adapt", "frozen", "recompute", "train"] = "adapt"
    """BatchNorm statistics: at the run's pace; unmoved; re-estimated before validation; at the weights' own pace"""
    freeze: str = "none"
    """none, backbone (only the head learns), or 'until-epoch N'"""
    ema_half_life: float | None = None
    """average the weights with this half-life, as a fraction of the run (typical 0.05); unset: off"""
    early_stopping: int | None = None
    """stop after so many validations without a better result; unset: off"""
    find_lr: bool = False
    """run Lightning's learning-rate finder first and use what it suggests"""
    compile: bool = False
    """torch.compile the network"""
    logger: Literal["csv", "tensorboard", "wandb"] = "csv"
    """metrics.csv is always written; tensorboard and wandb come on top (wandb works offline: WANDB_MODE=offline)"""
    seed: int = 0
    """of order, augmentation, dropout and the head's start; the splits are the same for every seed"""
    out_dir: str | None = None
    """folder of the run, new or empty; unset: runs/<dataset>_<backbone>/<n>"""
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionary of plain types, the content of `config.yaml`."""
        return dataclasses.asdict(self)

    def read_options(self) -> dict[str, Any]:
        """Arguments of `datamodules.load_dataset`: everything that decides which images and labels there are."""
        data = {name: value for name, value in dataclasses.asdict(self.data).items() if name not in _LOADER_FIELDS}
        return {
            "data_root": self.data_root,
            "on_bad_image": self.on_bad_image,
            "allow_decayed": self.allow_decayed,
            **data,
        }

    def loader_options(self) -> dict[str, Any]:
        """Arguments of `datamodules.datamodule.DataModule` besides the dataset and the preprocessing."""
        data = {name: getattr(self.data, name) for name in _LOADER_FIELDS}
        return {"augment": self.augment, "seed": self.seed, **data}

    def start_options(self) -> dict[str, Any]:
        """Return the arguments of `transfer.weights.start.resolve_start` besides the sizes."""
        return {
            "backbone": self.backbone,
            "pretrained": self.pretrained,
            "init_from": self.init_from,
            "weights": self.weights,
        }

    def network_options(self) -> dict[str, Any]:
        """Return the arguments of `transfer.weights.build.classifier_from` besides the start and the classes."""
        return {
            "head": self.head,
            "dropout": self.dropout,
            "stochastic_depth_prob": self.stochastic_depth_prob,
            "grad_checkpointing": self.grad_checkpointing,
        }

    def module_options(self) -> dict[str, Any]:
        """Arguments of `transfer.TransferModule` besides the classifier and the class weights."""
        return {
            "multilabel": self.data.multilabel,
            "loss": self.loss.name,
            "label_smoothing": self.loss.label_smoothing,
            "mixup_alpha": self.loss.mixup_alpha,
            "cutmix_alpha": self.loss.cutmix_alpha,
            "bn": self.bn,
            "optimizer": self.optim.name,
            **{name: value for name, value in dataclasses.asdict(self.optim).items() if name != "name"},
        }

    def frozen_epochs(self) -> int | None:
        """Epochs for which the backbone is frozen: 0 for `none`, None (all) for `backbone`, N for `until-epoch N`."""
        match = FREEZE.fullmatch(self.freeze)
        assert match is not None, self.freeze
        if match[1] is None:
            return 0 if self.freeze == "none" else None
        return int(match[1])


# The fields of FinetuneConfig that a linear probe has too: nothing is augmented or trained but one linear layer.
PROBE_FIELDS = (
    *("backbone", "dataset", "data_root", "pretrained", "weights", "image_size", "on_bad_image", "allow_decayed"),
    *("seed", "out_dir", "data"),
)
PROBE_TRAINER_FIELDS = ("accelerator", "devices", "num_nodes", "strategy", "precision")


@dataclass(kw_only=True)
class ProbeConfig:
    """Probe"""

    feature_dtype: Literal["float32", "bfloat16"] = "float32"
    """of the features' file in --data.cache_dir; bfloat16 takes half the space"""
    beside: str | None = None
    """fine-tuned run whose accuracy is printed beside the probe's; unset: the last one in runs/<dataset>_<backbone>/"""
