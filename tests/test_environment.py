"""results.json is written whole, the closing table carries the paper's numbers, the environment is recorded."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from transfer import environment as module
from transfer import files
from transfer.commands.results_table import print_results
from transfer.environment import environment, git_commit, peak_memory_bytes, write_figures
from transfer.files import write_json
from transfer.runs.intervals import find_intervals
from transfer.statistics import share_interval

VAL = {"loss": 0.51234, "top1": 0.9125, "ece": 0.03333}
TEST = {"loss": 0.43219, "top1": 0.97505, "ece": 0.02}


def table_rows(text: str) -> list[list[str]]:
    """The cells of each row of a printed table, headings first."""
    lines = [line for line in text.splitlines() if line[:1] in "│┃"]
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines]


def test_json_round_trips_and_leaves_no_other_file(tmp_path: Path) -> None:
    content = {"metrics": {"test": {"top1": 0.1 + 0.2}}, "names": ["1", "10"], "none": None}
    write_json(tmp_path / "results.json", content)
    assert json.loads((tmp_path / "results.json").read_text()) == content
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_json_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    with open(path, encoding="utf-8") as reader:  # began before and ends after: reads the old file, never a mixture
        write_json(path, {"b": 1})
        assert json.load(reader) == {"a": 1}
    assert json.loads(path.read_text()) == {"b": 1}


def test_a_value_that_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"old": 1})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_json(path, {"first": "fine", "second": object()})
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"old": 1})

    class FullDisk(io.FileIO):
        def write(self, content: Any) -> int:
            super().write(content[: len(content) // 2])
            raise OSError(28, "No space left on device", str(self.name))

    monkeypatch.setattr(files, "open", lambda path, mode: FullDisk(path, mode.replace("b", "")), raising=False)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"new": list(range(1000))})
    assert json.loads(path.read_text()) == {"old": 1} and list(tmp_path.iterdir()) == [path]


def test_the_table_has_every_metric_for_both_splits(capsys: pytest.CaptureFixture[str]) -> None:
    print_results("digits", "lite0", {"val": VAL, "test": TEST})
    printed = capsys.readouterr().out
    assert printed.startswith("lite0 on digits")
    assert table_rows(printed) == [
        ["metric", "val", "test"],
        ["loss", "0.5123", "0.4322"],
        ["top1", "91.25%", "97.50%"],
        ["ece", "0.0333", "0.0200"],
    ]


def test_the_table_without_a_test_split_has_one_column(capsys: pytest.CaptureFixture[str]) -> None:
    print_results("folder", "b0", {"val": VAL})
    rows = table_rows(capsys.readouterr().out)
    assert rows[0] == ["metric", "val"] and rows[2] == ["top1", "91.25%"] and len(rows) == 4


@pytest.mark.parametrize(
    ("dataset", "published"),
    [
        ("cifar10", [("b0", "98.1%"), ("b7", "98.9%")]),
        ("flowers", [("b5", "98.5%"), ("b7", "98.8%")]),
        ("pets", [("b4", "94.8%"), ("b6", "95.4%")]),
    ],
)
def test_the_papers_accuracies_stand_below_in_the_last_column(
    dataset: str, published: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for metrics, empty in (({"val": VAL, "test": TEST}, [""]), ({"test": TEST}, [])):
        print_results(dataset, "b0", metrics)
        rows = table_rows(capsys.readouterr().out)
        assert rows[4:] == [[f"paper, {name} (Table 5)", *empty, accuracy] for name, accuracy in published]


@pytest.mark.parametrize(
    ("protocol", "dataset", "published"),
    [
        ("kornblith", "cifar10", {"paper, b0 (Table 5)": "98.1%", "paper, b7 (Table 5)": "98.9%"}),
        ("sam-paper", "cifar10", {"SAM (arXiv 2010.01412), b7": "99.0%", "SAM (arXiv 2010.01412), l2": "99.7%"}),
        ("linear probe", "food101", {"SimCLR (arXiv 2002.05709), App. B.8, resnet50": "72.3%"}),
        ("scratch", "pets", {"SimCLR (arXiv 2002.05709), App. B.8, resnet50": "81.5%"}),
        ("efficientnetv2", "pets", {}),
    ],
)
def test_a_protocols_own_paper_stands_below(
    protocol: str, dataset: str, published: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    print_results(dataset, "b0", {"test": TEST}, protocol=protocol)
    rows = dict(table_rows(capsys.readouterr().out)[4:])
    assert published.items() <= rows.items() and bool(rows) == bool(published)


def test_an_interval_stands_below_its_percentage(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"val": {"loss": 1.0, "top1": 0.5}, "test": {"loss": 1.1, "top1": 1 / 3}}
    test = find_intervals(metrics["test"], [3, 0], 3)
    print_results("folder", "lite0", metrics, intervals={"test": test})
    wilson = binomtest(1, 3).proportion_ci(method="wilson")
    assert table_rows(capsys.readouterr().out)[2:] == [
        ["top1", "50.00%", "33.33%"],
        ["95% interval", "", f"{100 * wilson.low:.1f}% to {100 * wilson.high:.1f}%"],
    ]


def test_an_interval_counts_the_images_that_were_measured() -> None:
    metrics = {"loss": 1.0, "top1": 0.9, "mean_per_class": 0.9, "ece": 0.1}
    found = find_intervals(metrics, [100, 100, 0], 20)
    assert found.keys() == {"top1", "mean_per_class"}
    assert found["top1"] == share_interval(0.9, 20) == found["mean_per_class"]


def test_a_metric_that_one_split_lacks_is_left_blank(capsys: pytest.CaptureFixture[str]) -> None:
    print_results("digits", "lite0", {"val": {"top1": 0.5}, "test": {"top1": 0.25, "top5": 1.0}})
    assert table_rows(capsys.readouterr().out)[1:] == [["top1", "50.00%", "25.00%"], ["top5", "", "100.00%"]]


def git(folder: Path, *arguments: str) -> str:
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    environment = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull}
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    return result.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit, with a tag, that report.py believes to lie in."""
    (tmp_path / "report.py").write_text("1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "report.py")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    git(tmp_path, "tag", "-a", "v1", "-m", "v1")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "report.py"))
    return tmp_path


def test_the_commit_is_its_full_hash_and_tells_of_changed_files(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert re.fullmatch("[0-9a-f]{40}", commit)
    assert git_commit() == commit
    (checkout / "report.py").write_text("2\n")
    assert git_commit() == f"{commit}-dirty"


def test_there_is_no_commit_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "report.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None


def test_there_is_no_commit_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None


def test_the_environment_names_python_versions_and_hardware() -> None:
    found = environment()
    assert found.keys() == {"python", "versions", "git_commit", "hardware"}
    assert found["python"] == platform.python_version()
    names = ("efficientnet-transfer", "torch", "pytorch-lightning", "torchmetrics", "datasets", "albumentations")
    assert {name: found["versions"][name] for name in names} == {
        name: importlib.metadata.version(name) for name in names
    }
    assert {"pillow", "numpy"} <= found["versions"].keys() and found["versions"]["numpy"] == np.__version__
    assert found["hardware"].keys() == {"cpu", "cores", "gpus"}
    assert 1 <= found["hardware"]["cores"] <= (os.cpu_count() or 0)
    assert len(found["hardware"]["gpus"]) == torch.cuda.device_count()
    json.dumps(found)


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("torch", "no-such-package"))
    versions = environment()["versions"]
    assert versions["no-such-package"] is None and versions["torch"] == importlib.metadata.version("torch")


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts the GPU's memory where there is one")
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux to compare with")
def test_peak_memory_is_the_kernels_high_water_mark_in_bytes() -> None:
    line = next(
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
    )
    assert line.endswith("kB")
    assert peak_memory_bytes() == pytest.approx(int(line.split()[1]) * 1024, rel=0.02)


def test_a_command_is_told_as_it_was_typed(tmp_path: Path) -> None:
    code = "import json; from transfer.environment import command_words; print(json.dumps(command_words()))"
    (tmp_path / "words.py").write_text(code)
    for start in (["-m", "words"], ["words.py"]):
        command = [sys.executable, *start, "--seed", "1"]
        shown = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(shown.stdout) == [*start, "--seed", "1"]


def test_figures_name_no_folder_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "--photos", str(tmp_path / "photos"), "--seed", "3"])
    write_figures(tmp_path / "figures.json", {"ratio": 2.0})
    command = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["command"]
    assert command[-4:] == ["--photos", "photos", "--seed", "3"]
