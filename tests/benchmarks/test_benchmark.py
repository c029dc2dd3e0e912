"""Benchmarks: names, refusals and the shape of the figures; the figures themselves belong to the machine."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType

import datasets
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks import __main__ as benchmark
from benchmarks import allocator as benchmark_allocator
from benchmarks import cores as benchmark_cores
from benchmarks import cpu_training as benchmark_cpu_training
from benchmarks import data as benchmark_data
from benchmarks import progressive as benchmark_progressive
from benchmarks import recipe as benchmark_recipe
from transfer.costs.peak_memory import PROCESS_STATUS
from transfer.errors import UserError
from transfer.preprocessing import IMAGENET
from transfer.weights.build import build_backbone, build_classifier

ROOT = Path(__file__).parents[2]
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


class FakeTimm(ModuleType):
    """Builds our own network, and notes what it was asked for."""

    __version__ = "1.2.3"

    def __init__(self) -> None:
        super().__init__("timm")
        self.asked: list[tuple[str, dict[str, float]]] = []

    def create_model(self, name: str, **options: float) -> nn.Module:
        self.asked.append((name, options))
        return build_classifier("lite0", 10)


def test_peer_compares_with_timms_same_network_at_the_same_drop_rates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    timm = FakeTimm()
    monkeypatch.setitem(sys.modules, "timm", timm)
    size = ["--image_size", "32", "--batch_size", "2", "--steps", "1", "--rounds", "2"]
    assert benchmark.main(["peer", "--backbone", "lite2", *size, "--json", str(tmp_path / "peer.json")]) == 0
    assert timm.asked == [("tf_efficientnet_lite2", {"num_classes": 10, "drop_rate": 0.3, "drop_path_rate": 0.2})]
    figures = json.loads((tmp_path / "peer.json").read_text())
    assert (figures["backbone"], figures["peer"], figures["timm_version"]) == (
        "lite2",
        "tf_efficientnet_lite2",
        "1.2.3",
    )
    assert figures["timm"]["ratio"] == 1.0 and figures["timm"]["ratio_range"] == [1.0, 1.0]
    low, high = figures["own"]["ratio_range"]
    assert 0 < low <= figures["own"]["ratio"] <= high and figures["own"]["images_per_second"] > 0
    parameters = {name: figures[name]["num_parameters"] for name in ("own", "timm")}
    assert parameters == {
        name: sum(p.numel() for p in build_classifier(backbone, 10).parameters())
        for name, backbone in (("own", "lite2"), ("timm", "lite0"))
    }


@pytest.mark.parametrize(
    "content", ["raise RuntimeError('operator torchvision::nms does not exist')", "import no_such"]
)
def test_peer_says_why_timm_does_not_import(
    content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "timm.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    assert benchmark.main(["peer"]) == 2
    message = capsys.readouterr().err
    reason = "operator torchvision::nms does not exist" if "nms" in content else "No module named 'no_such'"
    assert message.startswith(f"error: timm cannot be imported ({reason}); ") and "torchvision" in message


def test_figures_within_figures_are_printed_in_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"ratio": 1.5, "b0": {"bn frozen": {"seconds": {"plain": 2.0, "folded": None}, "range": (1, 2)}}}
    benchmark.report(figures, None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "ratio: 1.5",
        "b0:",
        "  bn frozen:",
        "    seconds: {plain: 2.0, folded: null}",
        "    range: [1, 2]",
    ]
    assert lines[5] == "hardware:"


def test_figures_are_written_though_nobody_reads_what_is_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def print_to_nobody(*words: object, end: str = "") -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", print_to_nobody)
    with pytest.raises(BrokenPipeError):
        benchmark.report({"ratio": 1.5}, tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text())["ratio"] == 1.5


@pytest.mark.skipif(not PROCESS_STATUS.is_file(), reason="needs Linux")
def test_memory_measures_each_case_in_its_own_processes(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    size = ["--image_size", "64", "--batch_size", "2", "--rounds", "1"]
    assert benchmark.main(["memory", "--backbone", "efficientnet-lite0", *size, "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    backbone = build_backbone("lite0")
    assert (figures["backbone"], figures["image_size"], figures["batch_size"]) == ("lite0", 64, 2)
    # Parameters, gradients and momentum, with the head's ten outputs; buffers once.
    trained = sum(p.nbytes for p in backbone.parameters()) + 4 * 10 * (backbone.num_features + 1)
    assert figures["static_bytes"] == 3 * trained + sum(b.nbytes for b in backbone.buffers())
    for case in ("plain", "grad_checkpointing"):
        assert figures[case]["peak_bytes_of_runs"] == [figures[case]["peak_bytes"]]
        assert figures[case]["peak_bytes"] > 0 and figures[case]["seconds_per_step"] > 0
    plain, less = figures["plain"], figures["grad_checkpointing"]
    assert figures["reduction_percent"] == round(100 * (1 - less["peak_bytes"] / plain["peak_bytes"]), 1)
    assert figures["time_ratio"] == pytest.approx(less["seconds_per_step"] / plain["seconds_per_step"], rel=0.02)


def test_folded_norms_are_predicted_to_keep_folded_weights_in_place_of_the_convolutions_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfer.costs.peak_memory.measure_peak", lambda build, *_, **__: 1000 - 250 * folds(build()))
    path = tmp_path / "frozen.json"
    options = ["--networks", "lite0", "--image_size", "64", "--batch_size", "16", "--steps", "1", "--json", str(path)]
    assert benchmark.main(["frozen_norms", *options]) == 0
    figures = json.loads(path.read_text())["lite0"]
    frozen = figures["bn frozen"]
    assert frozen["measured_peak_bytes"] == {"plain": 1000, "folded": 750, "reduction_percent": 25.0}
    saved = frozen["predicted_peak_bytes"]["plain"] - frozen["predicted_peak_bytes"]["folded"]
    weights = sum(m.weight.nbytes for m in build_backbone("lite0").modules() if isinstance(m, torch.nn.Conv2d))
    assert saved == pytest.approx(outputs_of_convolutions(64, 16) - weights, rel=0.05)
    for case in figures.values():
        assert case["time_ratio"] == pytest.approx(
            case["seconds_per_step"]["folded"] / case["seconds_per_step"]["plain"], rel=0.05
        )


def test_precisions_and_layouts_are_relative_to_float32_in_channels_last(tmp_path: Path) -> None:
    path = tmp_path / "precision.json"
    words = ["precision", "--networks", "lite0", "--cases", "32x2", "--steps", "1", "--json", str(path)]
    assert benchmark.main(words) == 0
    row = json.loads(path.read_text())["lite0"]["32x2"]
    first = row.pop("float32")
    assert row.keys() == {"bf16", "float32 contiguous"}
    for other in row.values():
        assert other["speed_range"] == [other["speed"]] * 2
        ratio = other["images_per_processor_second"] / first["images_per_processor_second"]
        assert other["speed"] == pytest.approx(ratio, rel=0.1)


def folds(network: torch.nn.Module) -> bool:
    return any(getattr(module, "fold_norm", False) for module in network.modules())


def outputs_of_convolutions(image_size: int, batch_size: int) -> int:
    """Bytes of what lite0's convolutions give for so many images."""
    backbone, sizes = build_backbone("lite0"), []
    for module in backbone.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _, __, out: sizes.append(out.nbytes))
    with torch.no_grad():
        backbone(torch.zeros(batch_size, 3, image_size, image_size))
    return sum(sizes)


@pytest.mark.skipif(not PROCESS_STATUS.is_file(), reason="needs Linux")
def test_the_largest_resident_set_follows_an_allocation_and_stays() -> None:
    code = (
        "from transfer.costs.peak_memory import resident_bytes as r;"
        " before = r('VmRSS'); block = bytearray(b'x') * 50_000_000;"
        " held = r('VmRSS'); del block; print(held - before, r('VmHWM') - before, r('VmRSS') - before)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    held, most, left = map(int, result.stdout.split())
    # The kernel sums up late: a few pages per core are missing now and then.
    assert 45e6 < held < 55e6 and 45e6 < most < 55e6 and left < 5e6


def test_without_a_gpu_memory_needs_linux(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("transfer.costs.peak_memory.PROCESS_STATUS", tmp_path / "status")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert benchmark.main(["memory"]) == 2
    assert capsys.readouterr().err.startswith("error: memory: there is no GPU, and only Linux reports")


def test_an_unknown_backbone_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm())
    for subject in ("peer", "memory"):
        assert benchmark.main([subject, "--backbone", "b9"]) == 2
        assert capsys.readouterr().err.startswith("error: unknown backbone 'b9'")


def test_scaling_writes_the_rule_and_the_papers_tables(tmp_path: Path) -> None:
    assert benchmark.main(["scaling", "--json", str(tmp_path / "scaling.json")]) == 0
    figures = json.loads((tmp_path / "scaling.json").read_text())
    committed = json.loads((ROOT / "benchmarks" / "scaling_rule.json").read_text())
    for name in ("departures", "table3", "table7"):
        assert figures[name] == committed[name] and len(figures[name]) >= 5


@pytest.mark.parametrize("given", [False, True])
def test_data_compares_both_of_ours_with_the_torchvision_style(given: bool, tmp_path: Path) -> None:
    root = []
    if given:
        benchmark_data.make_jpegs(tmp_path / "jpegs", 40)
        root = ["--data_root", str(tmp_path / "jpegs")]
    path = tmp_path / "data.json"
    size = ["--image_size", "64", "--batch_size", "8", "--rounds", "1"]
    assert benchmark.main(["data", *root, *size, "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert figures["images"] == ("given" if given else "made up: smooth colours and noise, JPEG quality 90")
    assert 60 < figures["mean_file_kilobytes"] < 120 and figures["median_width_and_height"] == [500, 375]
    assert figures["image_size"] == 64 and figures["batch_size"] == 8 and 0 < figures["num_images"] < 240
    assert figures["torchvision style"]["ratio"] == 1.0 and figures["cache_megabytes"] > 0
    for name in ("torchvision style", "ours", "ours, --data.cache disk"):
        low, high = figures[name]["images_per_second_range"]
        assert 0 < low <= figures[name]["images_per_second"] <= high


def test_the_torchvision_style_normalises_a_crop(tmp_path: Path) -> None:
    Image.new("RGB", (90, 60), (255, 0, 51)).save(tmp_path / "plain.png")
    image, _ = benchmark_data.TorchvisionStyle([tmp_path / "plain.png"], 32)[0]
    assert image.shape == (3, 32, 32)
    mean, std = (torch.tensor(values) for values in IMAGENET)
    torch.testing.assert_close(image[:, 5, 5], (torch.tensor([1.0, 0.0, 0.2]) - mean) / std)
    for _ in range(50):
        left, top, right, bottom = benchmark_data.TorchvisionStyle.crop_box(90, 60)
        assert 0 <= left < right <= 90 and 0 <= top < bottom <= 60
        assert 0.07 < (right - left) * (bottom - top) / 5400 <= 1 and 0.7 < (right - left) / (bottom - top) < 1.4


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["speed"], "invalid choice: 'speed' (choose from"),
        (["data", "--backbone", "b0"], "unrecognized arguments: --backbone b0"),
        (["peer", "--data_root", "x"], "unrecognized arguments: --data_root x"),
        (["recipe", "--steps", "3"], "unrecognized arguments: --steps 3"),
        (["--rounds", "3", "data"], "data: put its options after it"),
        (["memory", "--compile"], "--compile: only peer compares compiled networks"),
    ],
)
def test_the_command_line_refuses(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        benchmark.main(argv)
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_the_recipes_subset_has_as_many_images_of_each_class(tmp_path: Path) -> None:
    folder = tmp_path / "uoft-cs/cifar10/plain_text"
    folder.mkdir(parents=True)
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=list("abcdefghij"))})
    for split, per_class in (("train", 4), ("test", 3)):
        rows = [
            {"img": Image.new("RGB", (32, 32), (8 * label, index, 0)), "label": label}
            for index in range(per_class)
            for label in range(10)
        ]
        datasets.Dataset.from_list(rows, features).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    path = benchmark_recipe.save_cifar_subset(tmp_path, tmp_path / "subset.parquet", per_class=2)
    table = pq.read_table(path)
    counts = Counter(zip(table["split"].to_pylist(), table["label"].to_pylist(), strict=True))
    assert counts == {(split, label): 2 for split in ("train", "test") for label in range(10)}
    with pytest.raises(UserError, match="has no uoft-cs/cifar10/plain_text/train"):
        benchmark_recipe.save_cifar_subset(tmp_path / "elsewhere", tmp_path / "x.parquet", per_class=2)


def test_busy_processes_run_until_the_context_ends() -> None:
    with benchmark_cores.busy_processes(2) as processes:
        assert [process.poll() for process in processes] == [None, None]
    assert [process.poll() for process in processes] == [-signal.SIGKILL, -signal.SIGKILL]


def test_cores_trains_alone_and_beside_busy_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str | None, int]] = []
    busy = [0]

    @contextmanager
    def busy_processes(count: int) -> Iterator[None]:
        busy.append(count)
        yield
        busy.pop()

    def train(backbone: str, steps: int, **variables: str) -> float:
        seen.append((variables.get("GOMP_SPINCOUNT"), busy[-1]))
        return 300.0 if variables else 150.0 * len(seen)

    monkeypatch.setattr(benchmark_cores, "busy_processes", busy_processes)
    monkeypatch.setattr(benchmark_cores, "train", train)
    path = tmp_path / "cores.json"
    assert benchmark.main(["cores", "--rounds", "1", "--busy", "2", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert seen == [(None, 0), ("300000", 0), (None, 2), ("300000", 2)] and figures["busy_processes"] == 2
    assert figures["alone"]["ratio"] == 0.5 and figures["beside busy processes"]["ratio"] == 1.5
    assert figures["alone"]["ours"] == {"images_per_second": 150.0, "range": [150.0, 150.0]}


def test_progressive_takes_as_many_more_steps_as_its_time_allows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    def finetune(seed: int, steps: int, words: list[str]) -> dict[str, float]:
        grows = "--progressive" in words
        seen.append((seed, steps, grows))
        return {"top1": 0.5 + 0.1 * grows + 0.01 * seed, "processor_seconds": 9 + steps * (1.0 if grows else 2.5)}

    monkeypatch.setattr(benchmark_progressive, "finetune", finetune)
    path = tmp_path / "progressive.json"
    words = ["--data_root", str(tmp_path), "--steps", "11", "--seeds", "2", "--json", str(path)]
    assert benchmark.main(["progressive", *words]) == 0
    # A run of one step takes 11.5: 11 steps take 25 more at full size, and 8.5 growing.
    cases = [(seed, steps, grows) for seed in (0, 1) for steps, grows in ((11, False), (11, True), (32, True))]
    assert seen == [(0, 1, False), *cases]
    means = json.loads(path.read_text())["mean_top1"]
    assert means == {"full size": 0.505, "growing, equal steps": 0.605, "growing, equal time": 0.605}


@needs_glibc
def test_allocator_alternates_and_compares(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def run_case(
        backbone: str, what: str, image_size: int, batch_size: int, steps: int, variables: dict[str, str]
    ) -> dict[str, float]:
        seen.append((backbone, what, not variables))
        speed = 30.0 if not variables else 20.0
        return {"images_per_processor_second": speed + len(seen), "peak_bytes": 5.0 if not variables else 4.0}

    monkeypatch.setattr(benchmark_allocator, "run_case", run_case)
    path = tmp_path / "allocator.json"
    words = ["--backbones", "efficientnet-lite0", "--rounds", "1", "--json", str(path)]
    assert benchmark.main(["allocator", *words]) == 0
    cases = [("lite0", what, kept) for what in ("training", "inference") for kept in (True, False)]
    figures = json.loads(path.read_text())
    assert seen == cases
    training = figures["lite0 training"]
    assert training["kept"]["images_per_processor_second"] == 31.0
    assert training["ratio"] == round(31 / 22, 3) and training["ratio_range"] == [training["ratio"]] * 2
    assert training["peak_ratio"] == figures["lite0 inference"]["peak_ratio"] == 1.25


@needs_glibc
def test_allocator_measures_in_a_process_with_its_own_variables() -> None:
    kept, default = (
        benchmark_allocator.run_case("lite0", "inference", 224, 2, 1, variables)
        for variables in ({}, {"MALLOC_ARENA_MAX": "0"})
    )
    assert kept["page_faults_per_step"] < 0.1 * default["page_faults_per_step"]
    assert 0 <= kept["kernel_share"] < 1 and kept["images_per_processor_second"] > 0 and kept["peak_bytes"] > 1e8


@needs_glibc
@pytest.mark.parametrize("flag", ["--rounds", "--steps", "--batch_size"])
def test_allocator_refuses_none(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["allocator", flag, "0"]) == 2
    assert capsys.readouterr().err == f"error: {flag} 0 (allowed: at least 1)\n"


def test_cpu_training_takes_turns_and_compares_the_fastest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seconds = {"own float32": [2.0, 2.0], "own bf16": [1.0, 2.0], "timm float32": [4.0, 3.0], "timm bf16": [5.0, 5.0]}
    turns: list[tuple[str, int]] = []

    class Fake:
        def __init__(self, setting: benchmark_cpu_training.Setting) -> None:
            self.setting = setting

        def send(self, steps: int) -> None:
            turns.append((self.setting.name, steps))

        def recv(self) -> float:
            turn = turns.count((self.setting.name, 2)) - 1
            slower = 1.5 if self.setting.layout == "contiguous" else 1.0
            return slower * seconds[f"{self.setting.source} {self.setting.precision}"][turn]

    monkeypatch.setitem(sys.modules, "timm", FakeTimm())
    monkeypatch.setattr(benchmark_cpu_training, "contender", lambda setting, *case: nullcontext(Fake(setting)))
    path = tmp_path / "figures.json"
    words = ["--backbones", "lite0", "--batch_size", "6", "--rounds", "2", "--json", str(path)]
    assert benchmark.main(["cpu_training", *words]) == 0
    names = [setting.name for setting in benchmark_cpu_training.SETTINGS]
    assert turns == [(name, steps) for steps in (5, 2, 2) for name in names]
    figures = json.loads(path.read_text())["lite0"]
    assert figures["images_per_second"]["own bf16 channels_last"] == 9.0
    assert figures["images_per_second"]["timm float32 contiguous"] == 2.3
    assert figures["compared"] == ["own bf16 channels_last", "timm float32 channels_last"]
    assert (figures["ratio"], figures["ratio_range"]) == (2.75, [1.5, 4.0])


def test_cpu_training_trains_in_a_process_and_says_whose_failed(capfd: pytest.CaptureFixture[str]) -> None:
    own, timm = benchmark_cpu_training.Setting("own", "float32"), benchmark_cpu_training.Setting("timm", "bf16")
    with benchmark_cpu_training.contender(own, "lite0", 32, 2, 1) as orders:
        orders.send(1)
        assert benchmark_cpu_training.seconds(own, orders) > 0
    with (
        benchmark_cpu_training.contender(timm, "no such network", 32, 2, 1) as orders,
        pytest.raises(UserError, match="timm bf16 channels_last failed"),
    ):
        benchmark_cpu_training.seconds(timm, orders)


def test_cores_refuses_no_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["cores", "--rounds", "0"]) == 2
    assert capsys.readouterr().err == "error: --rounds 0 (allowed: at least 1)\n"


@pytest.mark.slow
def test_cores_trains_for_real_and_says_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(UserError, match=r"finetune .* failed: error: unknown backbone 'b99'"):
        benchmark_cores.train("b99", 1)
    assert benchmark_cores.train("lite0", 2) > 1
