"""The schema of a choice among networks: its own fields, and those of a run that it shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transfer.config.durations import parse_duration

CHOOSE_FIELDS = ("dataset", "data_root", "on_bad_image", "allow_decayed", "seed", "out_dir", "data")
CHOOSE_TRAINER_FIELDS = ("accelerator",)
METHODS = "probe", "lpft"
MOST_SETTINGS = 6  # of a search


@dataclass(kw_only=True)
class ChooseConfig:
    """Choice"""

    # Small enough for a laptop's processor and for 8 bits, and their weights come by pip, in the extra `lite`.
    backbones: str = "lite0,lite1,lite2"
    """networks to try, separated by commas; those whose weights cannot be had here are left out"""
    image_sizes: str | None = None
    """sides of the square input to try with each network, in pixels, separated by commas; unset: the dataset's, or else
    the weights'"""
    folds: int = 5
    """folds of the cross-validation; with fewer images of every class, or groups, as many as those allow"""
    repeats: int = 1
    """independent draws of the folds, 1 to 100"""
    methods: str = ",".join(METHODS)
    """what to compare on the network that is taken: probe, or probe,lpft: a linear probe and a fine-tuning from it"""
    budget: str = "15m"
    """time for all of it, as 90s, 10m or 1h30m; it decides on how many folds lpft is tried, if on any"""
    search: int = 0
    """settings of rate and weight decay to try for lpft, 2 to 6, the rule's among them, by successive halving on the
    first fold, which then chooses and does not compare; 0: the rule's alone"""
    search_dir: str | None = None
    """folder of the search; choices on the same images, on several machines, that name the same one share its runs;
    unset: search in the folder of the choice"""
    logit_adjustment: bool | Literal["auto"] = "auto"
    """subtract the logarithm of each class's share of the images from the heads' logits, so that every class counts the
    same; auto: if data.metric, or what the literature quotes for the dataset, is mean_per_class"""
    max_latency_ms: float | None = None
    """most milliseconds that a network may take for one image on this machine"""
    max_params: str | None = None
    """most parameters of a network, as 10M"""
    max_macs: str | None = None
    """most multiply-adds for one image, as 1G"""
    learning_curve: bool = False
    """also measure how accuracy grows with the images, and extrapolate it to two and four times as many"""
    engine: str = "auto"
    """what computes the features: auto (the fastest installed one that agrees with float32 on 64 images), torch,
    torch-bf16, openvino, openvino-bf16, openvino-int8, onnxruntime"""

    @property
    def names(self) -> list[str]:
        """The backbones, each once."""
        return list(dict.fromkeys(name.strip() for name in self.backbones.split(",")))

    @property
    def sizes(self) -> list[int | None]:
        """The image sizes, each once; None for a network's own.

        Raises:
            ValueError: one of them is not a whole number.
        """
        if self.image_sizes is None:
            return [None]
        return list(dict.fromkeys(int(size) for size in str(self.image_sizes).split(",")))

    @property
    def tries_lpft(self) -> bool:
        """Whether fine-tuning from the probe is compared with it."""
        return "lpft" in self.method_names

    @property
    def method_names(self) -> list[str]:
        """The methods, each once."""
        return list(dict.fromkeys(name.strip() for name in self.methods.split(",")))

    @property
    def budget_seconds(self) -> float:
        """The time for all of it, in seconds.

        Raises:
            BadValue: it is none.
        """
        return parse_duration(self.budget, "budget")
