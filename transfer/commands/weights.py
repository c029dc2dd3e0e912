"""Public checkpoints: which there are, what they need, fetch one, check a file: efficientnet-transfer weights list

`list` and `info` ask no network.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.commands.console import exit_status
from transfer.errors import UserError, printable, unknown_name

if TYPE_CHECKING:
    from rich.console import Console

    from transfer.networks.rows import Variant
    from transfer.weights.rows import WeightsRow


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and gives the exit status: 1 if a check of `verify` failed."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer weights", description="Public checkpoints of EfficientNets."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser("list", help="a table of all rows")
    command.add_argument("--backbone", help="only this one's: b0, lite0, v2-s, ...")
    command.add_argument("--family", help="only this one's: timm, timm-tf, torchvision, lukemelas")
    command.add_argument("--json", action="store_true", help="a list of objects in place of the table")
    command.set_defaults(run=print_list)

    command = commands.add_parser("info", help="everything about one row, or about a family")
    command.add_argument("name", metavar="NAME")
    command.set_defaults(run=print_info)

    command = commands.add_parser("fetch", help="download a row's file, or go on with a download")
    command.add_argument("name", metavar="NAME")
    command.add_argument("--cache-dir", type=Path, metavar="DIR", help="default: torch.hub's or the Hugging Face cache")
    command.set_defaults(run=fetch)

    command = commands.add_parser("verify", help="check a file; exit status 1 if something is wrong with it")
    command.add_argument("path", metavar="PATH", type=Path)
    command.add_argument("--family", metavar="NAME", help="a family or a row: what the file is taken for")
    command.add_argument("--json", action="store_true", help="an object in place of the table")
    command.set_defaults(run=verify_file)

    arguments = vars(parser.parse_args(argv))
    run: Callable[..., bool | None] = arguments.pop("run")
    return exit_status(lambda: int(run(**arguments) is False))


def print_list(backbone: str | None, family: str | None, json: bool) -> None:
    """Prints a line for each row.

    Raises:
        UserError: no such backbone or family.
    """
    from transfer.networks.registry import get_variant
    from transfer.weights.rows import FAMILIES, WEIGHTS

    if family is not None and family not in FAMILIES:
        raise unknown_name("family", family, FAMILIES)
    name = None if backbone is None else get_variant(backbone).name
    rows = [row for row in WEIGHTS.values() if name in (None, row.backbone) and family in (None, row.family)]
    described = [describe(row) for row in rows]
    if json:
        write_json(described)
        return
    print_rows(described)


def describe(row: WeightsRow) -> dict[str, Any]:
    """What `list` shows of a row."""
    from transfer.networks.registry import get_variant
    from transfer.weights.downloads import find_weights

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
    """Size of the parameters, four bytes each, which is about that of the file."""
    classifier = (variant.num_features + 1) * (row.num_classes - 1000)
    return (variant.num_params + classifier) * 4 / 1e6


def picked_by(row: WeightsRow, variant: Variant) -> list[str]:
    """Which of `--pretrained true` and `--pretrained paper` mean this row."""
    from transfer.weights.rows import select_weights

    picked = []
    for shown, pretrained in (("true", True), ("paper", "paper")):
        try:
            if select_weights(variant, pretrained) == row:
                picked.append(shown)
        except UserError:
            continue  # nothing is picked for this backbone
    return picked


def print_rows(described: list[dict[str, Any]]) -> None:
    """A table; the last column says which `--pretrained` means the row."""
    from rich.table import Table

    from transfer.weights.rows import FAMILIES

    table = Table(box=None, pad_edge=False)
    right = ("px", "top-1 %", "MB")
    columns = ("name", "backbone", *right, "family", "extra data", "licence", "here", "--pretrained")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in described:
        table.add_row(
            row["name"],
            row["backbone"],
            str(row["image_size"]),
            "-" if row["top1"] is None else f"{row['top1']:.2f}",
            f"{row['megabytes']:.0f}",
            row["family"],
            row["extra_data"] or "-",
            row["license"],
            "yes" if row["on_this_machine"] else "no",
            ", ".join(row["picked_by"]),
        )
    build_console(at_least=140).print(table)
    build_console().print(
        f"\n{len(described)} rows. --pretrained takes any of the names; for a file of your own, with --weights FILE,"
        f" also a family: {', '.join(FAMILIES)}."
    )


def print_info(name: str) -> None:
    """Prints what is known of a row or a family.

    Raises:
        UserError: no such row and no such family.
    """
    from transfer.weights.rows import FAMILIES, get_weights

    if name in FAMILIES:
        print_family(name)
    else:
        print_pairs(row_details(get_weights(name)))


def row_details(row: WeightsRow) -> dict[str, str]:
    """Everything about a row, in words."""
    from transfer.networks.registry import get_variant
    from transfer.weights.downloads import find_weights, source
    from transfer.weights.rows import FAMILIES

    variant = get_variant(row.backbone)
    path = find_weights(row)
    picked = picked_by(row, variant)
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
        "use": f"--backbone {row.backbone} --pretrained {row.name}",
        "picked by": ", ".join(f"--pretrained {value}" for value in picked) or "its name only",
    }


def hash_details(row: WeightsRow) -> str:
    """The published hash, or how the file is checked without one."""
    from transfer.weights.downloads import source

    if row.sha256 is None:
        return "none published; checked against the one that the hub gives"
    if row.hub_id is not None and row.hub_id in source(row):
        return f"from this mirror checked against the one that it gives; of the release file: {row.sha256}..."
    return row.sha256 if len(row.sha256) == 64 else f"{row.sha256}... (the published start)"


def top1_details(row: WeightsRow) -> str:
    """The published accuracy, and on which images."""
    if row.top1 is None:
        return "not published"
    whose = " (of TensorFlow's original)" if row.package else ""
    return f"{row.top1}% at {row.preprocessing.image_size} px, crop ratio {row.preprocessing.crop_ratio:.4g}{whose}"


def image_details(row: WeightsRow) -> dict[str, str]:
    """How images are prepared for a row."""
    from transfer.weights.rows import format_rgb

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
    """The settings of a row's layers."""
    settings = row.settings
    return {
        "padding": settings.padding,
        "BatchNorm": f"epsilon {settings.bn_eps:g}, momentum {settings.bn_momentum:g} (torch's convention)",
        "activation": settings.activation,
    }


def print_family(family: str) -> None:
    """A family's settings, which differ between backbones, and how a file of the user's own is used."""
    from transfer.networks.efficientnet import VARIANTS
    from transfer.weights.rows import FAMILIES, WEIGHTS, family_row

    num_rows = sum(row.family == family for row in WEIGHTS.values())
    use = f"--backbone NAME --weights FILE --pretrained {family}"
    listed = f"efficientnet-transfer weights list --family {family}" if num_rows else "none"
    print_pairs({"family": f"{family} ({FAMILIES[family]})", "rows": f"{num_rows} ({listed})", "use": use})
    groups: dict[str, list[str]] = {}
    for variant in VARIANTS.values():
        row = family_row(family, variant)
        images = {name: text for name, text in image_details(row).items() if name in ("mean", "std")}
        details = ", ".join(f"{name} {text}" for name, text in {**layer_details(row), **images}.items())
        groups.setdefault(details, []).append(variant.name)
    build_console().print()
    print_pairs({" ".join(names): details for details, names in groups.items()})


def fetch(name: str, cache_dir: Path | None) -> None:
    """Downloads a row's file with a progress bar, and prints where it is and how to use it.

    Raises:
        UserError: no such row, no network, or another file was sent.
    """
    from transfer.weights.downloads import fetch_weights
    from transfer.weights.files import file_sha256
    from transfer.weights.rows import FAMILIES, get_weights

    if name in FAMILIES:
        raise UserError(
            f"{name} is a family of checkpoints, not a file: name a row (efficientnet-transfer weights list)"
        )
    row = get_weights(name)
    path = fetch_weights(row, cache_dir).absolute()
    use = f"--backbone {row.backbone} --pretrained {row.name}"
    print_pairs(
        {"path": str(path), "sha256": file_sha256(path), "use": use if cache_dir is None else f"{use} --weights {path}"}
    )


def verify_file(path: Path, family: str | None, json: bool) -> bool:
    """Prints the checks of a file; gives whether none failed.

    Raises:
        UserError: no such file, family or row.
    """
    from rich.table import Table

    from transfer.weights.verification import verify

    found = verify(path, family)
    if json:
        write_json({**asdict(found), "failed": found.failed})
        return not found.failed
    print_pairs(
        {
            "file": found.path,
            "sha256": found.sha256,
            "file of": found.row or "no row",
            "trained like": found.trained_like or "not said",
            "backbone": found.variant or "unknown",
            "tensors": str(found.num_tensors),
        }
    )
    table = Table(box=None, pad_edge=False)
    for column in ("check", "", "found"):
        table.add_column(column, overflow="fold")
    for check in found.checks:
        shown, style = {True: ("ok", "green"), False: ("FAILED", "bold red"), None: ("?", "yellow")}[check.passed]
        table.add_row(check.name, shown, printable(check.detail), style=style if check.passed is False else "")
    console = build_console()
    console.print()
    console.print(table)
    return not found.failed


def print_pairs(pairs: dict[str, str]) -> None:
    """Two columns: names and values."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", overflow="fold")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, printable(value))
    build_console().print(table)


def build_console(at_least: int = 0) -> Console:
    """Prints text as it is, markup in a file's names included; where nobody looks, lines are not broken.

    Args:
        at_least: columns below which the terminal, not the table, breaks the lines, so that names stay in one piece.
    """
    from rich.console import Console

    width = max(shutil.get_terminal_size().columns, at_least) if sys.stdout.isatty() else 2000
    return Console(markup=False, emoji=False, highlight=False, width=width)


def write_json(content: Any) -> None:
    """Prints an object."""
    print(json.dumps(content, indent=1))
