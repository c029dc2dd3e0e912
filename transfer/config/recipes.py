"""What a recipe must not decide: the run to resume, and the code that is imported."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from transfer.config.parsing import Given
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue
from transfer.files import expanded
from transfer.networks.user_code import refuse_user_code


def split_resume(argv: Sequence[str]) -> tuple[Path | None, bool, list[str]]:
    """Return what a recipe must not contain, the run to resume and whether its code is allowed, and the other words."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_allow_user_code(parser)
    add_open(parser)
    parser.add_argument("--resume", type=expanded)
    try:
        given, rest = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise BadValue(str(error)) from None
    return given.resume, "allow_user_code" in given, rest


def allows_user_code(argv: Sequence[str]) -> bool:
    """Return whether a command line that `split_resume` reads allows the code that files name."""
    return split_resume(argv)[1]


def opens_page(argv: Sequence[str]) -> bool:
    """Return whether a command line asks to see the run in a browser."""
    return "--open" in argv


def add_open(parser: argparse.ArgumentParser) -> None:
    """Add the flag that shows a run in a browser."""
    parser.add_argument(
        "--open",
        action="store_true",
        default=argparse.SUPPRESS,
        help="open report.html in the browser at once; it follows the run",
    )


def add_allow_user_code(parser: argparse.ArgumentParser) -> None:
    """Add the flag without which no code is imported that a recipe, a run to resume or a teacher names."""
    parser.add_argument(
        "--allow_user_code",
        action="store_true",
        default=argparse.SUPPRESS,
        help="import a backbone or a head of your own that a recipe, the run to continue or the teacher names, which"
        " runs its code",
    )


def refuse_code_in_recipes(given: Given, config: FinetuneConfig, allow_user_code: bool) -> None:
    """Refuse import paths that the recipes on a command line name; those that the user typed are his own."""
    names = [pair for pair in user_code(config) if pair[0] in given.places and pair[0] not in given.typed]
    recipes = dict.fromkeys(given.places[name].rpartition(" line ")[0] for name, _ in names)
    refuse_user_code(", ".join(recipes), names, allow_user_code)


def user_code(config: FinetuneConfig) -> list[tuple[str, object]]:
    """Return the fields that may be import paths, with their values; see `refuse_user_code`."""
    return [("backbone", config.backbone), ("head", config.head)]
