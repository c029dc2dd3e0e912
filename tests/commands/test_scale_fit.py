"""efficientnet-transfer scale fit: its answers, its errors, and functions of the user's own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.costs.test_costs import find
from tests.support.runs import call, environment
from transfer.commands import scale as script
from transfer.costs import network_costs as costs_module
from transfer.costs.counts import count
from transfer.costs.latency import Latency
from transfer.costs.limits import Excess, format_cost, list_axes
from transfer.costs.network_costs import Costs, Use
from transfer.networks.registry import get_backbone

ROOT = Path(__file__).parents[2]
FUNCTIONS = """
from torch import nn


class Net(nn.Module):
    def __init__(self, depth, width):
        super().__init__()
        self.num_features = round(16 * width)
        convs = [nn.Conv2d(self.num_features, self.num_features, 3, padding=1) for _ in range(round(2 * depth))]
        self.layers = nn.Sequential(nn.Conv2d(3, self.num_features, 3, padding=1), *convs)

    def forward(self, x):
        return self.layers(x)


def net(depth, width, resolution):
    return Net(depth, width)


def stubborn(depth, width, resolution):
    return Net(depth, 1.0)


def careless(depth, width, resolution):
    return [Net(1, 1)][round(depth) - 1]


class Wrong(Net):
    def forward(self, x):
        return self.layers(x[:, :2])


def wrong(depth, width, resolution):
    return Wrong(depth, width)


net.image_size = stubborn.image_size = careless.image_size = wrong.image_size = 40
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of functions, importable."""
    (tmp_path / "nets_to_fit.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "nets_to_fit"
    sys.modules.pop("nets_to_fit", None)


def test_a_function_of_the_users_own_is_scaled_as_far_as_it_fits(functions: str) -> None:
    costs = Costs(f"{functions}.net", Use(2), 10)
    limits = {"num_parameters": 20_000.0, "macs": 60e6}
    for axis in list_axes(costs.baseline_size)[1:]:
        fitting = []
        for value in axis.values:
            factors = axis.factors(value)
            width, depth, side = round(16 * factors.width), round(2 * factors.depth), factors.pixels(40)
            num_parameters = 28 * width + depth * (9 * width + 1) * width + 10 * (width + 1)
            macs = side**2 * (27 * width + depth * 9 * width**2) + 10 * width
            if num_parameters <= 20_000 and macs <= 60e6:
                fitting.append(value)
        assert find(axis, costs, limits).value == max(fitting)
    assert costs.counted == ()


def fitted(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    status = call(script.main, "fit", *argv)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def cells(printed: str) -> dict[str, list[str]]:
    """Rows of the printed table by their first cell; cells are two spaces or more apart."""
    rows = [re.split(r"  +", line.strip()) for line in printed.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 4}


def test_the_command_prints_the_answers_and_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("--max_macs", "0.2e9", "--max_memory", "1.2GiB", "--max_params", "7.3e6")
    use = ("--batch_size", "16", "--num_classes", "10", "--image_size", "96")
    status, out, err = fitted(capsys, *limits, *use, "--json", tmp_path / "fit.json")
    assert status == 0 and err.count("\n") == 1
    found = json.loads((tmp_path / "fit.json").read_text())
    assert found["limits"] == {"macs": 0.2e9, "memory": int(1.2 * 2**30), "num_parameters": 7.3e6}
    assert found["use"] == {"batch_size": 16, "inference": False, "precision": "32-true"}
    assert found["baseline"]["name"] == "b0" and found["hardware"]["cores"] >= 1
    answers = found["answers"]
    assert list(answers) == ["compound", "depth", "width", "resolution"]
    table = cells(out)
    assert table["backbone"] == [answer["name"] for answer in answers.values()]
    for answer in answers.values():
        variant = get_backbone(answer["name"])
        counts = count(variant, answer["image_size"], 10)
        assert (answer["costs"]["num_parameters"], answer["costs"]["macs"]) == (counts.num_parameters, counts.macs)
        assert answer["blocks"] == [row.repeats for row in variant.stages]
        assert all(answer["costs"][name] <= most for name, most in found["limits"].items())
        assert all(each["needs"] > each["allowed"] for each in answer["fit"]["broken"])
        for each in answer["fit"]["broken"]:
            assert f"{answer['too_large']}: {Excess(**each)}" in out
    assert table["memory"] == ["1.2 GiB", *(format_cost("memory", a["costs"]["memory"]) for a in answers.values())]
    first = answers["compound"]
    assert (
        table["blocks"][0] == f"16 → {sum(first['blocks'])}" and table["image size"][0] == f"{first['image_size']} px"
    )
    words = f"--image_size {first['image_size']} --data.batch_size 16 --trainer.precision 32-true"
    assert f"next: efficientnet-transfer finetune --backbone {first['name']} --init_from b" in err and words in err


def test_limits_below_the_baseline_shrink_it(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = fitted(capsys, "--max_macs", "2e8", "--inference", "--batch_size", "1")
    assert status == 0
    name, *_ = cells(out)["backbone"]
    assert name.startswith("b0@phi=-") and count(get_backbone(name)).macs <= 2e8
    assert "b0 itself: multiply-adds: needs 385.815 M, allowed 200 M (1.92907 times)" in out
    assert cells(out)["blocks"][-2:] == ["16 → 16", "16 → 16"] and "--data.batch_size" not in err
    assert f"--backbone {name} --init_from b0 --image_size" in err


def test_another_rule_is_in_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    rule = ("--alpha", "1.3", "--beta", "1.1", "--gamma", "1.1")
    _, _, err = fitted(capsys, "--baseline", "mobilenet-v2", "--max_macs", "5e8", *rule, "--inference")
    assert re.search(r"--backbone mobilenet-v2@phi=0\.\d+,alpha=1\.3,beta=1\.1,gamma=1\.1 --pretrained false", err)


def test_where_no_phi_fits_but_a_width_does_both_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = fitted(capsys, "--max_params", "120e3", "--num_classes", "10", "--inference")
    assert (status, err) == (1, "")
    assert cells(out)["backbone"][0::2] == ["none fits", "b0@w=0.13"]
    smallest = count(get_backbone("b0@phi=-12.57"), 32, 10).num_parameters
    needs = str(Excess("num_parameters", smallest, 120e3))
    assert f"b0@phi=-12.62, the smallest by compound: {needs}" in out
    assert "b0@r=0.15, the smallest by resolution: parameters: needs 4.02036 M, allowed 120 k" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "nothing is limited: give at least one of --max_params 20e6"),
        (("--max_params", "0"), "--max_params '0' (allowed: a number above 0, as 20e6)"),
        (("--max_memory", "16"), "--max_memory '16': give a number and a unit"),
        (("--max_macs", "1e9", "--baseline", "b9"), "unknown backbone 'b9'; did you mean 'b"),
        (("--max_macs", "1e9", "--baseline", "b0@phi=1"), "baseline b0@phi=1 is scaled already"),
        (("--max_macs", "1e9", "--baseline", "no.such"), "backbone 'no.such': No module named 'no'"),
        (("--max_macs", "1e9", "--batch_size", "0"), "--data.batch_size 0 (allowed: at least 1)"),
        (("--max_macs", "1e9", "--image_size", "-4"), "--image_size -4 (allowed: at least 1)"),
        (("--max_macs", "1e9", "--num_classes", "0"), "--num_classes 0 (allowed: at least 1)"),
        (("--max_macs", "1e9", "--num_classes", str(10**20)), f"--num_classes {10**20} (allowed: below 2147483648)"),
        (("--max_macs", "1e9", "--image_size", str(10**20)), f"--image_size {10**20} (allowed: below 2147483648)"),
        (("--max_macs", "1e9", "--alpha", "nan"), "depth coefficient nan (allowed: 0.1 to 10)"),
        (("--max_macs", "1e9", "--json", "no/such/folder/x.json"), "--json no/such/folder/x.json: no such folder"),
    ],
)
def test_a_mistake_is_told(argv: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = fitted(capsys, *argv)
    assert (status, out) == (2, "") and err.startswith("error: ") and message in err


def test_limits_that_nothing_keeps_are_named_with_what_they_would_have_to_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, err = fitted(capsys, "--max_params", "10", "--max_macs", "1e4", "--max_memory", "1TiB")
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert lines[0] == "error: no network that b0 scales to keeps the limits:" and len(lines) == 9
    assert re.fullmatch(
        r"b0@d=0\.1, the smallest by depth: parameters: needs [\d.]+ M, allowed 10 \([\d.e+]+ times\)", lines[3]
    )
    assert all("memory" not in line for line in lines)


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        ("net", 0, "--backbone nets_to_fit.net@phi=1.22 --pretrained false --image_size 47"),
        ("careless", 2, "raised IndexError: list index out of range (nets_to_fit.py, line 25)"),
        ("wrong", 2, "nets_to_fit.wrong on an image of 40 px raised RuntimeError: "),
    ],
)
def test_a_function_on_the_command_line(
    function: str, status: int, message: str, functions: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, _, err = fitted(
        capsys, "--baseline", f"{functions}.{function}", "--max_macs", "17e6", "--batch_size", "2", "--num_classes", "3"
    )
    assert ended == status and message in err


def test_a_function_that_ignores_the_width_is_found_out(functions: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = fitted(capsys, "--baseline", f"{functions}.stubborn", "--max_macs", "17e6", "--batch_size", "2")
    assert status == 0
    assert re.search(r"stopped by +multiply-adds +multiply-adds +nothing: no effect +multiply-adds", out)


def test_latency_and_memory_are_measured_where_latency_is_limited(
    functions: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure_latency(network: torch.nn.Module, image_size: int, **_: object) -> Latency:
        time = image_size / 10
        return Latency(1, time, time - 1, time + 1, 20, "2 threads of a slow one", {})

    peaks: list[tuple[object, ...]] = []

    def measure_peak(build: Callable[[], torch.nn.Module], *size: int, **options: object) -> int:
        peaks.append((build.args[0].name, *size, *options.values()))
        return 3 * 2**20

    monkeypatch.setattr(costs_module, "measure_latency", measure_latency)
    monkeypatch.setattr(costs_module, "measure_peak", measure_peak)
    own = ("--baseline", f"{functions}.net", "--max_latency_ms", "4.5", "--batch_size", "4", "--json")
    status, out, err = fitted(capsys, *own, tmp_path / "fit.json")
    assert status == 0 and err.startswith("measuring takes minutes\nnext: ")
    found = json.loads((tmp_path / "fit.json").read_text())["answers"]
    resolution, depth = found["resolution"], found["depth"]
    assert (resolution["image_size"], resolution["too_large"]) == (45, f"{functions}.net@r=1.14")
    assert depth["name"] == f"{functions}.net@d=10" and depth["fit"]["broken"] == []
    assert resolution["latency"]["median_ms"] == 4.5 and resolution["peak"] == 3 * 2**20
    table = cells(out)
    assert table["latency"] == ["4.5 ms", "4.5 ms", "4 ms", "4 ms", "4.5 ms"]
    assert table["quartiles"] == ["3.5 to 5.5", "3 to 5", "3 to 5", "3.5 to 5.5"] and table["measured"] == ["3 MiB"] * 4
    assert "latency: of one image, median and quartiles of 20 runs, 2 threads of a slow one" in out
    assert peaks[-1] == (f"{functions}.net@r=1.13", 45, 4, True, "32-true", torch.cuda.is_available())


@pytest.mark.slow
def test_the_command_as_a_user_calls_it(tmp_path: Path) -> None:
    def scale(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts" / "scale.py"), *argv]
        return subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)

    (tmp_path / "nets_to_fit.py").write_text(FUNCTIONS)
    found = scale("fit", "--baseline", "nets_to_fit.net", "--max_macs", "17e6", "--batch_size", "2")
    assert found.returncode == 0 and found.stderr.count("\n") == 1
    assert found.stderr.startswith("next: efficientnet-transfer finetune --backbone nets_to_fit.net@phi=")
    for argv, status, message in (
        (("fit",), 2, "error: nothing is limited"),
        (("fitt",), 2, "invalid choice: 'fitt'"),
        (("fit", "--help"), 0, ""),
    ):
        ended = scale(*argv)
        assert ended.returncode == status and message in ended.stderr and "Traceback" not in ended.stderr
