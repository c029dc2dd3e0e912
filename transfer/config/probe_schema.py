"""The schema of a linear probe: its own fields, and those of a run that it shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Fields of FinetuneConfig that a linear probe shares; it trains a single linear layer.
PROBE_FIELDS = (
    *("backbone", "dataset", "data_root", "pretrained", "weights", "image_size", "on_bad_image", "allow_decayed"),
    *("seed", "report", "out_dir", "data"),
)
PROBE_TRAINER_FIELDS = ("accelerator", "devices", "num_nodes", "strategy")


def is_probe_field(name: str) -> bool:
    """Return whether a linear probe has a dotted field of FinetuneConfig."""
    group, _, field = name.partition(".")
    return field in PROBE_TRAINER_FIELDS if group == "trainer" else group in PROBE_FIELDS


@dataclass(kw_only=True)
class ProbeConfig:
    """Probe"""

    engine: str = "auto"
    """what computes the features: auto (the fastest installed one that agrees with float32 on 64 images), torch,
    torch-bf16, openvino, openvino-bf16, openvino-int8, onnxruntime"""
    features: Literal["auto", "last", "stages"] = "auto"
    """what the head sees: last (the pooled last map), stages (those of the last three stages, too: head stages of
    finetune), auto (that with which ridge regression predicts better)"""
    logit_adjustment: bool | Literal["auto"] = "auto"
    """subtract the logarithm of each class's share of the images from the head's logits, so that every class counts the
    same; auto: if data.metric, or what the literature quotes for the dataset, is mean_per_class"""
    views: int = 1
    """views of each training image: itself, then randomly cropped and flipped ones; on clothing photos no gain"""
    feature_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """type of the features in their file in --data.cache_dir; float32 takes twice the space for the same optimum"""
    beside: str | None = None
    """fine-tuned run to print beside the probe; unset: the last one of the same data in runs/"""
