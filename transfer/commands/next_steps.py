"""The command that is useful next, which a command names on stderr when it ends."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from transfer.config.screens import PROGRAM
from transfer.errors import printable

if TYPE_CHECKING:
    from transfer.runs.results import Results

# From what has happened to the words that follow; {} is what the command that ended fills in.
NEXT = {
    "trained": "predict {} new_photos/",
    "trained, below its probe": "probe {}",
    "folds trained": "export {} --out bundle/",
    "chosen": "predict {} new_photos/",
    "evaluated": "explain {} {}",
    "calibrated": "predict {} new_photos/ --abstain",
    "predicted": "explain {} {}",
    "predicted by a bundle": "serve {}",
    "explained": "export {} --out bundle/",
    "compared": "explain {} photos/ --compare {}",
    "a sound folder": "choose --data_root {}",
    "a sound dataset": "finetune --dataset {}",
    "unsound data": "doctor {} --out_dir doctor/",
    "weights listed": "weights info {}",
    "weights described": "weights fetch {}",
    "weights fetched": "finetune --data_root photos/ {}",
    "weights verified": "finetune --data_root photos/ {}",
    "exported": "check {}",
    "checked": "serve {}",
    "push rehearsed": "push {}",
    "converted": "finetune {}",
    "table planned": "table run {}",
    "table computed": "table report {}",
    "network fitted": "finetune {}",
    "networks compared": "costs {} --plan",
    "network costed": "finetune --data_root photos/ --backbone {}",
    "run costed": "export {} --out bundle/",
}


def say_next(outcome: str, *values: object) -> None:
    """Print the next command on stderr, where it is in nobody's way who reads stdout by a program.

    Args:
        outcome: a key of `NEXT`.
        values: what to fill in: a word each, or the list of several.
    """
    sys.stdout.flush()
    print(f"next: {printable(next_command(outcome, *values))}", file=sys.stderr)


def next_command(outcome: str, *values: object) -> str:
    """Return the command that `say_next` prints, quoted for a shell."""
    words = (shlex.join(map(str, value if isinstance(value, list) else [value])) for value in values)
    return f"{PROGRAM} {NEXT[outcome].format(*words)}".rstrip()


def say_next_of_run(results: Results) -> None:
    """Print what is next after a run that trained: the probe, if fine-tuning ended below it, or predictions."""
    from transfer.commands.finetune_probe import ends_below_probe
    from transfer.config.parsing import flatten
    from transfer.config.probe_schema import is_probe_field
    from transfer.config.words import changed_words

    if ends_below_probe(results):
        fields = {name: value for name, value in flatten(results.config).items() if is_probe_field(name)}
        say_next("trained, below its probe", changed_words(fields, without=("out_dir",)))
    else:
        say_next("trained", results.run_dir)
