"""What the studies of scale have in common: their options, and the way from a plan to a report."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.errors import UserError
from transfer.experiments import scaling

if TYPE_CHECKING:
    from transfer.config.schema import FinetuneConfig
    from transfer.experiments.scaling.loop import PlanMore
    from transfer.experiments.scaling.plan import Study

PROXY = Path(scaling.__file__).with_name("proxy.yaml")
# Of the options that plan a study. Those that are missing here, image_size and steps, are the recipe's.
DEFAULTS: dict[str, Any] = {
    **{"baseline": "b0", "dataset": "digits", "data_root": None, "seeds": [0, 1, 2], "threads": 1, "logger": "csv"},
    **{"config": PROXY, "set": []},
}


def build_study_parser(
    kind: str, description: str, epilog: str
) -> tuple[argparse.ArgumentParser, argparse._ArgumentGroup]:
    """A command line with the options of every study, and its group of those that plan one, which have no value unless
    given.

    Args:
        kind: the command.
        epilog: examples.
    """
    parser = argparse.ArgumentParser(
        prog=f"efficientnet-transfer scale {kind}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the study")
    planning = parser.add_argument_group("what is trained", argument_default=argparse.SUPPRESS)
    planning.add_argument("--baseline", metavar="NAME", help=f"backbone to scale; default: {DEFAULTS['baseline']}")
    planning.add_argument("--dataset", metavar="NAME", help=f"as of finetune; default: {DEFAULTS['dataset']}")
    planning.add_argument("--data_root", metavar="DIR", help="as of finetune")
    planning.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the proxy task, a recipe of finetune; default: transfer/experiments/scaling/proxy.yaml",
    )
    planning.add_argument("--set", action="append", metavar="KEY=VALUE", help="a field of every run, over the recipe")
    planning.add_argument("--image_size", type=int, metavar="PX", help="of the baseline; default: the recipe's")
    planning.add_argument("--steps", type=int, metavar="N", help="of the optimizer in a run; default: the recipe's")
    planning.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: 0 1 2")
    planning.add_argument("--threads", type=int, metavar="N", help="CPU threads of each run; default: 1")
    planning.add_argument(
        "--logger", choices=("csv", "tensorboard", "wandb"), help="as of finetune; in W&B a study is a group"
    )
    how = parser.add_argument_group("how it is run")
    how.add_argument("--workers", type=int, metavar="N", help="runs at a time; default: as many as GPUs, else one")
    how.add_argument("--launcher", choices=("local", "slurm", "wandb"), default="local")
    how.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="submitit's parameters: partition=gpu, timeout_min=60, cpus_per_task=8, ..., cluster=local for a trial",
    )
    how.add_argument("--retry_failed", action="store_true", help="also compute the runs that failed")
    return parser, planning


def carry_out(
    kind: str,
    arguments: Mapping[str, Any],
    own_defaults: Mapping[str, Any],
    plan_trials: Callable[[Study], Study],
    plan_more: PlanMore,
) -> int:
    """Plans a study unless it is planned, goes on with it, and reports; gives 1 if a run failed or has no result.

    Args:
        kind: the command.
        arguments: as parsed.
        own_defaults: of the options that only this kind has.
        plan_trials: adds the networks to a study that has its options, its settings and the facts of its data.
        plan_more: adds the first runs, and further ones when these are done.

    Raises:
        UserError: it cannot be planned or run like this.
        Interrupted: Ctrl-C or SIGTERM.
    """
    from transfer.experiments.launchers import Launch, slurm_parameters
    from transfer.experiments.scaling.loop import conduct
    from transfer.experiments.scaling.plan import is_study, read_study, write_study

    given = dict(arguments)
    out, workers, launcher = given.pop("out"), given.pop("workers"), given.pop("launcher")
    slurm, retry_failed = given.pop("slurm"), given.pop("retry_failed")
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers} (allowed: at least 1)")
    parameters = slurm_parameters(slurm, launcher)
    if given.get("data_root") is not None:
        given["data_root"] = str(Path(given["data_root"]).expanduser().resolve())
    if is_study(out):
        study = reopen(kind, read_study(out), given, own_defaults, out)
    else:
        study = plan_trials(with_data(wanted(kind, given, own_defaults)))
        study = plan_more(study, {})
    write_study(out, study)
    retry = ["--retry_failed"] if retry_failed else []
    launch = Launch(
        folder=out,
        words=["-m", "transfer", "scale", "run", str(out.resolve()), *retry],
        option="run",
        ids=[],
        go_on=go_on_command(study, out),
        report=f"efficientnet-transfer scale report {out}",
        workers=workers,
        slurm=parameters,
        gpus=prepare(study) if launcher == "local" else [],
        on_cpu=computes_on_cpu(study),
    )
    return close(out, conduct(out, study, plan_more, launcher, launch, retry_failed), launcher)


def wanted(kind: str, given: Mapping[str, Any], own_defaults: Mapping[str, Any]) -> Study:
    """The study that the user asks for, without its networks and runs.

    Raises:
        UserError: an unknown name, or a value that cannot work.
    """
    from transfer.config.schema import SMALLEST_IMAGE
    from transfer.experiments.scaling.plan import Study
    from transfer.experiments.scaling.proxy import proxy_settings
    from transfer.networks.registry import get_backbone

    options = {**DEFAULTS, **own_defaults, **given}
    settings = proxy_settings(options.pop("config"), options.pop("set"))
    for name, field in (("image_size", "image_size"), ("steps", "trainer.max_steps")):
        options.setdefault(name, settings.pop(field, None))
        settings.pop(field, None)
        if options[name] is None:
            raise UserError(f"--{name}: the recipe says none; give it")
    for name, least in (("steps", 1), ("threads", 1), ("image_size", SMALLEST_IMAGE)):
        if options[name] < least:
            raise UserError(f"--{name} {options[name]} (allowed: at least {least})")
    seeds = options["seeds"]
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"--seeds {' '.join(map(str, seeds))} (allowed: different numbers of at least 0)")
    options["baseline"] = get_backbone(options["baseline"]).name
    return Study(kind, options, settings)


def reopen(kind: str, study: Study, given: Mapping[str, Any], own_defaults: Mapping[str, Any], out: Path) -> Study:
    """The study that is there, with where and how its runs compute as it was given now.

    Raises:
        UserError: it is of another kind, or its runs would compute something else.
    """
    from dataclasses import replace

    from transfer.experiments.scaling.plan import FREE_OPTIONS, check_unchanged

    if study.kind != kind:
        raise UserError(f"{out} holds a study of another kind: {go_on_command(study, out)}")
    if given.keys() - set(FREE_OPTIONS):
        check_unchanged(study, wanted(kind, given, own_defaults), out)
    free = {name: value for name, value in given.items() if name in FREE_OPTIONS}
    return replace(study, options={**study.options, **free})


def with_data(study: Study) -> Study:
    """The study with what its networks and its report need to know of the data, which is read once.

    Raises:
        UserError: a configuration that cannot work, an unknown dataset, or data that cannot be had.
    """
    from dataclasses import replace

    from datamodules import load_dataset

    config = configuration(study)
    data = load_dataset(config.dataset, **config.read_options())
    sizes, limit = data.split_sizes, config.trainer.limit_val_batches
    if isinstance(limit, float):
        limit = int(limit * -(-sizes["val"] // config.data.batch_size))
    validated = sizes["val"] if limit is None else min(sizes["val"], limit * config.data.batch_size)
    facts = {
        "command": sys.argv,
        "num_classes": data.num_classes,
        "train_images": sizes["train"],
        "val_images": validated,
    }
    return replace(study, facts={**study.facts, **facts})


def configuration(study: Study) -> FinetuneConfig:
    """The baseline's, as finetune would have it.

    Raises:
        UserError: it cannot work.
    """
    from transfer.config.command_line import parse_config
    from transfer.experiments.scaling.plan import Run, Trial, run_configuration

    options = study.options
    trial = Trial("", options["baseline"], {}, options["image_size"], 0, 0)
    fields = run_configuration(study.extended([], [trial]), Run("", "", options["seeds"][0], options["steps"], 0))
    words = [f"--{name}={'null' if value is None else value}" for name, value in fields.items()]
    return parse_config(words)[0]


def prepare(study: Study) -> list[str]:
    """The GPUs for the runs of this process; without any it is ready to be forked. Each run has the study's number of
    CPU threads: how a sum is split among threads changes its last digits.
    """
    threads = study.options["threads"]
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from transfer.experiments.launchers import usable_gpus

    gpus = usable_gpus(computes_on_cpu(study))
    import torch

    torch.set_num_threads(threads)
    return gpus


def computes_on_cpu(study: Study) -> bool:
    """Whether its runs leave GPUs alone."""
    return study.settings.get("trainer.accelerator") == "cpu"


def go_on_command(study: Study, out: Path) -> str:
    """What the user types to go on."""
    return f"efficientnet-transfer scale {study.kind} {out}"


def close(out: Path, study: Study, launcher: str) -> int:
    """Says how far a study is; reports where its runs were waited for, and gives 1 if one failed or has no result."""
    from transfer.commands.scale.report import build_report
    from transfer.experiments.scaling.loop import read_outcomes
    from transfer.experiments.scaling.report import write_files

    outcomes = read_outcomes(out, study)
    failed = [name for name, outcome in outcomes.items() if outcome.failed]
    done = len(outcomes) - len(failed)
    print(f"{done} of {len(study.runs)} planned runs are done" + (f", {len(failed)} failed" if failed else ""))
    for name in failed:
        print(f"  {name}: {(outcomes[name].error or '').splitlines()[-1]}")
    if failed:
        print(f"why: {out}/runs/<id>.log; again: {go_on_command(study, out)} --retry_failed")
    if launcher != "local":
        print(f"when these are done, the next round: {go_on_command(study, out)} --launcher {launcher}")
        return int(bool(failed))
    written = write_files(out, study, outcomes, build_report(study, outcomes))
    print((out / "report.md").read_text())
    print(f"written: {', '.join(map(str, written))}")
    return int(done < len(study.runs))
