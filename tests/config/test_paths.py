"""`~` is the home folder wherever a path is given: on a command line, in a recipe, and in a call."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from datamodules.dataset.sheet import ReadOptions
from tests.commands.test_flags import COMMANDS
from transfer.config.command_line import build_config, parse_config, parse_probe_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, MissingData
from transfer.files import expanded
from transfer.runs.predictor import load_run
from transfer.runs.results import read_results
from transfer.weights.start import resolve_start

FIELDS = ("out_dir", "data_root", "weights", "init_head", "teacher", "data.cache_dir")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def field(config: FinetuneConfig, name: str) -> object:
    return config.data.cache_dir if name == "data.cache_dir" else getattr(config, name)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_of_a_run_is_expanded_however_it_is_given(home: Path, name: str) -> None:
    (home / "r.yaml").write_text(f'{name.replace(".", ": {")}: "~/there"{"}" if "." in name else ""}\n')
    for argv in ([f"--{name}", "~/there"], [f"--{name}=~/there"], ["--config=~/r.yaml"]):
        assert field(parse_config([*argv, "--data.cache", "disk"])[0], name) == str(home / "there")
    assert field(build_config(None, None, {name: "~/there", "data.cache": "disk"})[0], name) == str(home / "there")
    assert field(build_config(None, None, {name: Path("~/there"), "data.cache": "disk"})[0], name) == str(
        home / "there"
    )


def test_the_folder_of_a_cache_without_a_cache_is_refused(home: Path) -> None:
    for cache in ("none", "ram"):
        message = f"`data.cache_dir`=there with `data.cache`={cache}: unused \\(use disk\\)"
        with pytest.raises(BadValue, match=message):
            parse_config(["--data.cache_dir", "there", "--data.cache", cache])
        with pytest.raises(BadValue, match=message):
            build_config(None, None, {"data": {"cache_dir": "there", "cache": cache}})
    (home / "probe.yaml").write_text("data: {cache_dir: there}\n", encoding="utf-8")
    assert parse_config(["--config=~/probe.yaml"])[0].data.cache_dir == "there"


def test_the_fields_of_a_probe_are_expanded(home: Path) -> None:
    config, own = parse_probe_config(["--out_dir=~/p", "--beside=~/f", "--data.cache_dir=~/c"])
    found = (config.out_dir, own.beside, config.data.cache_dir)
    assert found == tuple(str(home / name) for name in "pfc")


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from actions(subparser)
        else:
            yield action


@pytest.mark.parametrize("command", COMMANDS)
def test_every_path_argument_of_a_command_goes_through_one_function(command: str) -> None:
    for action in actions(import_module(f"transfer.commands.{command}").build_parser()):
        assert action.type is not Path, action
        if action.metavar in ("FILE", "OUT", "RUN_DIR", "IMAGES", "PATH", "SOURCE", "DEST"):
            assert action.type is expanded, action


def test_functions_of_the_library_expand(home: Path) -> None:
    for read in (load_run, read_results):
        with pytest.raises(MissingData, match=str(home / "gone")):
            read("~/gone")
    assert resolve_start("b0", True, weights="~/b0.pth").weights == home / "b0.pth"
    assert ReadOptions(data_root="~/photos").root == home / "photos"
    with pytest.raises(MissingData, match=str(home / "gone")):
        build_config(None, expanded("~/gone"), {})


def test_what_cannot_be_a_path_is_refused() -> None:
    with pytest.raises(BadValue, match="nobody-of-this-name"):
        parse_config(["--out_dir", "~nobody-of-this-name/runs"])
    with pytest.raises(BadValue, match="NUL"):
        build_config(None, None, {"out_dir": "a\0b"})
