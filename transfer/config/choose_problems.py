"""Checks of the configuration of a choice among networks."""

from __future__ import annotations

from transfer.config.choose_schema import METHODS, MOST_SETTINGS, ChooseConfig
from transfer.config.durations import parse_duration
from transfer.config.probe_schema import ProbeConfig
from transfer.config.problems import find_probe_problems
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue
from transfer.preprocessing import SMALLEST_IMAGE


def find_choose_problems(config: FinetuneConfig, own: ChooseConfig) -> list[str]:
    """Return a message for each setting that a choice does not support, with its field in backticks."""
    problems = find_probe_problems(config, ProbeConfig(engine=own.engine))
    if not all(own.names):
        problems.append(f"`backbones`={own.backbones!r} (allowed: names separated by commas, as lite0,lite1)")
    try:
        sizes_fit = all(size is None or SMALLEST_IMAGE <= size <= 8192 for size in own.sizes)
    except ValueError:
        sizes_fit = False
    if not sizes_fit:
        allowed = f"{SMALLEST_IMAGE} to 8192, separated by commas, as 128,224"
        problems.append(f"`image_sizes`={own.image_sizes!r} (allowed: {allowed})")
    for name, value, most in (("folds", own.folds, 1000), ("repeats", own.repeats, 100)):
        least = 2 if name == "folds" else 1
        if not least <= value <= most:
            problems.append(f"`{name}`={value} (allowed: {least} to {most})")
    methods = own.method_names
    if "probe" not in methods or not set(methods) <= set(METHODS):
        problems.append(f"`methods`={own.methods!r} (allowed: probe, or probe,lpft)")
    if own.search and not 2 <= own.search <= MOST_SETTINGS:
        problems.append(f"`search`={own.search} (allowed: 0, or 2 to {MOST_SETTINGS} settings)")
    if own.search and not own.tries_lpft:
        problems.append(f"`search`={own.search} needs lpft among `methods`, whose settings it finds")
    if own.search_dir is not None and not own.search:
        problems.append(f"`search_dir`={own.search_dir} needs `search`")
    try:
        parse_duration(own.budget, "budget")
    except BadValue as error:
        problems.append(str(error))
    return problems
