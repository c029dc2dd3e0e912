"""The benchmark for a GPU, rehearsed on the processor."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import __main__ as benchmark
from benchmarks import gpu
from benchmarks.traffic import step_traffic
from transfer.weights.build import build_classifier


class FakeTimm(ModuleType):
    """Builds a network of ours, and loads black images."""

    __version__ = "1.2.3"

    def __init__(self) -> None:
        super().__init__("timm")
        self.data = SimpleNamespace(ImageDataset=lambda root: [*Path(root).glob("*/*")], create_loader=self.load)

    def create_model(self, name: str, **options: float) -> nn.Module:
        return build_classifier("mobilenet-v1@d=0.1,w=0.1", 10)

    def load(self, dataset: list[Path], shape: tuple[int, int, int], batch_size: int, **options: Any) -> Any:
        return [(torch.zeros(batch_size, *shape), torch.zeros(batch_size)) for _ in range(len(dataset) // batch_size)]


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm())


@pytest.mark.usefixtures("timm")
def test_a_rehearsal_runs_every_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "QUICK_CASES", {"mobilenet-v1@32": 2})
    path = tmp_path / "gpu.json"
    assert benchmark.main(["gpu", "--device", "cpu", "--quick", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert figures["dropped"] == []
    assert figures["is_rehearsal"] is True and figures["timm_version"] == "1.2.3"
    compiled = {"own compiled", "timm compiled"}
    expected = {
        "training": {"timm", "own", "own frozen"},
        "inference": {"timm", "own", "own engine"},
        "features": {"timm", "own"},
        "training compiled": {"timm", "own", *compiled, "own frozen compiled"},
        "inference compiled": {"timm", "own", *compiled},
    }
    for name, contenders in expected.items():
        task, *rest = name.split()
        part = figures[" ".join([task, "mobilenet-v1@32", *rest])]
        assert set(part) - {"batch_size", "dropped"} == contenders and part["dropped"] == []
        assert part["timm"]["ratio_to_timm"] == 1.0 and all(part[c]["images_per_second"] > 0 for c in contenders)
    own = figures["training mobilenet-v1@32"]["own"]
    traffic = step_traffic(build_classifier("mobilenet-v1", 10), 32)
    assert own["bytes_per_step"] == 2 * traffic["bytes_per_image"] + traffic["bytes"]
    floor = 2 * figures["copy_bandwidth_bytes_per_second"] / own["bytes_per_step"]
    assert own["floor_images_per_second"] == pytest.approx(floor, abs=0.1)
    assert own["share_of_floor"] == pytest.approx(own["images_per_second"] / floor, abs=0.001)


@pytest.mark.usefixtures("timm")
def test_parts_for_which_no_time_is_left_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "choose_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(gpu, "copy_bandwidth", lambda *_: 1e9)
    monkeypatch.setattr(gpu, "measure", lambda part, *_: {"measured": str(part)})
    figures = gpu.benchmark_gpu("cuda", False, 30.0)
    measured = [f"{task} {case}" for task in ("training", "inference") for case in gpu.CASES] + ["features b0@224"]
    assert [name for name in figures if name.split()[0] in ("training", "inference", "features")] == measured
    names = [line.partition(":")[0] for line in figures["dropped"]]
    assert names == [f"{task} {case} compiled" for task in ("training", "inference") for case in gpu.CASES]


@pytest.mark.parametrize(
    ("words", "message"), [(["--device", "cpu"], "allowed: --device cpu --quick"), ([], "PyTorch finds no GPU here")]
)
@pytest.mark.usefixtures("timm")
def test_without_a_gpu_only_a_rehearsal_runs(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark.main(["gpu", *words]) == 2
    assert message in capsys.readouterr().err
