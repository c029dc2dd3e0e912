"""Code that a file names is imported only if the user allows it; code that the user names is his own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from tests.support.runs import call
from transfer.commands import convert, costs, evaluate, explain, finetune, predict, probe, table
from transfer.commands.doctor import doctor
from transfer.commands.scale import run as scale_run
from transfer.config.command_line import parse_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import UserError
from transfer.runs.checkpoint import save_classifier
from transfer.runs.predictor import load_run
from transfer.weights.build import build_classifier

CODE = """
from pathlib import Path
from torch import nn
Path("executed").touch()
def Head(num_features, num_classes, dropout):
    return nn.Linear(num_features, num_classes)
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run of somebody else's, whose head is code beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    run = tmp_path / "run"
    run.mkdir()
    config = FinetuneConfig(backbone="lite0", pretrained=False).to_dict()
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "head": "evil.Head"}))
    network = build_classifier("lite0", 2, head=torch.nn.Linear(1280, 2), pretrained=False)
    facts = {"image_size": 32, "crop_ratio": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    save_classifier(run / "best.ckpt", network, {**facts, "resize": "short_side", "class_names": ["cat", "dog"]})
    (tmp_path / "evil.py").write_text(CODE)
    (tmp_path / "photo.png").write_bytes(b"")
    yield run
    sys.modules.pop("evil", None)


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (predict.main, ("run", "photo.png")),
        (explain.main, ("run", "photo.png")),
        (evaluate.main, ("run",)),
        (costs.main, ("run",)),
        (costs.main, ("run", "--plan")),
        (costs.main, ("--compare", "lite0,run")),
        (convert.main, ("run", "out.safetensors", "--to", "own")),
        (finetune.main, ("--resume", "run")),
        (finetune.main, ("--config", "run/config.yaml")),
        (finetune.main, ("--config", "run/config.yaml", "--backbone", "lite0")),
        (finetune.main, ("--init_head", "run", "--pretrained", "false", "--trainer.accelerator", "cpu")),
    ],
)
def test_no_command_imports_what_a_run_or_a_recipe_names(
    main: Callable[..., int], argv: tuple[str, ...], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(main, *argv) == 2
    err = capsys.readouterr().err
    assert "--allow_user_code" in err and "evil.Head" in err and str(run.parent) in err and "Traceback" not in err
    assert not Path("executed").exists()


def test_a_probe_imports_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text("backbone: evil.Head\n", encoding="utf-8")
    assert call(probe.main, "--config", "recipe.yaml") == 2
    assert "evil.Head" in capsys.readouterr().err and not Path("executed").exists()


@pytest.mark.parametrize("main", [finetune.main, probe.main])
def test_a_run_to_start_from_is_compared_without_an_import(
    main: Callable[..., int], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = FinetuneConfig(backbone="lite0", pretrained=False).to_dict()
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "backbone": "evil.Head"}), encoding="utf-8")
    assert call(main, "--weights", "run", "--backbone", "lite0") == 2
    assert "a run of evil.Head, not of lite0" in capsys.readouterr().err
    assert not Path("executed").exists()


def test_the_library_asks_as_the_commands_do(run: Path) -> None:
    for refused in (lambda: load_run(run), lambda: finetune.finetune(resume=run), lambda: doctor("digits", run=run)):
        with pytest.raises(UserError, match=r"`head`=evil\.Head.*`allow_user_code`=True"):
            refused()
    assert not Path("executed").exists()
    assert load_run(run, allow_user_code=True).class_names == ("cat", "dog")
    assert Path("executed").exists()


def test_what_the_user_types_or_allows_is_taken(run: Path) -> None:
    assert parse_config(["--head", "evil.Head"])[0].head == "evil.Head"
    assert parse_config(["--config", "run/config.yaml", "--head=evil.Head"])[0].head == "evil.Head"
    assert parse_config(["--config", "run/config.yaml", "--allow_user_code"])[0].head == "evil.Head"
    assert parse_config(["--config", "run/config.yaml", "--head", "mlp"])[0].head == "mlp"
    Path("recipe.yaml").write_text("allow_user_code: true\nhead: evil.Head\n", encoding="utf-8")
    with pytest.raises(UserError, match="allow_user_code"):
        parse_config(["--config", "recipe.yaml"])


def test_tables_studies_and_sweeps_import_nothing_of_a_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = {"id": "a", "dataset": "digits", "backbone": "evil.Head@phi=1", "protocol": "scratch", "seed": 0}
    sizes = {"image_size": 32, "num_images": 9, "num_parameters": 9, "max_batch_per_device": 9}
    Path("table").mkdir()
    Path("table/table.json").write_text(json.dumps({"cells": [{**cell, **sizes}]}), encoding="utf-8")
    Path("study").mkdir()
    trial = {"name": "a", "backbone": "evil.Head", "values": {}, "image_size": 32, "num_macs": 1, "num_parameters": 1}
    planned = {"id": "a_s0", "trial": "a", "seed": 0, "steps": 1, "round": 0}
    options = {
        **dict.fromkeys(("steps", "image_size", "threads", "train_images", "val_images", "num_classes"), 32),
        **{"baseline": "b0", "dataset": "digits", "seeds": [0], "baseline_macs": 1, "equal": 0.1, "budget_steps": None},
    }
    study = {"kind": "search", "options": options, "settings": {}, "trials": [trial], "runs": [planned]}
    Path("study/study.json").write_text(json.dumps(study), encoding="utf-8")
    sweep = {"program": "scripts/finetune.py", "method": "grid", "parameters": {"head": {"value": "evil.Head"}}}
    Path("sweep.yaml").write_text(yaml.safe_dump(sweep), encoding="utf-8")
    Path("plan.yaml").write_text("backbones: [evil.Head]\ndatasets: [digits]\n", encoding="utf-8")
    for main, argv in (
        (table.main, ("run", "table")),
        (table.main, ("cell", "table", "--cell", "a")),
        (table.main, ("sweep", "sweep.yaml", "--out_dir", "sweep")),
        (table.main, ("plan", "planned", "--config", "plan.yaml")),
        (scale_run.main, ("study", "--run", "a_s0")),
    ):
        assert call(main, *argv) == 2
        err = capsys.readouterr().err
        assert "--allow_user_code" in err and "evil.Head" in err and "Traceback" not in err, err
    assert not Path("executed").exists()
