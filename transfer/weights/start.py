"""Where a network starts: which variant, which weights, and how its images are prepared. Decided once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transfer.errors import BadValue
from transfer.files import expanded
from transfer.networks.function import FunctionVariant
from transfer.networks.registry import ALL_VARIANTS, get_backbone, get_variant
from transfer.networks.rows import Variant
from transfer.networks.scaling import scale_phi
from transfer.networks.warm_start import is_within, same_blocks
from transfer.preprocessing import IMAGENET, Preprocessing, released_crop_ratio
from transfer.weights.downloads import starting_point
from transfer.weights.rows import FAMILIES as WEIGHTS_FAMILIES
from transfer.weights.rows import WEIGHTS, WeightsRow, family_row, list_weights, select_weights


@dataclass(frozen=True)
class Start:
    """Where a network starts.

    Attributes:
        variant: the network.
        row: the weights it starts from; None for random ones.
        preprocessing: how its images are prepared.
        weights: local file that is read in place of the row's own source.
        is_warm: whether only the tensors that overlap with the row's backbone are copied (`init_from`).
        row_was_named: whether the user named the row instead of taking a default.
    """

    variant: Variant | FunctionVariant
    row: WeightsRow | None
    preprocessing: Preprocessing
    weights: Path | None = None
    is_warm: bool = False
    row_was_named: bool = False

    def provenance(self) -> dict[str, Any] | None:
        """Return what results state about the weights (name, source, sha256, training data); None for random ones."""
        return starting_point(self.row, self.weights, get_variant(self.row.backbone)) if self.row else None

    def describe(self) -> str:
        """Return the weights in words: their name and what they were trained on."""
        weights = self.provenance()
        return f"{weights['name']}, trained on {weights['trained_on']}" if weights else "random weights"


def resolve_start(
    backbone: str,
    pretrained: bool | str = False,
    init_from: str | None = None,
    weights: str | Path | None = None,
    *,
    phi: float | None = None,
    dataset_size: int | None = None,
    image_size: int | None = None,
) -> Start:
    """Return where a network starts; nothing is read or downloaded.

    Args:
        backbone, pretrained, init_from, weights, phi: as in `transfer.build_backbone`.
        dataset_size: image size of the dataset in pixels, in place of the network's own; a scaled network scales it.
        image_size: image size in pixels that overrides all others.

    Raises:
        UserError: a name is unknown, the weights do not exist, or `init_from` is a network with other blocks.
    """
    variant = get_backbone(backbone) if phi is None else scale_phi(get_backbone(backbone), phi)
    row = _select_row(variant, pretrained, init_from)
    if row is None and weights is not None:
        raise BadValue(f"`weights`={str(weights)!r} with `pretrained`=False: say how the file was trained")
    preprocessing = _preprocessing(variant, row, dataset_size)
    return Start(
        variant,
        row,
        preprocessing if image_size is None else replace(preprocessing, image_size=image_size),
        None if weights is None else expanded(weights),
        is_warm=init_from is not None,
        row_was_named=pretrained is not True and (row is None or init_from != row.backbone),
    )


def _select_row(
    variant: Variant | FunctionVariant, pretrained: bool | str, init_from: str | None = None
) -> WeightsRow | None:
    """Return the weights from which a variant starts; None for random ones."""
    if isinstance(variant, FunctionVariant):
        if init_from is not None or pretrained is not False:
            given = f"pretrained={pretrained!r}" if init_from is None else f"init_from={init_from!r}"
            raise BadValue(
                f"{given}: {variant.name} is a function of your own, and no weights of it are known here: use"
                " pretrained=False without init_from for random weights"
            )
        return None
    if init_from is None:
        if variant.origin is not None and pretrained is not False and pretrained not in WEIGHTS_FAMILIES:
            nearest = nearest_published(variant)
            raise BadValue(
                f"pretrained={pretrained!r}: {variant.name} has channels and blocks of its own, and no checkpoint fits:"
                " use pretrained=False for random weights"
                + (f", or init_from={nearest!r} to copy the weights that overlap" if nearest else "")
            )
        return select_weights(variant, pretrained)
    if isinstance(pretrained, str):
        raise BadValue(f"pretrained={pretrained!r} with init_from={init_from!r}: name the row in init_from alone")
    row = WEIGHTS.get(init_from)
    source = get_variant(row.backbone if row else init_from)
    if not same_blocks(variant, source):
        fitting = [name for name, other in ALL_VARIANTS.items() if same_blocks(variant, other)]
        allowed = f"{', '.join(fitting)}, or a row of their weights" if fitting else "nothing; leave it out"
        raise BadValue(
            f"init_from={init_from!r}: {source.name} is built of other blocks than {variant.name} (allowed: {allowed})"
        )
    if not list_weights(source.name):
        raise BadValue(f"init_from={init_from!r}: no public weights of {source.name} are known here")
    return row or select_weights(source, True)


def nearest_published(variant: Variant) -> str | None:
    """Return the best backbone for `init_from`, or None.

    It is the largest one with public weights no part of which is larger than the variant's, or else the smallest with
    the same blocks.
    """
    fitting = [v for name, v in ALL_VARIANTS.items() if same_blocks(variant, v) and list_weights(name)]
    fitting.sort(key=lambda v: v.num_macs)
    smaller = [v for v in fitting if is_within(v, variant)]
    best = smaller[-1:] or fitting[:1]
    return best[0].name if best else None


def _preprocessing(
    variant: Variant | FunctionVariant, row: WeightsRow | None, dataset_size: int | None = None
) -> Preprocessing:
    """Return the row's preprocessing, at the variant's own resolution if the row belongs to another backbone.

    A network with random weights gets its family's preprocessing; a network of the user's function gets b0's
    normalisation and crop.
    """
    size = variant.resolution
    if isinstance(variant, FunctionVariant):
        preprocessing = Preprocessing(size, released_crop_ratio(size), "bicubic", *IMAGENET)
    else:
        preprocessing = (row or family_row("tensorflow", variant)).preprocessing
        size = preprocessing.image_size if row is None or row.backbone == variant.name else size
    if dataset_size is not None:
        size = dataset_size if variant.scale is None else variant.scale.pixels(dataset_size)
    return replace(preprocessing, image_size=size)
