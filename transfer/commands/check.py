"""Check a bundle where it is to run: efficientnet-transfer check mymodel/

Compares the digests of all its files, then reads its golden inputs from the file to the logits in every format that is
installed here. The exit status is 1 if pixels or logits are others than where it was exported, 2 if it is damaged.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.commands.console import exit_status, find_flags, name_flags
from transfer.commands.next_steps import say_next
from transfer.config.screens import add_help
from transfer.errors import printable, some_of
from transfer.files import expanded

if TYPE_CHECKING:
    from transfer.bundle.checking import Check


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer check`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer check", description="Check a bundle by its golden inputs in every format."
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=expanded, help="folder or .zip file of export")
    formats = "formats, separated by commas; default: all whose packages are installed"
    parser.add_argument("--format", dest="formats", type=lambda text: text.split(","), metavar="NAMES", help=formats)
    parser.add_argument(
        "--allow_user_code",
        action="store_true",
        help="also open the formats torch and torchscript, files that can hold code, which then runs",
    )
    add_help(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 1 if the bundle answers otherwise here."""
    arguments = vars(build_parser().parse_args(argv))
    return exit_status(lambda: int(check(**arguments).deviates), build_parser)


def check(bundle: Path, formats: list[str] | None = None, allow_user_code: bool = False) -> Check:
    """Print how close each format comes to the golden logits, and return it.

    Args:
        bundle: folder or zip file of a bundle.
        formats: names of formats; None: all whose packages are installed.
        allow_user_code: whether to open `torch` and `torchscript`, too, whose files can execute code.

    Raises:
        MissingData, DamagedFile: it is no bundle, or damaged; or a package of one of `formats` is not installed.
        BadValue: it does not hold one of `formats`, or one of them can hold code and `allow_user_code` is not given.
    """
    from transfer.bundle.checking import TOLERANCE, check_bundle
    from transfer.bundle.folder import open_folder
    from transfer.bundle.models import INT8

    opened = open_folder(bundle)
    found = check_bundle(opened, formats, allow_user_code)
    print(printable(f"{bundle}: {opened.record.name}, {len(opened.record.files) + 1} files as they were written"))
    if strangers := opened.strangers():
        print(printable(f"not the bundle's, and not read: {some_of(strangers)}"))
    same = f"differ by up to {found.pixels} of 255: DEVIATES" if found.pixels else "equal"
    print(f"pixels of the golden inputs after preprocessing: {same}")
    width = max(len(answer.format) for answer in found.answers) if found.answers else 0
    for answer in found.answers:
        verdict = "DEVIATES" if answer.deviates else "ok"
        print(
            f"{answer.format:{width}}  largest difference {answer.difference:.1e} of the largest logit, same class"
            f" {answer.same} of {answer.num_inputs}: {verdict}"
        )
    for name, reason in found.left_out.items():
        print(f"{name}: left out: {name_flags(reason, find_flags(build_parser))}")
    print(f"allowed: {TOLERANCE:g}, and the same classes")
    if any(answer.deviates and answer.format.endswith(INT8) for answer in found.answers):
        print("8 bits are compared with those of the processor that exported them; others compute them differently")
    if not found.deviates:
        say_next("checked", bundle)
    return found
