"""What is known of public weights, in words."""

from __future__ import annotations

from typing import Any

from transfer.errors import UserError
from transfer.networks.efficientnet import VARIANTS
from transfer.networks.registry import get_variant
from transfer.networks.rows import Variant
from transfer.weights.downloads import address, find_weights, source
from transfer.weights.first_seen import first_sha256
from transfer.weights.rows import FAMILIES, WeightsRow, family_row, format_rgb, select_weights


def describe(row: WeightsRow) -> dict[str, Any]:
    """Return the facts of a row for a list: name, backbone, size, accuracy, family, licence, and whether it is here."""
    variant = get_variant(row.backbone)
    return {
        "name": row.name,
        "backbone": row.backbone,
        "image_size": row.preprocessing.image_size,
        "top1": row.top1,
        "family": row.family,
        "extra_data": row.extra_data,
        "megabytes": round(megabytes(row, variant), 1),
        "license": row.license,
        "on_this_machine": find_weights(row) is not None,
        "picked_by": picked_by(row, variant),
    }


def megabytes(row: WeightsRow, variant: Variant) -> float:
    """Return the size of the parameters in megabytes, four bytes each, which is about that of the file."""
    classifier = (variant.num_features + 1) * (row.num_classes - 1000)
    return (variant.num_parameters + classifier) * 4 / 1e6


def picked_by(row: WeightsRow, variant: Variant) -> list[str]:
    """Return which of `true` and `paper`, given as `pretrained`, mean this row."""
    picked = []
    for shown, pretrained in (("true", True), ("paper", "paper")):
        try:
            if select_weights(variant, pretrained) == row:
                picked.append(shown)
        except UserError:
            continue  # nothing is picked for this backbone
    return picked


def row_details(row: WeightsRow) -> dict[str, str]:
    """Return everything about a row, in words."""
    variant = get_variant(row.backbone)
    path = find_weights(row)
    return {
        "name": row.name,
        "backbone": row.backbone,
        "family": f"{row.family} ({FAMILIES[row.family]})",
        "source": source(row),
        "sha256": hash_details(row),
        "on this machine": "no" if path is None else str(path),
        "size": f"about {megabytes(row, variant):.0f} MB",
        "licence": row.license,
        "training data": row.trained_on,
        "classes": str(row.num_classes),
        "top-1": top1_details(row),
        **image_details(row),
        **layer_details(row),
    }


def hash_details(row: WeightsRow) -> str:
    """Return the published hash, or how the file is checked without a whole one."""
    path = find_weights(row)
    first = first_sha256(address(row, path)) if path is not None else None
    seen = f"; first seen here with {first}" if first else ""
    if row.sha256 is None:
        return f"none published; checked against the one that the hub states{seen}"
    if row.hub_id is not None and row.hub_id in source(row):
        return f"from this mirror checked against the one that it states; of the release file: {row.sha256}...{seen}"
    return row.sha256 if len(row.sha256) == 64 else f"{row.sha256}... (the published start){seen}"


def top1_details(row: WeightsRow) -> str:
    """Return the published accuracy, and how its images were prepared."""
    if row.top1 is None:
        return "not published"
    whose = " (of TensorFlow's original)" if row.package else ""
    return f"{row.top1}% at {row.preprocessing.image_size} px, crop ratio {row.preprocessing.crop_ratio:.4g}{whose}"


def image_details(row: WeightsRow) -> dict[str, str]:
    """Return how images are prepared for a row."""
    images = row.preprocessing
    sides = "both sides" if images.resize == "squash" else "the short side"
    return {
        "image size": f"{images.image_size} px",
        "crop": f"{images.crop_ratio:.4g} ({sides} resized to {images.image_size / images.crop_ratio:.0f} px)",
        "interpolation": images.interpolation,
        "mean": format_rgb(images.mean),
        "std": format_rgb(images.std),
    }


def layer_details(row: WeightsRow) -> dict[str, str]:
    """Return the settings of a row's layers."""
    settings = row.settings
    return {
        "padding": settings.padding,
        "BatchNorm": f"epsilon {settings.bn_eps:g}, momentum {settings.bn_momentum:g} (torch's convention)",
        "activation": settings.activation,
    }


def family_details(family: str) -> dict[str, str]:
    """Return the settings of a family, in words, by the names of the backbones that share them."""
    groups: dict[str, list[str]] = {}
    for variant in VARIANTS.values():
        row = family_row(family, variant)
        images = {name: text for name, text in image_details(row).items() if name in ("mean", "std")}
        details = ", ".join(f"{name} {text}" for name, text in {**layer_details(row), **images}.items())
        groups.setdefault(details, []).append(variant.name)
    return {" ".join(names): details for details, names in groups.items()}
