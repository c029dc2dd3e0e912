"""What a table is made of: a YAML file and options, which are both a `TableConfig`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import jsonargparse

from transfer.config.command_line import parse_config, split_pairs
from transfer.config.parser_errors import explain
from transfer.config.parsing import flatten
from transfer.config.resuming import RESUMABLE
from transfer.errors import BadValue, check_count
from transfer.yaml_files import read_yaml

# Fields of a run that the table decides, and by what.
DECIDED = {
    "dataset": "`datasets`",
    "backbone": "`backbones`",
    "seed": "`seeds`",
    "protocol": "`protocols`",
    "recipe": "`protocols`",
    "pretrained": "`pretrained`",
    "data_root": "`data_root`",
    "out_dir": "the table's own folder",
    "trainer.devices": "`devices_per_cell` of table run",
    "trainer.limit_test_batches": "the test split is read once, by the final fit",
    "data.train_on": "the protocol",
    **dict.fromkeys(("folds", "fold"), "trials are compared on the dataset's own val"),
}


@dataclass(kw_only=True)
class Pair:
    """A row of the table: a backbone and the dataset that it is fine-tuned on."""

    dataset: str
    backbone: str


@dataclass(kw_only=True)
class TableConfig:
    """Which cells a table has, and how its runs differ from their protocols."""

    cells: list[Pair] = field(default_factory=list)
    """pairs of dataset and backbone; empty: every one of `datasets` with every one of `backbones`"""
    datasets: list[str] = field(default_factory=list)
    """with `cells`: only these of them"""
    backbones: list[str] = field(default_factory=list)
    """with `cells`: only these of them"""
    protocols: list[str] = field(default_factory=lambda: ["kornblith"])
    """names of transfer.config.protocols, and linear-probe: logistic regression on the frozen network's features"""
    seeds: list[int] = field(default_factory=lambda: [0])
    """one cell each"""
    pretrained: bool | str | None = None
    """weights, as in finetune, for protocols that name none; unset: finetune's default"""
    data_root: str | None = None
    """folder of the data, as in finetune, for every dataset"""
    data_note: str | None = None
    """what a reader must know about the data, such as `JPEG copy`; stands beside each result"""
    set: dict[str, Any] = field(default_factory=dict)
    """fields of every run that differ from the protocol; results are then not comparable; linear-probe takes those that
    the probe command has"""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """values to choose from instead of the protocol's, in every combination"""
    budget_steps: int | None = None
    """most optimizer steps of a cell's trials, which are then chosen by successive halving"""
    max_batch_per_device: int | None = None
    """images that fit on a device; the rest of a step's batch is accumulated; unset: estimated when planned"""

    def pairs(self) -> list[Pair]:
        """Return the dataset and backbone of each row.

        Raises:
            UserError: there is none.
        """
        if self.cells:
            chosen = [
                pair
                for pair in self.cells
                if (not self.datasets or pair.dataset in self.datasets)
                and (not self.backbones or pair.backbone in self.backbones)
            ]
        else:
            chosen = [Pair(dataset=d, backbone=b) for d, b in product(self.datasets, self.backbones)]
        if not chosen:
            source = "no cell of the file is of these datasets and backbones" if self.cells else "no cells"
            raise BadValue(f"{source}: give `config`=FILE (configs/tables/), or `datasets` and `backbones`")
        return chosen

    def not_comparable(self) -> dict[str, Any]:
        """Return the fields of `set` that change what is computed, not only where or how fast.

        `allow_decayed` is left out: a result says by itself whether its data has decayed.
        """
        told = {name for name in self.set if RESUMABLE.fullmatch(name) and name != "trainer.max_time"}
        told.add("allow_decayed")
        return {name: value for name, value in self.set.items() if name not in told}


def parse_table(path: Path | None, flags: Mapping[str, Any]) -> TableConfig:
    """Return the table of a YAML file, with fields that replace those of the file.

    Args:
        path: the file; None for a table that is made of `flags` alone.
        flags: fields of `TableConfig`; `set` and `grid` are lists of texts such as `optim.lr=0.1` and
            `optim.lr=0.01,0.1`.

    Raises:
        UserError: no such file; an unknown key, with the nearest name; a value of the wrong type or out of range.
    """
    content: Any = {}
    if path is not None:
        content = read_yaml(path).content
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TableConfig)
    try:
        values = dict(vars(parser.instantiate(parser.parse_object({**content, **_split(flags)}))))
    except jsonargparse.ArgumentError as error:
        names = [name.name for name in dataclasses.fields(TableConfig)]
        raise BadValue(f"{path or 'table'}: {explain(str(error), names)}") from None
    config = TableConfig(**values)
    config.set = typed(config.set)
    config.grid = {name: [typed({name: value})[name] for value in choices] for name, choices in config.grid.items()}
    _check_ranges(config)
    return config


def _check_ranges(config: TableConfig) -> None:
    for name, least in (("budget_steps", 1), ("max_batch_per_device", 2)):
        value = getattr(config, name)
        if value is not None:
            check_count(name, value, least)
    for name in ("protocols", "seeds"):
        if not getattr(config, name):
            raise BadValue(f"`{name}`: give at least one")
    if len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        raise BadValue(f"`seeds`={' '.join(map(str, config.seeds))} (allowed: different numbers of at least 0)")


def typed(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted fields of a run with values of the types that `FinetuneConfig` has.

    Raises:
        UserError: an unknown field, with the nearest name; a wrong value; a field that the cell decides.
    """
    for name in overrides:
        if name in DECIDED:
            raise BadValue(f"`set` {name}: the table decides it ({DECIDED[name]})")
    words = [f"--{name}={'null' if value is None else value}" for name, value in overrides.items()]
    values = flatten(parse_config(words)[0].to_dict())
    return {name: values[name] for name in overrides}


def _split(flags: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(flags)
    for name in ("set", "grid"):
        if name in given:
            pairs = split_pairs(f"`{name}`", given[name], "optim.lr=0.1")
            given[name] = {key: _values(value) if name == "grid" else value for key, value in pairs}
    return given


def _values(text: str) -> Sequence[str]:
    return [value for value in text.split(",") if value]
