"""The schema of a run: typed dataclasses, the only place where defaults are defined."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from transfer.config.data_schema import LOADER_FIELDS, DataConfig

FREEZE = re.compile(r"none|backbone|until-epoch[ =-]?(\d+)")

Logger = Literal["csv", "tensorboard", "wandb", "mlflow"]
Augment = Literal["none", "basic", "randaugment", "trivialaugment", "autoaugment", "cutout"]
Monitor = Literal["loss", "top1", "top5", "mean_per_class", "ece", "map", "map_11", "f1", "exact_match"]


@dataclass(kw_only=True)
class LossConfig:
    """Loss and mixing"""

    name: Literal["cross_entropy", "bce"] = "cross_entropy"
    """cross_entropy, or bce: binary cross-entropy for each class"""
    label_smoothing: float = 0.1
    """share of the target that is spread over all classes, 0 to below 1"""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced weights the classes equally in the loss, by their counts in the train split"""
    logit_adjustment: bool = False
    """add the logarithm of each class's share of train to the logits in the loss, so that the answers are those of
    equally frequent classes; for the mean of the classes' accuracies"""
    mixup_alpha: float = 0.0
    """alpha of mixup's Beta(alpha, alpha); 0: off; typically 0.2"""
    cutmix_alpha: float = 0.0
    """alpha of CutMix's Beta(alpha, alpha); 0: off; typically 1.0"""


@dataclass(kw_only=True)
class DistillConfig:
    """What is learned from a teacher"""

    weight: float = 0.5
    """share of the teacher's part in the loss, above 0 to 1; the labels' part has the rest"""
    temperature: float = 2.0
    """what divides the logits of teacher and student before they are compared, 0.1 to 100"""


@dataclass(kw_only=True)
class OptimConfig:
    """Optimizer and schedule"""

    name: Literal["sgd", "adamw", "rmsprop"] = "sgd"
    """sgd with Nesterov momentum, adamw, or rmsprop as in TensorFlow (the paper's)"""
    lr: float = 0.02
    """peak learning rate of the head, for the whole batch of all processes and accumulated steps"""
    momentum: float = 0.9
    """momentum of sgd and rmsprop, 0 to below 1"""
    weight_decay: float = 1e-5
    """weight decay of weights, at least 0; norms and biases get none"""
    backbone_lr_factor: float = 1.0
    """learning rate of the backbone relative to the head's"""
    layer_decay: float = 1.0
    """learning rate of each stage relative to that of the next stage, above 0 to 1"""
    schedule: Literal["cosine", "exponential", "step-30-60-90", "step-40-60-80", "constant"] = "cosine"
    """cosine to zero; exponential to 0.012 of the peak: the paper's x0.97 every 2.4 of 350 epochs, over any run;
    step-...: x0.1 after each of these percentages of the run"""
    warmup_epochs: float = 0.5
    """length of the linear warm-up, in epochs"""
    sam_rho: float | None = None
    """neighbourhood radius of sharpness-aware minimization (typically 0.05), two passes per step; unset: off"""


# Lightning's arguments that are left out: logger, callbacks, enable_checkpointing and default_root_dir (a run writes
# its own files), plugins and model_registry (objects), fast_dev_run and barebones (they disable the results),
# use_distributed_sampler and reload_dataloaders_every_n_epochs (the datamodule shards and resumes by itself),
# limit_predict_batches and enable_autolog_hparams (not used here).
@dataclass(kw_only=True)
class TrainerConfig:
    """PyTorch Lightning's Trainer"""

    max_epochs: int = 10
    """passes over the training images; -1 if max_steps sets the length"""
    accelerator: str = "auto"
    """auto, cpu, gpu, mps, tpu"""
    devices: int | str | list[int] = "auto"
    """number of devices, list of indices, or auto"""
    num_nodes: int = 1
    """number of machines"""
    strategy: str = "auto"
    """auto, ddp, ddp_spawn, ddp_find_unused_parameters_true, ..."""
    precision: str = "auto"
    """auto (bf16-mixed where the GPU supports it; on a CPU that computes bf16, training steps from 64 px on; else
    32-true), 32-true, bf16-mixed, 16-mixed, ..."""
    max_steps: int = -1
    """largest number of optimizer steps; -1: no limit"""
    min_epochs: int | None = None
    """epochs before early stopping may end the run"""
    min_steps: int | None = None
    """optimizer steps before early stopping may end the run"""
    max_time: str | None = None
    """time after which training ends, as DD:HH:MM:SS"""
    limit_train_batches: int | float | None = None
    """batches per epoch: a number, or a share such as 0.1"""
    limit_val_batches: int | float | None = None
    """validation batches: a number, or a share"""
    limit_test_batches: int | float | None = None
    """test batches: a number, or a share"""
    overfit_batches: int | float = 0.0
    """train on the same few batches in every epoch, to check that the network can learn them: a number, or a share"""
    val_check_interval: int | float | None = None
    """number of batches, or share of an epoch, between validations"""
    check_val_every_n_epoch: int | None = 1
    """number of epochs between validations"""
    num_sanity_val_steps: int = 0
    """validation batches to run before training starts"""
    log_every_n_steps: int = 50
    """steps between logged step metrics"""
    accumulate_grad_batches: int = 1
    """batches per optimizer step"""
    gradient_clip_val: float | None = None
    """largest norm (or value) of the gradient"""
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    """what gradient_clip_val limits; unset: norm"""
    deterministic: bool | Literal["warn"] | None = None
    """use deterministic GPU kernels only (slower); on CPU, runs with the same seed are always identical"""
    benchmark: bool | None = None
    """let cuDNN choose its kernels by timing them"""
    sync_batchnorm: bool = False
    """compute BatchNorm's statistics over the batches of all processes"""
    inference_mode: bool = True
    """use torch.inference_mode in validation and test"""
    profiler: str | None = None
    """simple, advanced or pytorch; unset: off"""
    detect_anomaly: bool = False
    """trace where a NaN gradient comes from (slow)"""
    enable_progress_bar: bool | None = None
    """show a progress bar; unset: on a terminal only"""
    enable_model_summary: bool = False
    """print Lightning's table of layers"""


@dataclass(kw_only=True)
class FinetuneConfig:
    """Run"""

    backbone: str = "lite0"
    """b0 ... b8, l2, lite0 ... lite4, v2-b0 ... v2-xl, mobilenet-v1, mobilenet-v2, resnet50; scaled: b0@phi=1.5; with
    other blocks: b0@blocks=r1_k3_e1_se0.25-...; or the import path of your own function (called with depth, width and
    resolution), which can be scaled too: my_net.build@phi=1"""
    dataset: str = "digits"
    """digits, folder, cifar10, cifar100, birdsnap, cars, flowers, aircraft, pets, food101, dtd, caltech101,
    eurosat, sun397, voc2007, inat2018; with data_root: folder"""
    data_root: str | None = None
    """your images: class folders, a CSV or parquet file, a save_to_disk folder; for a named dataset the hub's files
    (DIR/uoft-cs/cifar10/...) or the authors' extracted archive"""
    protocol: str | None = None
    """published settings in place of the defaults: kornblith, paper, sam-paper, efficientnetv2, bit-hyperrule, vtab-1k,
    scratch, ..."""
    method: Literal["full", "lpft", "probe"] | None = None
    """full, lpft or probe; full: fine-tune all from a new head; lpft: from the head of a linear probe, gently, with
    settings of its own; probe: that head alone, as `efficientnet-transfer probe` does; unset: what the recipe chooses,
    or full"""
    recipe: Literal["none", "auto"] | None = None
    """auto: choose the method and settings by the size of the data and print the reasons; fields that you set stay
    unchanged; unset: auto for up to 5,000 training images of your own, if you set neither optim.name nor optim.lr"""
    pretrained: bool | str = True
    """true: the best trained on ImageNet-1k; false: random; paper: closest to its transfer table; or a row or family"""
    init_from: str | None = None
    """backbone (b2) or row whose weights to start from as far as they overlap; or the folder of a run"""
    weights: str | None = None
    """file to read in place of the weights' own source, trained as pretrained says; or a run's folder, with its head"""
    global_batch_size: int | None = None
    """images per step over all processes, divided among them: data.batch_size at most at once, the rest accumulated;
    unset: data.batch_size x processes x trainer.accumulate_grad_batches"""
    image_size: int | None = None
    """side of the square input, in pixels; unset: the dataset's, or else the weights'"""
    progressive: int | None = None
    """side of the training images at first, in pixels; they grow to image_size in four stages, and RandAugment, mixup,
    CutMix and dropout with them (EfficientNetV2: 128); evaluation is at image_size; unset: off"""
    augment: Augment = "basic"
    """random changes of the training images; none: as in evaluation; basic: random resized crop and flip; the others
    add to basic"""
    on_bad_image: Literal["error", "skip"] = "error"
    """unreadable images: stop and list them all, or leave them out and count them"""
    allow_decayed: bool = False
    """train on the images of birdsnap that are still available; results then say how many"""
    init_head: str | None = None
    """folder of a run with the same classes and backbone, for example a probe, whose head to start from"""
    teacher: str | None = None
    """folder of a finished run with the same classes, whose answers to learn from, too (Hinton et al. 2015)"""
    head: str = "linear"
    """linear, mlp, cosine, stages (linear, on the pooled maps of the last three stages, too), or your own by its import
    path (called with num_features, num_classes, dropout)"""
    dropout: float | None = None
    """dropout before the last layer, 0 to below 1; unset: the backbone's published rate"""
    stochastic_depth_prob: float = 0.2
    """probability of dropping the last residual branch, 0 to below 1; your own function handles it itself"""
    grad_checkpointing: bool = False
    """recompute activations in the backward pass: less memory, more time"""
    bn: Literal["adapt", "frozen", "recompute", "train"] = "adapt"
    """BatchNorm statistics: adapt to the run; frozen (folded into the convolutions: least memory); recompute before
    validation; train at the weights' own pace"""
    freeze: str = "none"
    """none, backbone (train only the head), or 'until-epoch N'"""
    ema_half_life: float | None = None
    """average the weights with this half-life, as a fraction of the run (typically 0.05); unset: off"""
    monitor: Monitor | None = None
    """metric on val that chooses best.ckpt and stops early; of equals the lower loss is better; unset: data.metric,
    top1 or map"""
    early_stopping: int | None = None
    """stop after this many validations in a row without a better one, by monitor; unset: off"""
    find_lr: bool = False
    """take the peak learning rate from up to 100 steps of a copy at rising rates (Smith 2017): where the loss falls
    fastest; lr_find.png shows the curve. It finds the order of magnitude, not the best rate: on 300 photos and 50 steps
    it came 3 (sgd) and 5 points (adamw) below the best of several rates, which is the default's for sgd"""
    compile: bool = False
    """compile the network with torch.compile"""
    logger: Logger = "csv"
    """metrics.csv is always written; tensorboard, wandb (offline: WANDB_MODE=offline) and mlflow log in addition"""
    log_photos: bool = False
    """let W&B or MLflow have photos, too: small copies of the 32 that the network is most wrong about, and report.html,
    which shows some; without it no pixel leaves this machine"""
    log_model: bool = False
    """keep the trained network in W&B or MLflow, too: the files of the run's folder that predict and export need"""
    report: bool = True
    """write report.html at the end, with small copies of a few photos; a run that reads no test writes none"""
    folds: int | None = None
    """cut train and val, together, anew into so many folds; stratified, groups and equal images together; without
    fold, a run for each, in runs/<data>_<backbone>_folds/<n>"""
    fold: int | None = None
    """with folds: the one that is val, from 0; the others are train"""
    seed: int = 0
    """seed of image order, augmentation, dropout and the head's initialisation; splits are the same for every seed"""
    out_dir: str | None = None
    """folder of the run, new or empty; unset: runs/<dataset, or name of data_root>_<backbone>/<n>"""
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def to_dict(self) -> dict[str, Any]:
        """Return a nested dictionary of plain types, the content of `config.yaml`."""
        return dataclasses.asdict(self)

    def read_options(self) -> dict[str, Any]:
        """Return the arguments of `datamodules.load_dataset`: all that decides which images and labels are read."""
        data = {name: value for name, value in dataclasses.asdict(self.data).items() if name not in LOADER_FIELDS}
        return {
            "data_root": self.data_root,
            "on_bad_image": self.on_bad_image,
            "allow_decayed": self.allow_decayed,
            "folds": self.folds,
            "fold": self.fold,
            **data,
        }

    def loader_options(self) -> dict[str, Any]:
        """Return the arguments of `datamodules.datamodule.DataModule` besides the dataset and the preprocessing."""
        data = {name: getattr(self.data, name) for name in LOADER_FIELDS}
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
        """Return the arguments of `transfer.TransferModule` besides the classifier and what holds a value per class."""
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
        """Return the epochs with a frozen backbone: 0 for `none`, N for `until-epoch N`, None (all) for `backbone`."""
        match = FREEZE.fullmatch(self.freeze)
        assert match is not None, self.freeze
        if match[1] is None:
            return 0 if self.freeze == "none" else None
        return int(match[1])


# Fields of FinetuneConfig and ProbeConfig that hold paths, besides data.cache_dir.
PATH_FIELDS = frozenset(("data_root", "weights", "init_head", "teacher", "out_dir", "beside"))
