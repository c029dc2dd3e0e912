"""What the studies of `scale` share: their options, and the way from a plan to a report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from transfer.commands.experiments import (
    add_launch_options,
    check_counts,
    fix_threads,
    job_words,
    read_data_facts,
    usable_gpus,
)
from transfer.config.schema import Logger
from transfer.experiments.scaling.defaults import STUDY_DEFAULTS
from transfer.files import expanded

if TYPE_CHECKING:
    from transfer.experiments.scaling.loop import PlanMore
    from transfer.experiments.scaling.outcomes import Outcome
    from transfer.experiments.scaling.plan import Study
    from transfer.experiments.scaling.report import Report

    # Returns the study with its first trials, and lines that say what will be trained.
    PlanTrials = Callable[[Study], tuple[Study, list[str]]]


def build_study_parser(kind: str, description: str) -> tuple[argparse.ArgumentParser, argparse._ArgumentGroup]:
    """Return a parser with the options of every study, and its group of those that plan one.

    Options of that group are absent unless given.

    Args:
        kind: the command of `scale`.
        description: what it does.
    """
    parser = argparse.ArgumentParser(
        prog=f"efficientnet-transfer scale {kind}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("out", type=expanded, metavar="OUT", help="folder of the study")
    planning = parser.add_argument_group("what is trained", argument_default=argparse.SUPPRESS)
    baseline, dataset = STUDY_DEFAULTS["baseline"], STUDY_DEFAULTS["dataset"]
    planning.add_argument("--baseline", metavar="NAME", help=f"backbone to scale; default: {baseline}")
    planning.add_argument("--dataset", metavar="NAME", help=f"as in finetune; default: {dataset}")
    planning.add_argument("--data_root", metavar="DIR", help="as in finetune")
    planning.add_argument(
        "--config",
        type=expanded,
        metavar="FILE",
        help="the proxy task, a recipe of finetune; default: transfer/experiments/scaling/proxy.yaml",
    )
    planning.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="a field of every run, in place of the recipe's"
    )
    planning.add_argument("--image_size", type=int, metavar="PX", help="of the baseline; default: the recipe's")
    planning.add_argument("--steps", type=int, metavar="N", help="optimizer steps of a run; default: the recipe's")
    planning.add_argument("--seeds", nargs="+", type=int, metavar="N", help="default: 0 1 2")
    planning.add_argument("--threads", type=int, metavar="N", help="CPU threads of each run; default: 1")
    planning.add_argument("--logger", choices=get_args(Logger), help="as in finetune; a study is a group there")
    add_launch_options(parser.add_argument_group("how it is run"), "runs", timeout_min=60)
    return parser, planning


def carry_out(
    kind: str,
    arguments: Mapping[str, Any],
    own_defaults: Mapping[str, Any],
    plan_trials: PlanTrials,
    plan_more: PlanMore,
) -> int:
    """Plan a study unless it is planned, go on with it, and report; return 1 if a run failed or has no result.

    Args:
        kind: the command of `scale`.
        arguments: the parsed arguments.
        own_defaults: defaults of the options that only this kind has.
        plan_trials: adds the networks to a study that has its options, its settings and the facts of its data.
        plan_more: adds the first runs, and further ones when these are done.

    Raises:
        UserError: it cannot be planned or run like this.
        Interrupted: Ctrl-C or SIGTERM.
    """
    from transfer.experiments.launchers import Launch, slurm_parameters
    from transfer.experiments.scaling.loop import conduct
    from transfer.experiments.scaling.plan import is_study, read_study, write_study
    from transfer.experiments.scaling.planning import continue_command, reopen_study, user_code
    from transfer.networks.user_code import is_import_path, refuse_user_code

    given = dict(arguments)
    out, workers, launcher = given.pop("out"), given.pop("workers"), given.pop("launcher")
    slurm, retry_failed = given.pop("slurm"), given.pop("retry_failed")
    allow_user_code = given.pop("allow_user_code")
    check_counts(workers=workers)
    parameters = slurm_parameters(slurm, launcher)
    if is_study(out):
        study = reopen_study(read_study(out), out, kind, given, own_defaults)
        refuse_user_code(out, user_code(study, given.get("baseline")), allow_user_code)
    else:
        study = plan_more(plan_study(kind, given, own_defaults, plan_trials), {})
    write_study(out, study)
    allow_user_code = any(is_import_path(name) for _, name in user_code(study))
    launch = Launch(
        folder=out,
        words=["scale", "run", str(out.resolve()), *job_words(retry_failed, allow_user_code)],
        option="run",
        ids=[],
        go_on=continue_command(study, out),
        report=f"efficientnet-transfer scale report {out}",
        workers=workers,
        slurm=parameters,
        gpus=prepare(study) if launcher == "local" else [],
        on_cpu=study.on_cpu,
    )
    return close(out, conduct(out, study, plan_more, launcher, launch, retry_failed), launcher)


def plan_study(kind: str, given: Mapping[str, Any], own_defaults: Mapping[str, Any], plan_trials: PlanTrials) -> Study:
    """Return a new study with its trials, and print what will be trained; the arguments are those of `carry_out`."""
    from transfer.experiments.scaling.planning import baseline_configuration, wanted_study, with_data

    study = wanted_study(kind, given, own_defaults)
    data = read_data_facts(baseline_configuration(study))
    study, lines = plan_trials(with_data(study, data.num_classes, data.split_sizes))
    print("\n".join(lines), flush=True)
    return study


def prepare(study: Study) -> list[str]:
    """Return the GPUs for the runs of this process; without any it is ready to be forked."""
    fix_threads(study.options["threads"])
    return usable_gpus(study.on_cpu)


def build_report(study: Study, outcomes: Mapping[str, Outcome]) -> Report:
    """Return the report of a study, which the command of its kind knows how to build."""
    build: Callable[[Study, Mapping[str, Outcome]], Report]
    build = import_module(f"transfer.commands.scale.{study.kind}").build_report
    return build(study, outcomes)


def close(out: Path, study: Study, launcher: str) -> int:
    """Print how far a study is, and its report if its runs were waited for; return 1 if one failed or has no result."""
    from transfer.experiments.jobs import describe_progress
    from transfer.experiments.scaling.outcomes import read_outcomes, study_jobs
    from transfer.experiments.scaling.planning import continue_command
    from transfer.experiments.scaling.report import write_files

    done, failed, lines = describe_progress(study_jobs(out, study), "planned runs")
    print("\n".join(lines))
    if failed:
        print(f"why: {out}/runs/<id>.log; again: {continue_command(study, out)} --retry_failed")
    if launcher != "local":
        print(f"when these are done, the next round: {continue_command(study, out)} --launcher {launcher}")
        return int(failed > 0)
    outcomes = read_outcomes(out, study)
    written = write_files(out, study, outcomes, build_report(study, outcomes))
    print((out / "report.md").read_text(encoding="utf-8"))
    print(f"written: {', '.join(map(str, written))}")
    return int(done < len(study.runs))
