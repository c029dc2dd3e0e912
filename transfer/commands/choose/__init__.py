"""Which network for these images, and how to train it: efficientnet-transfer choose --data_root photos/

Writes out_of_fold.npz, frontier.png, suspects.csv and .png, lpft.log (what fine-tuning on folds printed), choose.json,
the page report.html and, in `winner`, the run of the network to take, a linear probe or fine-tuned, to
runs/<data>_choose/<n>/. A folder without choose.json was not finished.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.commands.console import exit_status
from transfer.commands.next_steps import say_next
from transfer.config.choose_schema import ChooseConfig
from transfer.config.command_line import build_choose_parser, parse_choose_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue
from transfer.files import write_json
from transfer.inference.names import check_engine

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from datamodules.dataset.loaded import Dataset
    from transfer.commands.choose.budget import Budget
    from transfer.commands.choose.candidates import Tried
    from transfer.commands.choose.images import Images
    from transfer.commands.choose.record import Choice, Methods
    from transfer.runs.results import Results

CHOICE, WINNER = "choose.json", "winner"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    words = sys.argv[1:] if argv is None else argv

    def command() -> None:
        say_next("chosen", choose(*parse_choose_config(words)).run_dir)

    return exit_status(command, build_choose_parser)


def choose(config: FinetuneConfig, own: ChooseConfig) -> Choice:
    """Find the network to take for a dataset and how to train it, leave its run and the figures, and print the reasons.

    Args:
        config: a run's configuration, of which a choice uses CHOOSE_FIELDS and CHOOSE_TRAINER_FIELDS.
        own: the fields that only a choice has.

    Raises:
        UserError: what the user gave cannot work, or no network is within the limits.
    """
    # Imported here so that --help and a mistyped flag need not wait for them.
    from transfer.commands.choose.budget import Budget
    from transfer.commands.choose.candidates import find_limits, find_starts, measure, try_all
    from transfer.commands.choose.curve import learn
    from transfer.commands.choose.decision import decide
    from transfer.commands.choose.images import read_images
    from transfer.commands.choose.record import make_choice
    from transfer.commands.choose.report import explain, print_end, print_figures, write_files
    from transfer.commands.choose.suspects import describe_weakest_class, doubt_labels
    from transfer.commands.report import leave_page
    from transfer.probe.fabric import build_fabric
    from transfer.runs.names import data_name

    budget = Budget(own.budget, own.budget_seconds)
    check_engine(own.engine)
    limits = find_limits(own)
    _check_ahead(config, own)
    config = replace(config, trainer=replace(config.trainer, devices=1))
    starts, left_out = find_starts(config, own)
    dataset = _load(config, own)
    images = read_images(dataset, own, config.seed)
    fabric = build_fabric(config.trainer)
    candidates, over = measure(starts, limits, dataset, fabric)
    tried, late = try_all(candidates, own, dataset, images, fabric, budget)
    decision = decide([one.outcome for one in tried], images.labels, dataset.metric, images.groups)
    reasons = explain(tried, decision)
    print_figures(tried, decision, reasons)
    folder = _claim_folder(config)
    files = folder, data_name(config), tried, decision, images, dataset
    write_files(*files)
    seconds = {"networks": budget.spent}
    num_suspects = doubt_labels(tried[decision.most_accurate], dataset, images, folder)
    seconds["suspects"] = budget.spent - sum(seconds.values())
    curve = learn(tried[decision.chosen], own, config.seed, dataset, images, fabric, folder)
    seconds["learning_curve"] = budget.spent - sum(seconds.values())
    methods = _compare_methods(tried[decision.chosen], own, dataset, images, fabric, folder, budget)
    if methods.tuned is not None:
        write_files(*files, methods.tuned)
    seconds["fine_tuning"] = budget.spent - sum(seconds.values())
    results = _fit_winner(tried[decision.chosen], methods, own, dataset, folder)
    seconds["winner"] = budget.spent - sum(seconds.values())
    not_tried = [*left_out, *over, *late]
    choice = make_choice(config, own, dataset, images, tried, not_tried, decision, reasons, methods, results, seconds)
    weakest = describe_weakest_class(tried[decision.chosen], dataset, images)
    choice = replace(choice, num_suspects=num_suspects, learning_curve=curve, weakest_class=weakest)
    write_json(folder / CHOICE, choice.to_dict())
    leave_page(folder)
    print_end(choice, folder, budget)
    return choice


def _load(config: FinetuneConfig, own: ChooseConfig) -> Dataset:
    """Return the images, and print what they are and what heads on them are judged by."""
    from datamodules import load_dataset
    from transfer.commands.choose.report import print_metric

    dataset = load_dataset(config.dataset, **config.read_options())
    print(dataset.describe())
    print_metric(dataset.metric, own.logit_adjustment)
    return dataset


def _compare_methods(
    tried: Tried, own: ChooseConfig, dataset: Dataset, images: Images, fabric: Fabric, folder: Path, budget: Budget
) -> Methods:
    """Compare fine-tuning with the probe, if that is asked for."""
    from transfer.commands.choose.lpft import fixed_settings, predict_seconds, try_lpft, why_impossible
    from transfer.commands.choose.record import Methods
    from transfer.commands.choose.report import describe
    from transfer.commands.choose.search import search_settings

    tuned, searched, left_out = None, None, why_impossible(tried.candidate.config) if own.tries_lpft else ""
    if own.tries_lpft and not left_out:
        expected = predict_seconds(tried.candidate, dataset, images, fabric)
        task = tried, dataset, images, fabric, folder, budget
        if own.search:
            searched = search_settings(*task, own, expected)
        found, first = (searched.settings, 1) if searched else ({}, 0)
        tuned, left_out = try_lpft(*task, expected, {**fixed_settings(own), **found}, first)
    return Methods(tuned, left_out, searched, describe(tried, images, tuned, left_out, searched))


def _fit_winner(tried: Tried, methods: Methods, own: ChooseConfig, dataset: Dataset, folder: Path) -> Results:
    """Return the results of the run that is left in the folder of the choice; it reads test once."""
    from transfer.commands.choose.lpft import fixed_settings, lpft_config
    from transfer.commands.finetune import finetune
    from transfer.commands.probe import probe
    from transfer.config.parsing import unflatten
    from transfer.config.probe_schema import ProbeConfig

    if methods.takes_lpft:
        changes = {**fixed_settings(own), **(methods.searched.settings if methods.searched else {})}
        return finetune(lpft_config(tried.candidate, folder / WINNER), **unflatten(changes))
    config = replace(tried.candidate.config, out_dir=str(folder / WINNER))
    choice = tried.found.choice
    of_probe = ProbeConfig(engine=tried.engine, logit_adjustment=choice.logit_adjustment)
    results = probe(config, of_probe, dataset, choice)
    assert results is not None  # there is one process
    return results


def _check_ahead(config: FinetuneConfig, own: ChooseConfig) -> None:
    """Refuse at once what would else be found out after minutes."""
    from transfer.experiments.search import load_optuna

    if own.search:
        load_optuna()
    path = None if config.out_dir is None else Path(config.out_dir)
    if path is not None and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
        raise BadValue(f"`out_dir`={path} is not empty; it may hold another choice: choose a new folder")


def _claim_folder(config: FinetuneConfig) -> Path:
    from transfer.runs.names import claim_number, data_name

    if config.out_dir is None:
        return claim_number(Path("runs") / f"{data_name(config)}_choose")
    Path(config.out_dir).mkdir(parents=True, exist_ok=True)
    return Path(config.out_dir)
