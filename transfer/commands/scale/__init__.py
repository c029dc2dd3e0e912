"""Compound scaling: efficientnet-transfer scale COMMAND ... (each has its own --help)

fit     the largest network within limits on parameters, multiply-adds, memory and latency
search  the grid search of alpha, beta, gamma: trains each candidate at phi = 1 on a small task
sweep   the paper's ablations: accuracy along width, depth, resolution and all three
evolve  a small architecture search: regularised evolution of the blocks by the paper's objective
report  what any of the three above has found so far, and how much of it is noise
run     computes one run of any of them: every launcher starts this command
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from transfer.config.screens import add_help, first_words

COMMANDS = ("fit", "search", "sweep", "evolve", "report", "run")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=COMMANDS)
    add_help(parser)
    name = parser.parse_args(first_words(argv)).command
    command: Callable[[Sequence[str]], int] = import_module(f"transfer.commands.scale.{name}").main
    return command(argv[1:])
