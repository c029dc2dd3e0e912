"""What tells two runs apart, and which of them is better, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transfer.config.data_schema import LOADER_FIELDS
from transfer.config.parsing import flatten
from transfer.config.probe_schema import is_probe_field
from transfer.runs.names import name_data
from transfer.runs.results import Results

if TYPE_CHECKING:
    from transfer.resampling import Difference
    from transfer.seeds import SeedDifference

# Fields that change no result.
_IDLE = frozenset(("out_dir", "logger", "beside", "data.num_workers", "data.cache_dir", "trainer.enable_progress_bar"))
_OF_BATCHES = frozenset(f"data.{name}" for name in LOADER_FIELDS)


def describe_run(results: Results) -> str:
    """Return network, method, data and seed of a run in a few words."""
    size = f" {results.image_size} px" if results.image_size else ""
    data = name_data(results.dataset, results.config.get("data_root"))
    return f"{results.backbone}{size}, {_method(results)}, on {data}, seed {results.seed}"


def find_differences(a: Results, b: Results) -> dict[str, tuple[Any, Any]]:
    """Return the values of every setting in which two runs differ, as they were resolved, A's first.

    A linear probe has few of the fields; beside one, only those are compared.
    """
    settings = [_settings(run) for run in (a, b)]
    names = [name for name in settings[0] if name in settings[1]]
    return {name: (settings[0][name], settings[1][name]) for name in names if settings[0][name] != settings[1][name]}


def _settings(run: Results) -> dict[str, Any]:
    resolved: dict[str, Any] = {"backbone": run.backbone, "weights": (run.weights or {}).get("name")}
    resolved |= {"method": _method(run), "image_size": run.image_size}
    if (train := run.splits.get("train")) is not None:
        resolved |= {"training images": train.size, "fingerprint of train": train.fingerprint}
    fields = {name: value for name, value in flatten(run.config).items() if name not in _IDLE}
    if run.probe is not None:
        fields = {name: value for name, value in fields.items() if is_probe_field(name) and name not in _OF_BATCHES}
        return resolved | fields | resolved
    trained = {"optim.lr": run.lr, "global_batch_size": run.global_batch_size, "trainer.precision": run.precision}
    return resolved | fields | resolved | {name: value for name, value in trained.items() if value is not None}


def _method(run: Results) -> str:
    return "probe" if run.probe else run.config.get("method") or "full"


def judge(difference: Difference, num_images: int, differences: Mapping[str, tuple[Any, Any]]) -> str:
    """Return which of two runs is better, in a sentence.

    Args:
        difference: A's accuracy less B's.
        num_images: test images of both.
        differences: see `find_differences`.
    """
    images = f"{num_images:,} test images"
    value, low, high = (100 * share for share in (difference.value, difference.low, difference.high))
    if value == low == high == 0:
        return f"they are equally good on every resample of these {images}"
    better, ahead = ("A", value) if value > 0 else ("B", -value)
    low, high = (low, high) if value > 0 else (-high, -low)
    interval = f"({low:+z.1f} to {high:+z.1f}), {images}"
    if low <= 0 or difference.p_value >= 0.05:
        lead = f"{better} is {ahead:.1f} points ahead" if value else "none is ahead"
        return f"cannot tell which is better: {lead} {interval}; more test images could"
    caveat = "; they differ only in the seed, so another seed may turn it" if [*differences] == ["seed"] else ""
    return f"{better} is better: +{ahead:.1f} points {interval}{caveat}"


def judge_settings(difference: SeedDifference, num_images: int) -> str:
    """Return which of two settings of several seeds is better, in a sentence.

    Args:
        difference: A's accuracy less B's.
        num_images: test images of all runs.
    """
    a, b = difference.num_seeds
    seeds = f"{a} seeds in pairs" if difference.paired else f"{a} and {b} seeds"
    better, sign = ("B", -1) if difference.value < 0 else ("A", 1)
    value, *ends = (100 * sign * share for share in (difference.value, difference.low, difference.high))
    low, high = sorted(ends)
    interval = f"({low:+z.1f} to {high:+z.1f}), {num_images:,} test images, {seeds}"
    doubt = "" if difference.covers_seeds else "; a single seed does not say how far others would differ"
    if difference.p_value >= 0.05:
        lead = f"{better} is {value:.1f} points ahead" if value else "none is ahead"
        return f"cannot tell which is better: {lead} {interval}; more seeds or test images could{doubt}"
    return f"{better} is better: {value:+z.1f} points {interval}{doubt}"
