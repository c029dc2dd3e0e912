"""The command line: `efficientnet-transfer VERB ...`, `python -m transfer VERB ...` or `python scripts/VERB.py ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from transfer import __version__
from transfer.commands.process import draw_on_terminals_only, keep_freed_memory, share_cores
from transfer.config.screens import add_help, first_words

# Each verb is a module of `transfer.commands`, whose `main` takes the words after it and returns the exit status.
VERBS = {
    "finetune": "train a network on a dataset",
    "evaluate": "measure a finished run on a split",
    "predict": "classify images with a finished run or a bundle",
    "explain": "show what a finished run looks at",
    "compare": "compare two runs image by image",
    "report": "write the page about a run, or about several",
    "runs": "list runs, the best first",
    "choose": "find the network to take for your images",
    "probe": "fit a linear classifier to frozen features",
    "doctor": "look for what is wrong with a dataset",
    "weights": "list, fetch and verify public weights",
    "export": "write a run as a bundle that runs elsewhere",
    "check": "prove a bundle where it is to run",
    "serve": "answer over HTTP, with a page to drop photos on",
    "push": "upload a bundle to the Hugging Face Hub",
    "convert": "convert checkpoints to and from other code bases",
    "table": "plan, run and report a table of results",
    "scale": "scale networks: fit limits, search, sweep, evolve",
    "costs": "count and measure what a network takes",
}

_EPILOG = """\
On Linux, waiting threads soon give up their core, unless OMP_WAIT_POLICY or GOMP_SPINCOUNT is set, and freed memory is
kept for the next step, unless a variable of glibc's malloc is set: MALLOC_ARENA_MAX=0 gives it back to the kernel."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        argv: the words after the program's name; None takes them from `sys.argv`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer",
        usage="%(prog)s VERB ... (each verb has its own --help)",
        description="\n".join(f"{verb:10}{what}" for verb, what in VERBS.items()),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    add_help(parser)
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=argparse.SUPPRESS)
    verb = parser.parse_args(first_words(words)).verb
    share_cores()
    draw_on_terminals_only()
    keep_freed_memory()
    command: Callable[[Sequence[str]], int] = import_module(f"transfer.commands.{verb}").main
    return command(words[1:])


if __name__ == "__main__":
    sys.exit(main())
