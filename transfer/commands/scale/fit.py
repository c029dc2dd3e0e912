"""The largest network within limits (Tan & Le 2019, section 3.1): scale fit --max_macs 1.8e9

Scales a baseline by the compound rule and by depth, width and resolution alone, each as far as the limits allow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.commands.console import exit_status
from transfer.commands.next_steps import say_next
from transfer.commands.tables import print_table
from transfer.config.screens import add_help
from transfer.costs.limits import QUANTITIES, Excess, format_cost, list_axes, parse_limits
from transfer.errors import BadValue, MissingData, check_count
from transfer.files import expanded
from transfer.networks.scaling import ALPHA, BETA, GAMMA

if TYPE_CHECKING:
    from rich.table import Table

    from transfer.costs.network_costs import Costs
    from transfer.experiments.scaling.fit import Answer

_EPILOG = """\
phi, and each coefficient alone, is a multiple of 0.01 that keeps all coefficients within 0.1 to 10. The networks that
are printed keep every limit, and 0.01 more breaks the limit that is named. No larger phi of a backbone keeps the limits
on parameters and multiply-adds. Because of rounding, memory and latency do not grow with every step: a phi beyond one
that does not fit may fit again.

A function of your own is called as my_function(depth, width, resolution). The exit status is 1 where no phi fits,
though a dimension alone does, and 2 where nothing does."""


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit status: 1 if the compound rule has no answer."""
    arguments = vars(build_parser().parse_args(argv))
    given = {name: arguments.pop(quantity.argument) for name, quantity in QUANTITIES.items()}
    return exit_status(lambda: fit(given, **arguments), build_parser)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer scale fit",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--baseline", default="b0", metavar="NAME", help="backbone, or import path of a function; default: b0"
    )
    helps = {
        "num_parameters": "parameters, with the classifier",
        "macs": "multiply-adds for one image",
        "memory": "bytes, with a unit, of a training step, or with --inference of a forward pass",
        "latency_ms": "median milliseconds for one image on this machine; measured, which takes minutes",
    }
    limits = parser.add_argument_group("limits, at least one of them")
    for name, quantity in QUANTITIES.items():
        limits.add_argument(f"--{quantity.argument}", metavar=quantity.example, help=helps[name])
    use = parser.add_argument_group("what the network is for")
    images = "images in memory; default: 32"
    use.add_argument(
        "--data.batch_size", "--batch_size", dest="batch_size", type=int, default=32, metavar="N", help=images
    )
    use.add_argument("--inference", action="store_true", help="memory of inference, not of training")
    use.add_argument(
        "--trainer.precision",
        "--precision",
        dest="precision",
        choices=("32-true", "bf16-mixed"),
        default="32-true",
        help="default: 32-true",
    )
    use.add_argument("--num_classes", type=int, default=1000, metavar="N", help="default: 1000")
    use.add_argument("--image_size", type=int, metavar="PX", help="of the baseline; default: its own")
    for name, default in (("alpha", ALPHA), ("beta", BETA), ("gamma", GAMMA)):
        parser.add_argument(f"--{name}", type=float, default=default, metavar="X", help=f"default: {default}")
    parser.add_argument("--measure", action="store_true", help="measure memory and latency, too, of what was found")
    parser.add_argument("--json", type=expanded, metavar="FILE", help="write the answers there too")
    add_help(parser)
    return parser


def fit(
    given: Mapping[str, str | None],
    *,
    baseline: str,
    batch_size: int,
    inference: bool,
    precision: Any,
    num_classes: int,
    image_size: int | None,
    alpha: float,
    beta: float,
    gamma: float,
    measure: bool,
    json: Path | None,
) -> int:
    """Print the largest networks within the limits and return 1 if the compound rule has none.

    Args:
        given: limits as text, by the names of `transfer.costs.limits.QUANTITIES`; the rest are the command's options.

    Raises:
        UserError: limits that cannot be read or that nothing keeps, an unknown baseline, or a function that fails.
    """
    limits = parse_limits(given)
    for name, value in (("batch_size", batch_size), ("num_classes", num_classes), ("image_size", image_size)):
        if value is not None:
            check_count(name, value)
    if json is not None and not json.parent.is_dir():
        raise MissingData(f"`json`={json}: no such folder")

    from transfer.costs.network_costs import Costs, Use
    from transfer.environment import write_figures
    from transfer.experiments.scaling.fit import failures, find_all, measured

    measure = measure or "latency_ms" in limits
    if measure:
        print("measuring takes minutes", file=sys.stderr)
    costs = Costs(baseline, Use(batch_size, inference, precision), num_classes, image_size)
    axes = list_axes(costs.baseline_size, alpha, beta, gamma)
    own, answers = find_all(axes, costs, limits)
    if all(answer.fit.value is None for answer in answers):
        raise BadValue("\n".join([f"no network that {own.name} scales to keeps the limits:", *failures(answers)]))
    if measure:
        answers = [answer if answer.fit.value is None else measured(answer, costs) for answer in answers]
    print_answers(own, answers, limits, costs)
    content = {
        "limits": limits,
        "use": asdict(costs.use),
        "num_classes": num_classes,
        "constants": [alpha, beta, gamma],
        "baseline": asdict(own),
        "answers": {answer.axis: asdict(answer) for answer in answers},
    }
    write_figures(json, content)
    say_training(answers[0], costs)
    return int(answers[0].fit.value is None)


def print_answers(own: Answer, answers: Sequence[Answer], limits: Mapping[str, float], costs: Costs) -> None:
    """Print a column for each axis, and what stops it.

    Args:
        own: the baseline.
        answers: how far each axis goes.
        limits: most that is allowed of each quantity.
        costs: costs of the baseline's networks.
    """
    from transfer.experiments.scaling.fit import failures

    print_table(answer_table(own, answers, limits, costs))
    for answer in answers:
        if answer.fit.value is not None:
            print("".join(f"{answer.too_large}: {each}\n" for each in answer.fit.broken), end="")
    print("".join(f"{line}\n" for line in failures(answers)), end="")
    for each in (Excess(name, cost, limits[name]) for name, cost in own.costs.items() if name in limits):
        if each.needs > each.allowed:
            print(f"{own.name} itself: {each}")
    if latency := next((answer.latency for answer in answers if answer.latency), None):
        print(f"latency: of one image, median and quartiles of {latency.runs} runs, {latency.device}")


def answer_table(own: Answer, answers: Sequence[Answer], limits: Mapping[str, float], costs: Costs) -> Table:
    """Return the table that `print_answers` prints."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    use = costs.use
    title = f"{own.name}, {own.image_size} px, {costs.num_classes} classes; memory predicted for"
    title += f" {'inference' if use.inference else 'training'}, {use.batch_size} images, {use.precision}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for head in ("", "allowed", *(answer.axis for answer in answers)):
        table.add_column(head, overflow="fold")

    def add(head: str, cells: Iterable[str], allowed: str = "", where_none_fits: str = "") -> None:
        pairs = zip(answers, cells, strict=True)
        table.add_row(head, allowed, *(where_none_fits if a.fit.value is None else cell for a, cell in pairs))

    add("backbone", (answer.name for answer in answers), where_none_fits="none fits")
    for name in ("depth", "width", "resolution"):
        add(name, (f"{getattr(answer.factors, name):.4g}" for answer in answers))
    add("image size", (f"{answer.image_size} px" for answer in answers))
    if own.blocks:
        add("blocks", (f"{sum(own.blocks)} → {sum(answer.blocks)}" for answer in answers))
        add("channels", (f"{own.channels[-1]} → {answer.channels[-1]}" for answer in answers))
    for name in own.costs:
        allowed = format_cost(name, limits[name]) if name in limits else ""
        add(QUANTITIES[name].label, (format_cost(name, answer.costs[name]) for answer in answers), allowed)
    latencies = [answer.latency for answer in answers]
    if any(latencies):
        add("  measured", (format_cost("memory", answer.peak) if answer.peak else "too large" for answer in answers))
        allowed = format_cost("latency_ms", limits["latency_ms"]) if "latency_ms" in limits else ""
        add("latency", (format_cost("latency_ms", each.median_ms) if each else "" for each in latencies), allowed)
        ends = [f"{each.lower_quartile_ms:.4g} to {each.upper_quartile_ms:.4g}" if each else "" for each in latencies]
        add("  quartiles", ends)
    add("stopped by", (stop(answer, own) for answer in answers))
    return table


def stop(answer: Answer, own: Answer) -> str:
    """Return the limits that end an axis, or why it ends without one."""
    if answer.fit.broken:
        return " and ".join(QUANTITIES[each.quantity].label for each in answer.fit.broken)
    return "nothing: no effect" if answer.costs == own.costs else "nothing: range ends"


def say_training(answer: Answer, costs: Costs) -> None:
    """Name the command that trains the compound rule's network."""
    from transfer.networks.registry import get_backbone
    from transfer.networks.rows import Variant
    from transfer.weights.start import nearest_published

    if answer.fit.value is None:
        return
    variant = get_backbone(answer.name)
    nearest = nearest_published(variant) if isinstance(variant, Variant) else None
    words = ["--backbone", answer.name]
    if nearest != answer.name:
        words += ["--init_from", nearest] if nearest else ["--pretrained", "false"]
    words += ["--image_size", str(answer.image_size)]
    if not costs.use.inference:
        words += ["--data.batch_size", str(costs.use.batch_size), "--trainer.precision", costs.use.precision]
    say_next("network fitted", words)
