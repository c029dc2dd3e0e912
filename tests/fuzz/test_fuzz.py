"""Malformed inputs by the hundred: each is refused in one clear message, or answered as the intact one is.

Every outcome is counted; the table of counts is printed where a case is not as it should be.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from datamodules import load_dataset
from tests.fuzz.damages import HTML, cuts, flips, holes, replacements
from tests.fuzz.judge import Case, Outcome, Undetectable, judge
from tests.support.bundles import small_run
from tests.support.runs import save_classes
from transfer import load_run
from transfer.commands import compare
from transfer.config.command_line import parse_config

LEAST_CASES = 300
_counts: Counter[tuple[str, Outcome]] = Counter()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two classes."""
    folder = tmp_path_factory.mktemp("run")
    photos = save_classes(folder / "photos", {"cat": 24, "dog": 24})
    data = ("--dataset", "folder", "--data_root", photos, "--data.batch_size", "8")
    return small_run(folder / "run", *data)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that hidden code would write; a Ghostscript that would write it stands first on the path."""
    canary = tmp_path / "canary"
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {canary}\n", encoding="utf-8")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return canary


@pytest.fixture
def check(canary: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str, Iterator[Case]], None]:
    """A function that judges the cases of a family and fails with all that are not as they should be."""

    def check(family: str, cases: Iterator[Case]) -> None:
        bad = []
        for case in cases:
            outcome, seen = judge(case, canary, capsys)
            _counts[family, outcome] += 1
            if outcome not in (Outcome.REFUSED, Outcome.RIGHT):
                bad.append(f"{case.name}: {outcome}: {seen}")
        table = {str(outcome): _counts[family, outcome] for outcome in Outcome}
        assert not bad, "\n".join([f"{family}: {table}", *bad])

    return check


Check = Callable[[str, Iterator[Case]], None]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# ---------------------------------------------------------------------------------------------------------- pictures


PICTURES = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "ppm": "PPM"}


def encoded_picture(suffix: str) -> bytes:
    rng = np.random.default_rng(7)
    pixels = np.clip(rng.integers(0, 60, (40, 56, 3)) + np.arange(56)[None, :, None] * 3, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, PICTURES[suffix], lossless=True)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", PICTURES)
def test_damaged_pictures(suffix: str, run_dir: Path, tmp_path: Path, check: Check) -> None:
    run, content = load_run(run_dir), encoded_picture(suffix)

    def scores(path: Path) -> list[float]:
        return run.predict([path])[0].probabilities.tolist()

    def cases() -> Iterator[Case]:
        right = scores(write(tmp_path / f"intact.{suffix}", content))
        changed_answer = right if suffix == "png" else Undetectable  # only PNG has checksums over its pixels
        changed = {**flips(content, 12), **holes(content, 4)}
        for number, (name, damaged) in enumerate({**replacements(), **cuts(content, 8)}.items()):
            path = write(tmp_path / f"{number}.{suffix}", damaged)
            yield Case(f"{suffix} {name}", lambda path=path: scores(path), path.name, right)
        for number, (name, damaged) in enumerate(changed.items()):
            path = write(tmp_path / f"changed{number}.{suffix}", damaged)
            yield Case(f"{suffix} {name}", lambda path=path: scores(path), path.name, changed_answer)

    check("pictures", cases())


def test_files_that_are_no_pictures(run_dir: Path, tmp_path: Path, canary: Path, check: Check) -> None:
    run = load_run(run_dir)
    script = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n({canary}) (w) file closefile\n".encode()
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'
    bomb = bytearray(encoded_picture("png"))
    bomb[16:24] = (200_000).to_bytes(4, "big") * 2
    contents = {
        "PostScript.jpg": script,
        "PostScript.png": script,
        "PostScript.eps": script,
        "PDF.jpg": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n",
        "drawing.svg": svg,
        "drawing.png": svg,
        "pickle.jpg": pickle.dumps(Payload(canary)),
        "bomb.png": bytes(bomb),
        "film.gif": b"GIF89a" + b"\xff" * 8,
        "word.webp": b"RIFF\x10\x00\x00\x00WEBPVP8 ",
        "huge.bmp": b"BM" + b"\xff" * 60,
        "huge.ppm": b"P6\n100000 100000\n255\n" + bytes(100),
    }

    def cases() -> Iterator[Case]:
        paths = [write(tmp_path / name, content) for name, content in contents.items()]
        (tmp_path / "folder.png").mkdir()
        (tmp_path / "zero.png").symlink_to("/dev/zero")
        (tmp_path / "circle.png").symlink_to("circle.png")
        os.mkfifo(tmp_path / "pipe.png")
        paths += [tmp_path / f"{name}.png" for name in ("folder", "zero", "circle", "pipe", "absent")]
        for path in paths:
            yield Case(path.name, lambda path=path: run.predict([path]), path.name)
        yield Case("NUL in a path", lambda: run.predict([f"{tmp_path}/a\0b.png"]), "b.png")

    check("pictures", cases())


# ------------------------------------------------------------------------------------------------------------ tables


ROWS = [[f"img/{name}{index}.png", name] for name in ("cat", "dog") for index in range(10)]


@pytest.fixture
def table_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty images of two classes in one folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    photos = save_classes(tmp_path / "photos", {"cat": 10, "dog": 10})
    folder = tmp_path / "data"
    (folder / "img").mkdir(parents=True)
    for name in ("cat", "dog"):
        for index in range(10):
            shutil.copy(photos / name / f"{index}.png", folder / "img" / f"{name}{index}.png")
    return folder


def counts(path: Path, **options: Any) -> dict[str, int]:
    """Return the number of images of each class over all splits."""
    data = load_dataset("folder", data_root=path, **options)
    splits = data.class_counts.values()
    return {name: sum(split[index] for split in splits) for index, name in enumerate(data.class_names)}


def text(
    rows: list[list[str]], separator: str = ",", end: str = "\n", header: tuple[str, ...] = ("image", "label")
) -> str:
    return end.join(separator.join(row) for row in [list(header), *rows]) + end


def test_malformed_text_tables(table_folder: Path, check: Check) -> None:
    right = {"cat": 10, "dog": 10}
    good = text(ROWS)
    same = {
        "semicolons": text(ROWS, ";").encode(),
        "tabs": text(ROWS, "\t").encode(),
        "CRLF": text(ROWS, end="\r\n").encode(),
        "byte order mark": good.encode("utf-8-sig"),
        "UTF-16": good.encode("utf-16"),
        "blank lines": good.replace("\n", "\n\n").encode(),
        "blank end": f"{good}\n\n".encode(),
        "spaces": text([[a, f" {b} "] for a, b in ROWS]).encode(),
        "quoted": text([[f'"{a}"', f'"{b}"'] for a, b in ROWS]).encode(),
        "upper-case header": text(ROWS, header=("Image", "Label")).encode(),
        "absolute paths": text([[str(table_folder / a), b] for a, b in ROWS]).encode(),
        "dots in paths": text([[f"./img/../{a}", b] for a, b in ROWS]).encode(),
    }
    refused = {
        "a quote that never ends": good.replace("cat3.png", '"cat3.png').encode(),
        "a missing cell": good.replace("cat3.png,cat", "cat3.png").encode(),
        "an empty label": good.replace("cat3.png,cat", "cat3.png,").encode(),
        "a NaN label": good.replace("cat3.png,cat", "cat3.png,nan").encode(),
        "an absent image": good.replace("cat3.png", "cat33.png").encode(),
        "an absolute path elsewhere": good.replace("img/cat3.png", "/etc/passwd").encode(),
        "a URL": good.replace("img/cat3.png", "http://127.0.0.1:9/cat3.png").encode(),
        "a folder as image": good.replace("img/cat3.png", "img").encode(),
        "a NUL": good.replace("cat3.png", "cat3\0.png").encode(),
        "no label column": text(ROWS, header=("image", "what")).encode(),
        "no header": text(ROWS[1:], header=tuple(ROWS[0])).encode(),
        "two label columns": text([[*row, "x"] for row in ROWS], header=("image", "label", "label")).encode(),
        "header only": b"image,label\n",
        "one class": text([[a, "cat"] for a, _ in ROWS]).encode(),
        "a class for each image": text([[a, a] for a, _ in ROWS]).encode(),
        "one label for two classes": (good + "img/cat0.png,dog\n").encode(),
        "a cell of a megabyte": good.replace("cat3.png", "x" * 2**20).encode(),
        "control characters": good.replace("cat3.png", "\x1b[2Jcat3.png").encode(),
    }

    def cases() -> Iterator[Case]:
        for family, answer in ((same, right), (refused, None), (replacements(), None)):
            for number, (name, content) in enumerate(family.items()):
                path = write(table_folder / f"{'right' if answer else 'wrong'}{number}.csv", content)
                names = "/etc/passwd" if "elsewhere" in name else str(table_folder)
                yield Case(f"CSV: {name}", lambda path=path: counts(path), names, answer)
        path = write(table_folder / "tabs.tsv", text(ROWS, "\t").encode())
        yield Case("TSV", lambda: counts(path), path.name, right)
        latin = write(table_folder / "latin.csv", good.replace(",cat", ",chaîne").encode("cp1252"))
        yield Case("CSV: cp1252", lambda: counts(latin), latin.name, {"chaîne": 10, "dog": 10})
        os.mkfifo(table_folder / "pipe.csv")
        (table_folder / "zero.csv").symlink_to("/dev/zero")
        (table_folder / "folder.csv").mkdir()
        for name in ("pipe.csv", "zero.csv", "folder.csv", "absent.csv", "a\0b.csv"):
            yield Case(f"CSV: {name!r}", lambda name=name: counts(table_folder / name), name.rpartition("\0")[2])

    check("tables", cases())


def save_parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_malformed_parquet_files(table_folder: Path, check: Check) -> None:
    right = {"cat": 10, "dog": 10}
    paths, labels = [a for a, _ in ROWS], [b for _, b in ROWS]
    content = save_parquet(table_folder / "intact.parquet", image=paths, label=labels).read_bytes()
    half = [*labels[:-1], None]
    columns = {
        "no rows": {"image": pa.array([], pa.string()), "label": pa.array([], pa.string())},
        "a null label": {"image": paths, "label": half},
        "a null image": {"image": [*paths[:-1], None], "label": labels},
        "numbers as images": {"image": list(range(20)), "label": labels},
        "lists as images": {"image": [[path] for path in paths], "label": labels},
        "bytes that are no image": {"image": [b"xyz"] * 20, "label": labels},
        "NaN labels": {"image": paths, "label": [0.0, float("nan")] * 10},
        "fractions as labels": {"image": paths, "label": [0.5, 1.5] * 10},
        "structs as labels": {"image": paths, "label": [{"a": 1}] * 20},
        "lists of two numbers as labels": {"image": paths, "label": [[1, 0]] * 10 + [[0, 1]] * 10},
        "lists of unequal length": {"image": paths, "label": [[1, 0]] * 19 + [[1]]},
        "no label": {"image": paths},
        "no image": {"label": labels},
    }

    def cases() -> Iterator[Case]:
        damaged = {
            **replacements(),
            **cuts(content, 8),
            **flips(content, 25),
            **holes(content, 5),
            "CSV": text(ROWS).encode(),
        }
        for number, (name, changed) in enumerate(damaged.items()):
            path = write(table_folder / f"damaged{number}.parquet", changed)
            # Parquet files carry no checksum by default: a letter of a label may have become another one.
            answer = Undetectable if name.startswith(("flip", "zeros from")) else right
            yield Case(f"parquet: {name}", lambda path=path: counts(path), table_folder.name, answer)
        for number, (name, values) in enumerate(columns.items()):
            path = save_parquet(table_folder / f"columns{number}.parquet", **values)
            yield Case(f"parquet: {name}", lambda path=path: counts(path), table_folder.name)

    check("tables", cases())


def test_damaged_folders_of_save_to_disk(table_folder: Path, check: Check) -> None:
    columns = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("string")})
    images = [{"bytes": (table_folder / a).read_bytes(), "path": None} for a, _ in ROWS]
    table = datasets.Dataset.from_dict({"image": images, "label": [b for _, b in ROWS]}, columns)
    intact = table_folder.parent / "disk"
    table.save_to_disk(intact)
    right = {"cat": 10, "dog": 10}
    assert counts(intact) == right

    def cases() -> Iterator[Case]:
        for file in sorted(intact.iterdir()):
            content = file.read_bytes()
            for number, (name, changed) in enumerate({**replacements(), **cuts(content, 3)}.items()):
                folder = table_folder.parent / f"{file.stem}{number}"
                shutil.copytree(intact, folder)
                (folder / file.name).write_bytes(changed)
                yield Case(f"disk: {file.name} {name}", lambda folder=folder: counts(folder), folder.name, right)
            folder = table_folder.parent / f"no-{file.stem}"
            shutil.copytree(intact, folder, ignore=shutil.ignore_patterns(file.name))
            yield Case(f"disk: no {file.name}", lambda folder=folder: counts(folder), folder.name, right)

    check("tables", cases())


# ------------------------------------------------------------------------------------------------------------- YAML


BASE = "backbone: lite0\ndataset: digits\npretrained: false\n"


def test_malformed_recipes(tmp_path: Path, canary: Path, check: Check) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
    nested = "optim: " + "{a: " * 3000 + "1" + "}" * 3000 + "\n"
    same = {
        "plain": BASE.encode(),
        "byte order mark": BASE.encode("utf-8-sig"),
        "CRLF": BASE.replace("\n", "\r\n").encode(),
        "comment in UTF-8": f"# réglages “ici”\n{BASE}".encode(),
        "document marks": f"---\n{BASE}...\n".encode(),
        "UTF-16": BASE.encode("utf-16"),
    }
    lines = {
        "a second block of one name": "optim:\n  lr: 0.01\noptim:\n  momentum: 0.5\n",
        "one key twice": "seed: 1\nseed: 2\n",
        "one key twice in a block": "optim:\n  lr: 0.01\n  lr: 0.02\n",
        "a number for a block": "optim: 5\n",
        "a list for a block": "optim: [1, 2]\n",
        "text for a block": "trainer: fast\n",
        "null for a block": "optim: null\n",
        "null for a name": "backbone: null\n",
        "null for a choice": "logger: null\n",
        "a list for a name": "backbone: [b0, b1]\n",
        "a block for a name": "backbone: {b0: 1}\n",
        "true for a name": "backbone: true\n",
        "a date for a seed": "seed: 2026-01-01\n",
        "text for a number": "optim: {lr: fast}\n",
        "true for a number": "optim: {lr: true}\n",
        "a list for a number": "optim: {lr: [0.1, 0.2]}\n",
        "NaN": "optim: {lr: .nan}\n",
        "infinity": "optim: {lr: .inf}\n",
        "1e400": "optim: {lr: 1e400}\n",
        "a negative rate": "optim: {lr: -0.1}\n",
        "seed -1": "seed: -1\n",
        "a seed of 100 digits": f"seed: {'9' * 100}\n",
        "no batch": "data: {batch_size: 0}\n",
        "half a batch": "data: {batch_size: 8.5}\n",
        "a huge batch": f"data: {{batch_size: {10**20}}}\n",
        "workers -1": "data: {num_workers: -1}\n",
        "no steps": "trainer: {max_steps: 0}\n",
        "no epochs": "trainer: {max_epochs: 0}\n",
        "epochs -2": "trainer: {max_epochs: -2}\n",
        "no accumulation": "trainer: {accumulate_grad_batches: 0}\n",
        "accumulation -1": "trainer: {accumulate_grad_batches: -1}\n",
        "validation never": "trainer: {val_check_interval: 0}\n",
        "validation -1": "trainer: {val_check_interval: -1}\n",
        "a share above 1": "trainer: {limit_val_batches: 1.5}\n",
        "a share below 0": "trainer: {limit_train_batches: -0.5}\n",
        "clipping -1": "trainer: {gradient_clip_val: -1}\n",
        "devices -5": "trainer: {devices: -5}\n",
        "no nodes": "trainer: {num_nodes: 0}\n",
        "a time of letters": "trainer: {max_time: soon}\n",
        "log every -1": "trainer: {log_every_n_steps: -1}\n",
        "dropout 1": "dropout: 1.0\n",
        "dropout -1": "dropout: -1\n",
        "label smoothing 1": "loss: {label_smoothing: 1}\n",
        "mixup -1": "loss: {mixup_alpha: -1}\n",
        "momentum 1": "optim: {momentum: 1}\n",
        "warm-up -1": "optim: {warmup_epochs: -1}\n",
        "layer decay 0": "optim: {layer_decay: 0}\n",
        "half-life 0": "ema_half_life: 0\n",
        "patience 0": "early_stopping: 0\n",
        "one pixel": "image_size: 1\n",
        "pixels -32": "image_size: -32\n",
        "a million pixels a side": "image_size: 1000000\n",
        "val of one half": "data: {val_fraction: 0.5}\n",
        "freeze sometimes": "freeze: sometimes\n",
        "an unknown field": "batchsize: 3\n",
        "an unknown field in a block": "optim: {learning_rate: 3}\n",
        "a tab": "optim:\n\tlr: 0.01\n",
        "no colon": "backbone\n",
        "a bracket that never closes": "optim: {lr: 0.1\n",
        "a code tag": f"x: !!python/object/apply:os.system ['touch {canary}']\n",
        "a code tag for a field": f"backbone: !!python/object/apply:os.system ['touch {canary}']\n",
        "a module tag": "backbone: !!python/name:os.system\n",
        "an alias without an anchor": "optim: *nothing\n",
        "an alias to itself": "optim: &a {lr: *a}\n",
        "a number as key": "1: 2\n",
        "a list as key": "[1, 2]: 3\n",
        "resume": "resume: runs/1\n",
        "another recipe": "config: other.yaml\n",
    }
    refused = {
        **{name: (BASE.removeprefix(line[:9] + " lite0\n") + line).encode() for name, line in lines.items()},
        "an alias bomb": (bomb + BASE + "head: *a8\n").encode(),
        "three thousand levels": (BASE + nested).encode(),
        "brackets without end": b"[" * 20_000,
        "a list": b"- a\n- b\n",
        "a word": b"hello\n",
        "two documents": f"{BASE}---\n{BASE}".encode(),
        "Latin-1": f"# réglages\n{BASE}".encode("latin-1"),
        "a NUL": BASE.encode() + b"seed: \x00\n",
    }  # fmt: skip

    def cases() -> Iterator[Case]:
        right = parse_config(["--backbone", "lite0", "--dataset", "digits", "--pretrained", "false"])[0].to_dict()
        downloads = {name: content for name, content in replacements().items() if name != "empty"}
        for family, answer in ((same, right), (refused, None), (downloads, None)):
            for number, (name, content) in enumerate(family.items()):
                path = write(tmp_path / f"{'right' if answer else 'wrong'}{number}.yaml", content)
                yield Case(
                    f"YAML: {name}",
                    lambda path=path: parse_config(["--config", str(path)])[0].to_dict(),
                    path.name,
                    answer,
                )
        os.mkfifo(tmp_path / "pipe.yaml")
        (tmp_path / "zero.yaml").symlink_to("/dev/zero")
        (tmp_path / "folder.yaml").mkdir()
        for name in ("pipe.yaml", "zero.yaml", "folder.yaml", "absent.yaml"):
            yield Case(f"YAML: {name}", lambda name=name: parse_config(["--config", str(tmp_path / name)]), name)

    check("recipes", cases())


# ------------------------------------------------------------------------------------------------------ checkpoints


class Payload:
    """Unpickled, it writes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def changed_tensors(state: dict[str, torch.Tensor], canary: Path) -> dict[str, dict[str, Any]]:
    """Return states that no training writes, by what was done to them."""
    weight = next(name for name in state if name.startswith("classifier.") and name.endswith("weight"))
    variance = next(name for name in state if name.endswith("running_var"))
    first = state[weight]
    return {
        "NaN": {**state, weight: torch.full_like(first, torch.nan)},
        "one infinity": {**state, weight: first.clone().index_fill_(0, torch.tensor([0]), torch.inf)},
        "negative variance": {**state, variance: -state[variance] - 1},
        "int8": {**state, weight: (first * 10).to(torch.int8)},
        "complex": {**state, weight: first.to(torch.complex64)},
        "bool": {**state, weight: first > 0},
        "a tensor less": {name: tensor for name, tensor in state.items() if name != weight},
        "a tensor more": {**state, "classifier.backbone.other": first},
        "another shape": {**state, weight: first[:-1]},
        "a list for a tensor": {**state, weight: first.tolist()},
        "text for a tensor": {**state, weight: "weights"},
        "no tensors": {},
        "code": {**state, weight: Payload(canary)},
    }


def copy_of(run_dir: Path, folder: Path, name: str, content: bytes | None) -> Path:
    """Return a copy of a run in which a file has other content, or is missing."""
    shutil.copytree(run_dir, folder, copy_function=os.link)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    return folder


def test_damaged_checkpoints(run_dir: Path, tmp_path: Path, canary: Path, check: Check) -> None:
    picture = write(tmp_path / "picture.png", encoded_picture("png"))
    content = (run_dir / "best.ckpt").read_bytes()
    checkpoint = torch.load(run_dir / "best.ckpt", weights_only=True)

    def scores(folder: Path) -> list[float]:
        return load_run(folder).predict([picture])[0].probabilities.tolist()

    def contents() -> Iterator[tuple[str, bytes | None]]:
        yield "absent", None
        yield "a pickle", pickle.dumps(Payload(canary))
        yield from {**replacements(), **cuts(content, 6), **flips(content, 30), **holes(content, 6)}.items()
        tensors = changed_tensors(checkpoint["state_dict"], canary).items()
        changes = {name: {**checkpoint, "state_dict": state} for name, state in tensors}
        changes |= {
            "no state": {name: value for name, value in checkpoint.items() if name != "state_dict"},
            "a list": [1, 2],
            "a class more": relabelled(checkpoint, ("cat", "dog", "eel")),
            "a class less": relabelled(checkpoint, ("cat",)),
            "numbers as names": relabelled(checkpoint, (1, 2)),
        }
        for name, value in changes.items():
            stream = io.BytesIO()
            torch.save(value, stream)
            yield name, stream.getvalue()

    def cases() -> Iterator[Case]:
        right = scores(run_dir)
        for number, (name, changed) in enumerate(contents()):
            folder = copy_of(run_dir, tmp_path / f"run{number}", "best.ckpt", changed)
            yield Case(f"best.ckpt: {name}", lambda folder=folder: scores(folder), folder.name, right)
            shutil.rmtree(folder)

    check("checkpoints", cases())


def relabelled(checkpoint: dict[str, Any], names: tuple[Any, ...]) -> dict[str, Any]:
    return {
        key: {**value, "class_names": names} if isinstance(value, dict) and "class_names" in value else value
        for key, value in checkpoint.items()
    }


# ------------------------------------------------------------------------------------------------------ run folders


COMPARED = ("label", "prediction")  # of test_predictions.npz: what a comparison of two runs reads


def test_damaged_run_folders(
    run_dir: Path, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch, check: Check
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "evil.py", f"open({str(canary)!r}, 'w').close()\ndef Head(*a, **k): pass\n".encode())
    picture = write(tmp_path / "picture.png", encoded_picture("png"))
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)

    def scores(folder: Path) -> list[float]:
        return load_run(folder).predict([picture])[0].probabilities.tolist()

    def compared(folder: Path) -> None:
        compare.compare(folder, other)

    config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    configs = {
        "another backbone": {**config, "backbone": "lite0"},
        "an unknown backbone": {**config, "backbone": "b77"},
        "code as head": {**config, "head": "evil.Head"},
        "code as backbone": {**config, "backbone": "evil.Head"},
        "a module as head": {**config, "head": "os.system"},
        "a number for a block": {**config, "optim": 5},
        "a list for a block": {**config, "data": []},
        "null": {**config, "backbone": None},
        "another field": {**config, "more": 1},
    }
    results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    changed_results = {
        "a list": [],
        "a number": 5,
        "empty": {},
        "metrics are text": {**results, "metrics": "good"},
        "metrics are a list": {**results, "metrics": [1]},
        "metrics are null": {**results, "metrics": None},
        "test is text": {**results, "metrics": {"test": "good"}},
        "numbers are text": {**results, "metrics": {"test": dict.fromkeys(results["metrics"]["test"], "x")}},
        "numbers are lists": {**results, "metrics": {"test": {name: [1] for name in results["metrics"]["test"]}}},
        "the configuration is text": {**results, "config": "b0"},
        "a schema of the future": {**results, "schema_version": 99},
        "a schema of text": {**results, "schema_version": "one"},
    }
    predictions = {
        name: values for name, values in np.load(run_dir / "test_predictions.npz").items() if name in COMPARED
    }
    changed_predictions = {
        "no arrays": {},
        "half the images": {name: values[: len(values) // 2] for name, values in predictions.items()},
        **{f"{key} shorter": {**predictions, key: value[:-1]} for key, value in predictions.items() if value.ndim},
        **{f"no {key}": {name: v for name, v in predictions.items() if name != key} for key in predictions},
        **{f"{key} as text": {**predictions, key: predictions[key].astype(str)} for key in predictions
           if predictions[key].dtype.kind in "iuf"},
    }  # fmt: skip

    def contents() -> Iterator[tuple[str, str, bytes | None, Callable[[Path], Any]]]:
        for file, read in (("config.yaml", scores), ("results.json", compared), ("test_predictions.npz", compared)):
            content = (run_dir / file).read_bytes()
            yield file, "absent", None, read
            for name, changed in {**replacements(), **cuts(content, 4)}.items():
                if not (file == "config.yaml" and name.startswith("cut")):  # a shorter recipe is a recipe
                    yield file, name, changed, read
        for name, value in configs.items():
            yield "config.yaml", name, yaml.safe_dump(value).encode(), scores
        for name, value in changed_results.items():
            yield "results.json", name, json.dumps(value).encode(), compared
        yield "results.json", "ten thousand levels", b"[" * 10_000 + b"]" * 10_000, compared
        for name, arrays in changed_predictions.items():
            stream = io.BytesIO()
            np.savez(stream, **arrays)
            yield "test_predictions.npz", name, stream.getvalue(), compared
        stream = io.BytesIO()
        np.savez(stream, **{name: np.array([Payload(canary)], dtype=object) for name in predictions})
        yield "test_predictions.npz", "code", stream.getvalue(), compared

    def cases() -> Iterator[Case]:
        for number, (file, name, content, read) in enumerate(contents()):
            folder = copy_of(run_dir, tmp_path / f"run{number}", file, content)
            yield Case(f"{file}: {name}", lambda folder=folder, read=read: read(folder), folder.name)
            shutil.rmtree(folder)

    check("run folders", cases())


# --------------------------------------------------------------------------------------------------------- archives


def test_damaged_archives(tmp_path: Path, canary: Path, check: Check) -> None:
    meta = pickle.dumps({b"label_names": [b"x"] * 10}, protocol=2)
    batch = {b"labels": [0] * 5, b"data": np.zeros((5, 3072), np.uint8), b"filenames": [b"a.png"] * 5}
    content = pickle.dumps(batch, protocol=2)

    def cifar(changed: bytes, name: str) -> Path:
        folder = tmp_path / name
        write(folder / "batches.meta", meta)
        for file in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
            write(folder / file, content)
        write(folder / "data_batch_3", changed)
        return folder

    def flowers(changed: bytes, name: str, file: str) -> Path:
        folder = tmp_path / name
        for key in ("imagelabels.mat", "setid.mat"):
            stream = io.BytesIO()
            scipy.io.savemat(stream, {"labels": np.ones((1, 9), np.uint8), "trnid": [1], "valid": [2], "tstid": [3]})
            write(folder / key, changed if key == file else stream.getvalue())
        for index in range(1, 10):
            write(folder / "jpg" / f"image_{index:05d}.jpg", encoded_picture("jpg"))
        return folder

    def cases() -> Iterator[Case]:
        changes = {
            "code": pickle.dumps(Payload(canary)),
            "code in a list": pickle.dumps([Payload(canary)] * 3, protocol=2),
        }
        changes |= {**replacements(), **cuts(content, 6), **flips(content, 10), "HTML in a pickle": pickle.dumps(HTML)}
        for number, (name, changed) in enumerate(changes.items()):
            folder = cifar(changed, f"cifar{number}")
            yield Case(f"cifar10: {name}", lambda folder=folder: load_dataset("cifar10", data_root=folder), "cifar")
        stream = io.BytesIO()
        scipy.io.savemat(stream, {"labels": np.ones((1, 9), np.uint8)})
        for file in ("imagelabels.mat", "setid.mat"):
            # A process reads each.
            damaged = {"HTML": HTML, "empty": b"", **cuts(stream.getvalue(), 2), **flips(stream.getvalue(), 3)}
            for number, (name, changed) in enumerate(damaged.items()):
                folder = flowers(changed, f"flowers-{file}{number}", file)
                yield Case(
                    f"flowers: {file} {name}",
                    lambda folder=folder: load_dataset("flowers", data_root=folder),
                    "flowers",
                )

    check("archives", cases())


# ---------------------------------------------------------------------------------------------------------- weights


def test_damaged_safetensors(run_dir: Path, tmp_path: Path, check: Check) -> None:
    from transfer import build_classifier

    torch.manual_seed(0)
    classifier = build_classifier("lite0", 3, pretrained=False)
    intact = tmp_path / "intact.safetensors"
    save_file(classifier.state_dict(), intact)
    content = intact.read_bytes()

    def total(path: Path) -> float:
        built = build_classifier("lite0", 3, pretrained="timm", weights=path)
        return float(sum(tensor.double().abs().sum() for tensor in built.backbone.state_dict().values()))

    def cases() -> Iterator[Case]:
        right = total(intact)
        header = int.from_bytes(content[:8], "little")
        changes = {**replacements(), **cuts(content, 6), **flips(content[: 8 + header], 15)}
        changes |= {"a header of 2^60 bytes": (2**60).to_bytes(8, "little") + content[8:]}
        for number, (name, changed) in enumerate(changes.items()):
            body = changed if len(changed) != 8 + header else changed + content[8 + header :]
            path = write(tmp_path / f"{number}.safetensors", body)
            yield Case(f"safetensors: {name}", lambda path=path: total(path), path.name, right)
            path.unlink()

    check("checkpoints", cases())


def test_enough_cases_were_judged() -> None:
    """Stands last: the tests above must have run in the same process."""
    if len({family for family, _ in _counts}) < 6:
        pytest.skip("needs the whole file")
    print("\n".join(f"{family:14} {outcome}: {number}" for (family, outcome), number in sorted(_counts.items())))
    assert sum(_counts.values()) >= LEAST_CASES
