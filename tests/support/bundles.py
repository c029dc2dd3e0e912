"""Bundles: a small run, its export, and bundles changed by someone who seals them again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.support.runs import CHEAP, call
from transfer.bundle.record import MODEL, Record, read_record, write_record
from transfer.commands import export, finetune
from transfer.files import file_sha256

TINY = "lite0@w=0.25,d=0.25"  # a network of 0.3 MB


def small_run(run_dir: Path, *words: str | Path) -> Path:
    """Train a tiny network on digits for seconds."""
    argv = (*CHEAP, "--backbone", TINY, "--pretrained", "false", *words, "--out_dir", run_dir)
    assert call(finetune.main, *argv) == 0
    return run_dir


def exported(run_dir: Path, out: Path, *words: str | Path) -> Path:
    """Export a run by the command."""
    assert call(export.main, run_dir, "--out", out, *words) == 0
    return out


def copied(bundle: Path, to: Path) -> Path:
    """A copy of a bundle to damage."""
    shutil.copytree(bundle, to)
    return to


def sealed_again(bundle: Path, change: Callable[[Record], Record] = lambda record: record) -> None:
    """Change a bundle's record, and make all digests right again, as who wrote it on purpose would."""
    record = read_record(bundle / MODEL)
    files = {name: file_sha256(bundle / name) for name in record.files if (bundle / name).is_file()}
    write_record(bundle, change(replace(record, files=files)))
