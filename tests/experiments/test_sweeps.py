"""W&B's sweep files: valid by wandb's own schema, and the same runs with and without it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import optuna
import pytest
import yaml
from optuna.trial import FixedTrial
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from tests.support.reported import Page
from transfer.commands import report
from transfer.commands import table as script
from transfer.config.choices import share_batch
from transfer.config.command_line import parse_config
from transfer.config.parsing import flatten
from transfer.config.protocols import get_protocol, protocol_settings
from transfer.errors import UserError
from transfer.experiments import sweep_runs
from transfer.experiments.search import Halving
from transfer.experiments.sweep_record import read_sweep_record
from transfer.experiments.sweep_runs import SweepRuns
from transfer.experiments.sweeps import EarlyTermination, Sweep, load_sweep
from transfer.experiments.table.cells import Cell, Table, cell_id, table_content
from transfer.experiments.table.config import parse_table

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "sweeps"
GRID, BAYES, CELLS = (FOLDER / f"{name}.yaml" for name in ("kornblith_grid", "lr_weight_decay_bayes", "table_cells"))
# sweeps/config/schema.json of PyPI's sweeps 0.3.0 (MIT, Weights and Biases), which does not install beside numpy 2.
SCHEMA = json.loads((ROOT / "tests" / "wandb_sweep_schema.json").read_text())


def is_valid(content: Any) -> bool:
    return jsonschema.Draft7Validator(SCHEMA).is_valid(content)


def draw(sweep: Sweep, count: int) -> list[dict[str, Any]]:
    """Settings of a sweep: points of a grid, or independent draws."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = sweep.points()[:count]
    return [
        sweep.suggest(trial) for trial in (map(FixedTrial, points) if points else (study.ask() for _ in range(count)))
    ]


def agent_arguments(sweep: Sweep, values: dict[str, Any]) -> list[str]:
    """The words after the program as wandb's own code makes them."""
    args = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})["args"]
    words = create_sweep_command(list(sweep.command))
    words = [part for word in words for part in (args if word == "${args}" else [word])]
    return words[words.index("${program}") + 1 :]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_sweep_file_is_valid_and_its_runs_are_the_agents(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert is_valid(content) and (ROOT / content["program"]).is_file()
    assert not is_valid({**content, "methods": "grid", "method": "guess"})
    sweep = load_sweep(path)
    for values in draw(sweep, 3):
        assert sweep.arguments(values) == agent_arguments(sweep, values)


def test_the_grid_is_the_protocols() -> None:
    sweep, protocol = load_sweep(GRID), get_protocol("kornblith")
    draws = draw(sweep, sweep.num_runs(None))
    assert len(draws) == len(protocol.grid) == 7 * 8
    pairs = [flatten({"optim": values["optim"]}) for values in draws]
    assert pairs == list(protocol.grid)
    for values, trial in zip(draws[::11], protocol.grid[::11], strict=True):
        config = flatten(parse_config(sweep.arguments(values))[0].to_dict())
        expected = protocol_settings(protocol, trial, dataset="cifar10", backbone="b0", num_images=50_000)
        assert {name: config[name] for name in expected} == expected
        assert config["trainer.limit_test_batches"] == 0
    for num_processes in (1, 2, 8):
        config, _ = share_batch(parse_config(sweep.arguments(draws[0]))[0], frozenset(), num_processes)
        assert config.data.batch_size * config.trainer.accumulate_grad_batches * num_processes == 256


def test_the_cells_are_the_papers_table() -> None:
    table = parse_table(ROOT / "configs" / "tables" / "paper.yaml", {})
    (protocol,) = table.protocols
    ids = [cell_id(pair.dataset, pair.backbone, protocol, seed) for pair in table.pairs() for seed in table.seeds]
    sweep = load_sweep(CELLS)
    assert sweep.num_runs(None) == len(ids)
    assert [json.loads(point["cell"]) for point in sweep.points()] == ids
    assert sweep.arguments({"cell": ids[0]}) == ["cell", "tables/paper", "--cell=cifar10_b0_kornblith_0"]


def test_a_planned_tables_own_sweep_is_valid_and_starts_its_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = tuple(Cell(f"digits_lite0_paper_{k}", "digits", "lite0", "paper", k, 64, 1437, 1, 8) for k in (0, 1))
    (tmp_path / "table.json").write_text(json.dumps(table_content(Table(cells))))
    words = ("--devices_per_cell", "2", "--retry_failed", "--launcher", "wandb")
    assert script.main(["run", str(tmp_path), *words]) == 0
    assert f"wandb sweep --project efficientnet-transfer {tmp_path / 'sweep.yaml'}" in capsys.readouterr().out
    assert is_valid(yaml.safe_load((tmp_path / "sweep.yaml").read_text()))
    sweep = load_sweep(tmp_path / "sweep.yaml")
    for values, cell in zip(draw(sweep, 2), cells, strict=True):
        verb, *words = agent_arguments(sweep, values)
        expected = {"what": "cell", "out": tmp_path, "cell": cell.id, "devices": 2, "retry_failed": True}
        expected |= {"allow_user_code": False}
        assert verb == "table" and vars(script.build_parser().parse_args(words)) == expected


def test_ranges_are_wandbs() -> None:
    sweep = load_sweep(BAYES)
    draws = draw(sweep, 400)
    assert (sweep.num_runs(None), sweep.num_runs(7)) == (30, 7)
    for name, low, high in (("optim.lr", 1e-4, 1e-1), ("optim.weight_decay", 1e-6, 1e-3)):
        values = [values[name] for values in draws]
        assert low <= min(values) and max(values) <= high
        middle = sum(map(math.log, values)) / len(values)  # uniform in the logarithm
        assert middle == pytest.approx((math.log(low) + math.log(high)) / 2, abs=0.3)
    assert parse_config(sweep.arguments(draws[0]))[0].optim.lr == pytest.approx(draws[0]["optim.lr"])


def test_ranges_and_choices_are_drawn_from() -> None:
    parameters: dict[str, dict[str, Any]] = {"a": {"min": 1, "max": 3}, "b": {"min": 0.0, "max": 0.5}}
    parameters |= {"c": {"values": [{"x": 1}, None, True]}, "d": {"value": 1}}
    draws = draw(Sweep("p.py", "random", parameters), 60)
    assert {values["a"] for values in draws} == {1, 2, 3}
    assert [choice in [values["c"] for values in draws] for choice in ({"x": 1}, None, True)] == [True] * 3
    assert all(0 <= values["b"] <= 0.5 and values["d"] == 1 for values in draws)


@pytest.mark.parametrize(
    ("terms", "halving"),
    [
        ({"min_iter": 3}, Halving(3, 3)),
        ({"min_iter": 2, "eta": 4}, Halving(2, 4)),
        ({"max_iter": 27, "s": 2}, Halving(3, 3)),  # W&B's brackets are 9 and 3
    ],
)
def test_early_terminate_has_wandbs_brackets(terms: dict[str, int], halving: Halving, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    content = {"program": "finetune.py", "method": "grid", "parameters": {"optim.lr": {"values": [0.1]}}}
    content["early_terminate"] = {"type": "hyperband", **terms}
    path.write_text(yaml.safe_dump(content))
    assert is_valid(content)
    found = load_sweep(path).early_terminate
    assert found is not None and found.halving() == halving


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "gird"}, r"unknown method of .*sweep.yaml 'gird'; did you mean 'grid'\?"),
        ({"command": ["${program}"]}, r"its command has no \$\{args\}"),
        ({"parameters": {"optim.lr": {"min": 0.1, "max": 1.0}}}, "parameter optim.lr: a grid needs value or values"),
        ({"method": "random"}, r"method random: the file has no run_cap; say how many runs: `count`=N"),
        ({"parameters": 3}, r"sweep.yaml: damaged: parameters"),
        ({"parameters": {"optim.lr": 0.1}}, r"sweep.yaml: damaged: parameters.optim.lr"),
        ({"parameters": {"optim.lr": {"values": 0.1}}}, "parameter optim.lr: a grid needs value or values"),
        ({"run_cap": "many"}, r"sweep.yaml: damaged: run_cap"),
        ({"command": "finetune"}, r"sweep.yaml: damaged: command"),
        ({"metric": [1]}, r"sweep.yaml: damaged: metric"),
        (
            {"method": "random", "run_cap": 1, "parameters": {"x": {"min": "a", "max": 2}}},
            "x: give value, values, or min",
        ),
        ({"method": "random", "run_cap": 1, "parameters": {"x": {"min": 3, "max": 2}}}, "the smaller one first"),
        (
            {
                "method": "random",
                "run_cap": 1,
                "parameters": {"x": {"min": 0, "max": 2, "distribution": "log_uniform_values"}},
            },
            "parameter x: min is 0",
        ),
        (
            {"method": "random", "run_cap": 1, "parameters": {"x": {"min": 1.0, "max": 2.0, "distribution": "normal"}}},
            r"unknown distribution of x 'normal'",
        ),
        ({"parameters": {"x": {"value": 1, "q": 2}}}, "unknown key of parameter x 'q'"),
        ({"early_terminate": {"type": "envelope"}}, "unknown early_terminate.type 'envelope'"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate needs min_iter, or max_iter and s"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 3, "s": 2}}, "that come to at least 1"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}}, "early_terminate.eta is 1"),
    ],
)
def test_what_only_wandb_can_do_is_said(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "sweep.yaml"
    content = {"program": "finetune.py", "method": "grid", "parameters": {"optim.lr": {"values": [0.1]}}}
    path.write_text(yaml.safe_dump({**content, **change}))
    with pytest.raises(UserError, match=message):
        load_sweep(path).num_runs(None)


def test_a_sweep_of_the_installed_package_has_the_same_arguments() -> None:
    command = ("${env}", "${interpreter}", "-m", "${program}", "finetune", "--dataset=digits", "${args}")
    values = {"optim.lr": 0.1}
    installed = Sweep("transfer", "grid", {}, command)
    script_of_ours = Sweep("scripts/finetune.py", "grid", {}, ("${program}", "--dataset=digits", "${args}"))
    expected = ["--dataset=digits", "--optim.lr=0.1"]
    assert installed.finetune_arguments(values) == script_of_ours.finetune_arguments(values) == expected
    assert ["finetune", *expected] == agent_arguments(installed, values)


def test_a_logger_of_the_files_command_is_overridden(tmp_path: Path) -> None:
    command = ("${program}", "--logger", "wandb", "${args}")
    runs = SweepRuns(Sweep("finetune.py", "grid", {}, command), tmp_path, seed=0)
    assert parse_config(runs.arguments({"logger": "wandb", "optim.lr": 0.1}))[0].logger == "csv"


def test_a_sweep_of_cells_is_sent_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["sweep", str(CELLS), "--out_dir", str(tmp_path / "out")]) == 2
    assert (
        "the sweep runs scripts/table.py cell; only sweeps of finetune run here (cells of a table: efficientnet-"
        in capsys.readouterr().err
    )
    assert script.main(["sweep", str(tmp_path / "none.yaml"), "--out_dir", str(tmp_path)]) == 2
    assert "none.yaml: no such file" in capsys.readouterr().err


def test_runs_that_failed_or_are_damaged_are_a_line_each_and_the_best_is_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = [0.1, 0.2, 0.3, 0.4, 0.5]
    file, out = tmp_path / "sweep.yaml", tmp_path / "out"
    parameters = {
        "optim.lr": {"values": rates},
        "logger": {"value": "wandb"},
        "trainer.limit_test_batches": {"value": 0},
    }
    file.write_text(yaml.safe_dump({"program": "finetune.py", "method": "grid", "parameters": parameters}))

    def ended(tasks: Any, *_: Any) -> Any:
        whole = {"command": [], "dataset": "digits", "backbone": "lite0"}
        for task, top1 in zip(tasks, (0.5, 0.75, float("nan"), None, 0.9), strict=True):
            assert task.command[-3:] == ["--trainer.limit_test_batches=0", "--out_dir", str(out / task.name)]
            (out / task.name).mkdir()
            if top1 is None:
                task.log.write_text("epoch 1\nerror: training loss is nan in epoch 1\n")
            else:
                content = {**whole, "metrics": {"val": {"top1": top1}}}
                (out / task.name / "results.json").write_text("{" if top1 == 0.9 else json.dumps(content))
            yield task.name, 3 if top1 is None else 0

    monkeypatch.setattr(sweep_runs, "run_pool", ended)
    assert script.main(["sweep", str(file), "--out_dir", str(out)]) == 1
    captured = capsys.readouterr()
    assert f"logger wandb of {file} is ignored" in captured.out
    rows = [line.split()[:3] for line in captured.out.splitlines() if line.strip()[:2].isdecimal()]
    assert rows[:2] == [["01", "0.7500", "0.2"], ["00", "0.5000", "0.1"]]
    assert [row[0] for row in rows[2:]] == ["02", "03", "04"] and captured.out.count(" failed \n") == 3
    assert "train the best again, and test it: efficientnet-transfer finetune --optim.lr=0.2\n" in captured.out
    lines = captured.err.splitlines()
    assert len(lines) == 3
    assert lines[0] == f"{out / '02'}: no finite val/top1, left out"
    assert "03: exit status 3: error: training loss is nan in epoch 1 (" in lines[1]
    assert lines[2].startswith(f"{out / '04' / 'results.json'} line 1: not JSON")
    assert captured.out.count(f"report: {out / 'report.html'}\n") == 1
    page = Page((out / "report.html").read_text())
    rows = page.tables[0]
    assert rows[0] == ["run", "val/top1", "optim.lr", ""]
    assert rows[1:3] == [["01", "75.00%", "0.2", ""], ["00", "50.00%", "0.1", ""]]
    assert [row[3].partition(str(out))[0] for row in rows[3:]] == ["failed"] * 3
    text = " ".join(page.text.split())
    assert "75.00% is the highest val/top1, of run 01: optim.lr 0.2. Runs: 3 failed, 2 done." in text
    assert "efficientnet-transfer finetune --optim.lr=0.2" in text
    first = (out / "report.html").read_bytes()
    assert report.main([str(out)]) == 0 and (out / "report.html").read_bytes() == first
    record = read_sweep_record(out)
    assert [(one.number, one.value) for one in record.trials] == [(1, 0.75), (0, 0.5), (2, None), (3, None), (4, None)]
    (out / "sweep.json").write_text("[]")
    assert report.main([str(out)]) == 2 and "sweep.json" in capsys.readouterr().err


def test_a_run_that_is_worse_than_the_others_is_stopped_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each run writes its validations; the second one is worse than the first after two of them."""
    parameters = {"optim.lr": {"values": [0.1, 0.2]}}
    sweep = Sweep("finetune.py", "grid", parameters, early_terminate=EarlyTermination("hyperband", min_iter=2))
    runs = SweepRuns(sweep, tmp_path, seed=0)
    asked: list[list[bool]] = []

    def ended(tasks: Any, *_: Any) -> Any:
        for task, values in zip(tasks, ((0.3, 0.5, 0.6), (0.4, 0.4)), strict=True):
            run_dir = tmp_path / task.name
            run_dir.mkdir()
            asked.append([task.is_hopeless()])
            for number in range(len(values)):
                lines = [f"{value}," for value in values[: number + 1]]
                (run_dir / "metrics.csv").write_text("\n".join(["val/top1,lr", *lines, ""]))
                asked[-1].append(task.is_hopeless())
            if not asked[-1][-1]:
                content = {"command": [], "dataset": "digits", "backbone": "lite0", "metrics": {"val": {"top1": 0.6}}}
                (run_dir / "results.json").write_text(json.dumps(content))
            yield task.name, -15 if asked[-1][-1] else 0

    monkeypatch.setattr(sweep_runs, "run_pool", ended)
    runs.compute(2, 1, 1, ["gpu"], "")
    assert asked == [[False] * 4, [False, False, True]]
    assert [(one.state, one.value) for one in runs.ended()] == [("done", 0.6), ("stopped early", None)]
    assert capsys.readouterr().err == ""
