"""Which network for these images: efficientnet-transfer choose --data_root photos/ --backbones lite0,lite1,lite2

Writes out_of_fold.npz, frontier.png, suspects.csv and .png, choose.json and, in `winner`, the run of a linear probe of
the network to take to runs/<data>_choose/<n>/. choose.json comes last: a folder without it was not finished.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.commands.console import exit_status
from transfer.config.choose_schema import ChooseConfig
from transfer.config.command_line import build_choose_parser, parse_choose_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue
from transfer.files import write_json
from transfer.inference.names import check_engine

if TYPE_CHECKING:
    from datamodules.dataset.loaded import Dataset
    from transfer.commands.choose.candidates import Candidate
    from transfer.commands.choose.record import Choice
    from transfer.runs.results import Results

CHOICE, WINNER = "choose.json", "winner"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    words = sys.argv[1:] if argv is None else argv

    def command() -> None:
        choose(*parse_choose_config(words))

    return exit_status(command, build_choose_parser)


def choose(config: FinetuneConfig, own: ChooseConfig) -> Choice:
    """Find the network to take for a dataset, leave its probe and the figures in a folder, and print the reasons.

    Args:
        config: a run's configuration, of which a choice uses CHOOSE_FIELDS and CHOOSE_TRAINER_FIELDS.
        own: the fields that only a choice has.

    Raises:
        UserError: what the user gave cannot work, or no network is within the limits.
    """
    # Imported here so that --help and a mistyped flag need not wait for them.
    from datamodules import load_dataset
    from transfer.commands.choose.candidates import find_limits, find_starts, measure, read_images, try_all
    from transfer.commands.choose.curve import learn
    from transfer.commands.choose.decision import decide
    from transfer.commands.choose.record import make_choice
    from transfer.commands.choose.report import describe, explain, print_figures, warn_of_no_picture, write_files
    from transfer.commands.choose.suspects import describe_weakest_class, doubt_labels
    from transfer.probe.fabric import build_fabric
    from transfer.runs.folder import data_name

    started = time.perf_counter()
    check_engine(own.engine)
    limits = find_limits(own)
    _check_out_dir(config)
    warn_of_no_picture()
    config = replace(config, trainer=replace(config.trainer, devices=1))
    starts, left_out = find_starts(config, own)
    dataset = load_dataset(config.dataset, **config.read_options())
    print(dataset.describe())
    images = read_images(dataset, own, config.seed)
    fabric = build_fabric(config.trainer)
    candidates, over = measure(starts, limits, dataset, fabric)
    tried = try_all(candidates, own, dataset, images, fabric)
    decision = decide([one.outcome for one in tried], images.labels, dataset.sheet.metric, images.groups)
    reasons = explain(tried, decision)
    print_figures(tried, decision, reasons)
    folder = _claim_folder(config)
    write_files(folder, data_name(config), tried, decision, images, dataset)
    num_suspects = doubt_labels(tried[decision.most_accurate], dataset, images, folder)
    curve = learn(tried[decision.chosen], own, config.seed, dataset, images, fabric, folder)
    results = _fit_winner(tried[decision.chosen].candidate, own, dataset, folder)
    seconds = time.perf_counter() - started
    not_tried = [*left_out, *over]
    choice = make_choice(config, own, dataset, images, tried, not_tried, decision, reasons, results, seconds)
    choice = replace(choice, num_suspects=num_suspects, learning_curve=curve)
    write_json(folder / CHOICE, choice.to_dict())
    print(f"the choice's figures, picture and run: {folder}")
    if weakest := describe_weakest_class(tried[decision.chosen], dataset, images):
        print(weakest)
    print(describe(tried, decision, images))
    return choice


def _fit_winner(candidate: Candidate, own: ChooseConfig, dataset: Dataset, folder: Path) -> Results:
    """Return the results of the linear probe that is left in the folder of the choice; it reads test once."""
    from transfer.commands.probe import probe
    from transfer.config.probe_schema import ProbeConfig

    config = replace(candidate.config, out_dir=str(folder / WINNER))
    results = probe(config, ProbeConfig(engine=own.engine), dataset)
    assert results is not None  # there is one process
    return results


def _check_out_dir(config: FinetuneConfig) -> None:
    path = None if config.out_dir is None else Path(config.out_dir)
    if path is not None and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
        raise BadValue(f"`out_dir`={path} is not empty; it may hold another choice: choose a new folder")


def _claim_folder(config: FinetuneConfig) -> Path:
    from transfer.runs.folder import claim_number, data_name

    if config.out_dir is None:
        return claim_number(Path("runs") / f"{data_name(config)}_choose")
    Path(config.out_dir).mkdir(parents=True, exist_ok=True)
    return Path(config.out_dir)
