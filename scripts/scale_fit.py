"""The largest network within limits (Tan & Le 2019, section 3.1): scale.py fit --max_macs 1.8e9 --max_memory 16GiB

Scales a baseline by the compound rule and by depth, width and resolution alone, each as far as the limits let it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.errors import UserError, exit_status
from transfer.fit import QUANTITIES, Axis, Fit, format_cost, largest_fit, list_axes, parse_limits
from transfer.scaling import ALPHA, BETA, GAMMA, Scale

if TYPE_CHECKING:
    from transfer.costs import BackboneCosts, FunctionCosts

_EPILOG = """\
phi, and each coefficient alone, is a multiple of 0.01 that keeps the coefficients within 0.1 to 10. What is printed
keeps every limit, and the next 0.01 breaks the limit that is named. No larger phi of a backbone keeps the limits on
parameters and multiply-adds. Memory and latency grow with phi nearly always, but not at every step of rounding: there a
larger phi, beyond one that does not fit, may fit again.

  scale.py fit --max_macs 1.8e9 --max_memory 16GiB --max_params 20e6 --batch_size 32
  scale.py fit --baseline resnet50 --max_memory 8GB --inference --batch_size 1 --max_latency_ms 30
  scale.py fit --baseline my_module.my_function --image_size 32 --max_macs 50e6

A function is called as my_function(depth, width, resolution) and gives a network for images of 3 channels.
The exit status is 1 where no phi fits, though a dimension alone may."""


def main(argv: Sequence[str]) -> int:
    """Runs the command line and gives the exit status: 1 if the compound rule has no answer."""
    arguments = vars(build_parser().parse_args(argv))
    given = {name: arguments.pop(quantity.flag.removeprefix("--")) for name, quantity in QUANTITIES.items()}
    statuses: list[int] = []
    return exit_status(lambda: statuses.append(fit(given, **arguments))) or statuses[0]


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scale.py fit",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--baseline", default="b0", metavar="NAME", help="backbone, or import path of a function; default: b0"
    )
    limits = parser.add_argument_group("limits, at least one")
    helps = {
        "num_params": "parameters",
        "macs": "multiply-adds for one image",
        "memory": "bytes with a unit, of a training step or with --inference of a forward pass",
        "latency_ms": "median milliseconds for one image here; it is measured, which takes minutes",
    }
    for name, quantity in QUANTITIES.items():
        limits.add_argument(quantity.flag, metavar=quantity.example, help=helps[name])
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="images in memory; default: 32")
    parser.add_argument("--inference", action="store_true", help="memory of inference, not of training")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="default: 32-true")
    parser.add_argument("--num_classes", type=int, default=1000, metavar="N", help="default: 1000")
    parser.add_argument("--image_size", type=int, metavar="PX", help="of the baseline; default: its own")
    for name, default in (("alpha", ALPHA), ("beta", BETA), ("gamma", GAMMA)):
        parser.add_argument(f"--{name}", type=float, default=default, help=f"of the rule; default: {default}")
    parser.add_argument("--measure", action="store_true", help="measure memory and latency of what was found")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the answers there too")
    return parser


@dataclass(frozen=True)
class Answer:
    """What an axis gives: the largest network, with its costs, or why there is none.

    Attributes:
        name: of the network; usable as a backbone.
        unchanged: it costs what the baseline costs, though it is scaled.
        blocks, channels: of each stage; None of a function's network.
    """

    axis: str
    fit: Fit
    name: str
    factors: Scale
    image_size: int
    num_params: int
    macs: int
    memory: int
    unchanged: bool = False
    blocks: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None


def fit(
    given: dict[str, str | None],
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
    """Prints the largest networks within the limits; gives 1 if the compound rule has none.

    Raises:
        UserError: limits that are none or that nothing keeps, an unknown baseline, or a function that fails.
    """
    limits = parse_limits(given)
    for flag, value in (("batch_size", batch_size), ("num_classes", num_classes), ("image_size", image_size)):
        if value is not None and value < 1:
            raise UserError(f"--{flag} {value} (allowed: at least 1)")
    if json is not None and not json.parent.is_dir():
        raise UserError(f"--json {json}: no such folder")

    from transfer.costs import Use, get_costs

    sys.path.append(str(Path.cwd()))  # where a function of the user's own may lie
    use = Use(batch_size, inference, precision)
    costs = get_costs(baseline, use, num_classes, image_size)
    axes = list_axes(costs.baseline_size, alpha, beta, gamma)
    answers = {axis.name: find(axis, costs, limits) for axis in axes}
    own = describe(axes[0], Fit(axes[0].origin, ()), costs)
