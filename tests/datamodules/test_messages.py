"""What messages about data call an argument is a flag of the commands that read data."""

from __future__ import annotations

import ast
import re
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.dataset.sheet import ReadOptions
from datamodules.reading.folders import read_tables
from tests.datamodules.test_own_tables import embedded
from transfer.commands import doctor, evaluate
from transfer.commands.console import find_flags, name_flags
from transfer.config.command_line import build_parser, build_probe_parser
from transfer.errors import DamagedFile

ROOT = Path(__file__).parents[2] / "datamodules"
# Of functions that only a program calls, and what is no argument.
OTHERS = {
    "preprocessing",
    "classifier.preprocessing",
    "data",
    "save_to_disk",
    "option",
    "crop_ratio",
    "train_transform",
}


def raised_names() -> set[str]:
    """The words in backticks in every raised error and every warning of the package."""
    names: set[str] = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            warns = isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
            if isinstance(node, ast.Raise) or warns:
                names |= set(re.findall(r"`([a-z_][\w.]*)`", ast.unparse(node)))
    return names


def test_every_argument_in_a_message_is_a_flag() -> None:
    flags = find_flags(build_parser) | find_flags(evaluate.build_parser)
    found = raised_names() - OTHERS
    assert {"multilabel", "folder_layout", "data_root", "on_bad_image"} <= found
    assert found <= flags.keys()


@pytest.mark.parametrize("parser", [build_parser, build_probe_parser, doctor.build_parser])
@pytest.mark.parametrize("option", ["image_column", "label_column", "split_column"])
def test_a_column_is_asked_for_by_its_flag(parser: Callable[[], ArgumentParser], option: str) -> None:
    with pytest.raises(DamagedFile, match="no column 'z'") as caught:
        read_tables(embedded(), "t", ReadOptions(**{option: "z"}))
    assert name_flags(str(caught.value), find_flags(parser)).endswith(f"choose one with --data.{option}")
    assert name_flags("set `folder_layout`=classes", find_flags(parser)) == "set --data.folder_layout classes"
