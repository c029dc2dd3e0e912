"""A network described by its blocks: `b0@blocks=r1_k3_e1_se0.25-r2_k3_e6_se0.25-...`, one part per stage.

The notation is that of the released code's BlockDecoder (tensorflow/tpu efficientnet_builder.py): each part gives a
stage's number of blocks (r), kernel size (k), expansion ratio (e) and squeeze-excitation ratio (se; without it there is
no squeeze-excitation). Everything else comes from the baseline: channels, strides, kind of block, stem, top layer and
resolution.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from transfer.errors import BadValue
from transfer.networks.rows import StageRow, Variant

BLOCKS = "blocks="
_OPTION = re.compile(r"([rke])([0-9]{1,2})|(se)([01](?:\.[0-9]{1,2})?)")
_KERNELS = (3, 5, 7)
_MOST_EXPANSION = 10
_ALLOWED = (
    f"r 1 to 99, k {', '.join(map(str, _KERNELS))}, e 1 to {_MOST_EXPANSION}, se 0 to 1 in steps of 0.01, joined by '_'"
)


def format_blocks(stages: Sequence[StageRow]) -> str:
    """Return the stages' blocks in this notation: `r1_k3_e1_se0.25-r2_k3_e6_se0.25-...`."""
    return "-".join(
        f"r{row.repeats}_k{row.kernel_size}_e{row.expand_ratio}" + (f"_se{row.se_ratio:g}" if row.se_ratio else "")
        for row in stages
    )


def with_blocks(baseline: Variant, text: str) -> Variant:
    """Return the baseline with other blocks, named `BASELINE@blocks=...`, or unchanged if it has these blocks already.

    Args:
        baseline: a row of the tables with coefficients 1, built of MBConv or fused blocks.
        text: one part per stage, joined by `-`; the options within a part may come in any order.

    Raises:
        UserError: a baseline that cannot take blocks, or an invalid stage.
    """
    given = f"backbone {baseline.name}@{BLOCKS}..."
    stages = baseline.baseline.stages
    if {row.operator for row in stages} - {"mbconv", "fused"}:
        raise BadValue(f"{given}: {baseline.name} is not made of MBConv blocks (allowed: b0, lite0, v2-b0, ...)")
    if baseline.origin is not None or (baseline.width_coefficient, baseline.depth_coefficient) != (1.0, 1.0):
        raise BadValue(f"{given}: {baseline.name} is no baseline (write b0@{BLOCKS}...,phi=1 for a scaled network)")
    parts = text.split("-")
    if len(parts) != len(stages):
        raise BadValue(
            f"{given}: {len(parts)} stages (needed: {len(stages)}, joined by '-', as {baseline.name}'s own:"
            f" {format_blocks(stages)})"
        )
    rows = tuple(
        _parse_stage(part, row, f"{given}: stage {number}")
        for number, (part, row) in enumerate(zip(parts, stages, strict=True), start=1)
    )
    if rows == stages:
        return baseline
    return replace(
        baseline,
        name=f"{baseline.name}@{BLOCKS}{format_blocks(rows)}",
        num_parameters=0,
        num_macs=0,
        baseline=replace(baseline.baseline, stages=rows),
        origin=baseline,
    )


def _parse_stage(part: str, row: StageRow, where: str) -> StageRow:
    values: dict[str, float] = {}
    for option in part.split("_"):
        match = _OPTION.fullmatch(option)
        key, number = (match[1] or match[3], match[2] or match[4]) if match else (option, "0")
        if match is None or key in values:
            raise BadValue(f"{where}, {part!r}: {option!r} is unknown or given twice (allowed: {_ALLOWED})")
        values[key] = float(number)
    if missing := [key for key in ("r", "k", "e") if key not in values]:
        raise BadValue(f"{where}, {part!r}: {' and '.join(missing)} missing (allowed: {_ALLOWED})")
    for key, ok in (
        ("r", values["r"] >= 1),
        ("k", values["k"] in _KERNELS),
        ("e", 1 <= values["e"] <= _MOST_EXPANSION),
        ("se", values.setdefault("se", 0.0) <= 1),
    ):
        if not ok:
            raise BadValue(f"{where}, {part!r}: {key}{values[key]:g} (allowed: {_ALLOWED})")
    if values["se"] and row.fused:
        raise BadValue(f"{where}, {part!r}: a fused block has no squeeze-excitation; leave se{values['se']:g} out")
    return replace(
        row,
        repeats=int(values["r"]),
        kernel_size=int(values["k"]),
        expand_ratio=int(values["e"]),
        se_ratio=values["se"],
    )
