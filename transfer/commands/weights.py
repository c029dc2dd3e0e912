"""List, describe, fetch and verify public checkpoints: efficientnet-transfer weights list

`list` and `info` work offline.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transfer.commands.console import exit_status
from transfer.commands.next_steps import say_next
from transfer.commands.tables import print_table
from transfer.config.screens import add_help
from transfer.errors import BadValue, printable, unknown_name
from transfer.files import expanded


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer weights`."""
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
    cache = "default: torch.hub's or the Hugging Face cache"
    command.add_argument("--cache_dir", "--cache-dir", type=expanded, metavar="DIR", help=cache)
    command.set_defaults(run=fetch)

    command = commands.add_parser("verify", help="check a file; exit status 1 if something is wrong with it")
    command.add_argument("path", metavar="PATH", type=expanded)
    command.add_argument("--family", metavar="NAME", help="a family or a row: what the file is taken for")
    command.add_argument("--json", action="store_true", help="an object in place of the table")
    command.set_defaults(run=verify_file)

    add_help(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 1 if a check of `verify` failed."""
    arguments = vars(build_parser().parse_args(argv))
    run: Callable[..., bool | None] = arguments.pop("run")
    return exit_status(lambda: int(run(**arguments) is False), build_parser)


def print_list(backbone: str | None, family: str | None, json: bool) -> None:
    """Print a line for each row.

    Args:
        backbone: only this one's rows.
        family: only this one's rows.
        json: print a list of objects in place of the table.

    Raises:
        BadValue: no such backbone or family.
    """
    from transfer.networks.registry import get_variant
    from transfer.weights.description import describe
    from transfer.weights.rows import FAMILIES, WEIGHTS

    if family is not None and family not in FAMILIES:
        raise unknown_name("family", family, FAMILIES)
    name = None if backbone is None else get_variant(backbone).name
    rows = [row for row in WEIGHTS.values() if name in (None, row.backbone) and family in (None, row.family)]
    described = [describe(row) for row in rows]
    if json:
        print_json(described)
        return
    print_rows(described)


def print_rows(described: list[dict[str, Any]]) -> None:
    """Print a table whose last column says which `--pretrained` means the row."""
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
    print_table(table)
    print(
        f"\n{len(described)} rows. --pretrained takes any of the names; for a file of your own, with --weights FILE,"
        f" also a family: {', '.join(FAMILIES)}."
    )
    if described:
        say_next("weights listed", described[0]["name"])


def print_info(name: str) -> None:
    """Print what is known of a row or a family.

    Raises:
        BadValue: no such row and no such family.
    """
    from transfer.networks.registry import get_variant
    from transfer.weights.description import picked_by, row_details
    from transfer.weights.rows import FAMILIES, get_weights

    if name in FAMILIES:
        return print_family(name)
    row = get_weights(name)
    picked = picked_by(row, get_variant(row.backbone))
    use = {
        "use": f"--backbone {row.backbone} --pretrained {row.name}",
        "picked by": ", ".join(f"--pretrained {value}" for value in picked) or "its name only",
    }
    print_pairs({**row_details(row), **use})
    say_next("weights described", row.name)


def print_family(family: str) -> None:
    """Print a family's settings, which differ between backbones, and how to use a file of one's own."""
    from transfer.weights.description import family_details
    from transfer.weights.rows import FAMILIES, WEIGHTS

    num_rows = sum(row.family == family for row in WEIGHTS.values())
    use = f"--backbone NAME --weights FILE --pretrained {family}"
    listed = f"efficientnet-transfer weights list --family {family}" if num_rows else "none"
    print_pairs({"family": f"{family} ({FAMILIES[family]})", "rows": f"{num_rows} ({listed})", "use": use})
    print()
    print_pairs(family_details(family))


def fetch(name: str, cache_dir: Path | None) -> None:
    """Download a row's file with a progress bar, and print where it is and how to use it.

    Args:
        name: a row's name.
        cache_dir: folder of the downloads; None: torch.hub's or the Hugging Face cache.

    Raises:
        BadValue: no such row.
        MissingData: the file cannot be downloaded.
        DamagedFile: the server sent another file.
    """
    from transfer.files import file_sha256
    from transfer.weights.downloads import fetch_weights
    from transfer.weights.rows import FAMILIES, get_weights

    if name in FAMILIES:
        raise BadValue(
            f"{name} is a family of checkpoints, not a file: name a row (efficientnet-transfer weights list)"
        )
    row = get_weights(name)
    path = fetch_weights(row, cache_dir).absolute()
    use = ["--backbone", row.backbone, "--pretrained", row.name]
    use += [] if cache_dir is None else ["--weights", str(path)]
    print_pairs({"path": str(path), "sha256": file_sha256(path), "use": shlex.join(use)})
    say_next("weights fetched", use)


def verify_file(path: Path, family: str | None, json: bool) -> bool:
    """Print the checks of a file, and return whether none failed.

    Args:
        path: a checkpoint.
        family: a family or a row that the file is taken for; None: what it is known as.
        json: print an object in place of the table.

    Raises:
        MissingData: no such file.
        BadValue: no such family or row.
    """
    from rich.table import Table

    from transfer.weights.verification import verify

    found = verify(path, family)
    if json:
        print_json({**asdict(found), "failed": found.failed})
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
    print()
    print_table(table)
    like = found.row or found.trained_like or family
    if not found.failed and found.variant and like:
        say_next("weights verified", ["--backbone", found.variant, "--pretrained", like, "--weights", found.path])
    return not found.failed


def print_pairs(pairs: dict[str, str]) -> None:
    """Print two columns: names and values."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", overflow="fold")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(name, printable(value))
    print_table(table)


def print_json(content: Any) -> None:
    """Print an object as JSON."""
    print(json.dumps(content, indent=1))
