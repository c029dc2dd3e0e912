"""A user's files are read with care, and written whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from transfer import files
from transfer.errors import DamagedFile, MissingData
from transfer.files import folder_written_whole, read_json, read_object, read_rows, read_text, write_text, written_whole
from transfer.training.checkpointing import AtomicCheckpointIO

READERS = (read_text, read_json, read_object, read_rows)


@pytest.mark.parametrize("read", READERS)
def test_only_regular_files_are_read(read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a pipe"), ("zero", "a device"), (".", "a folder")):
        with pytest.raises(DamagedFile, match=kind):
            read(tmp_path / name)
    with pytest.raises(MissingData, match="no such file"):
        read(tmp_path / "none")
    with pytest.raises(MissingData, match=r"a\\x00b: no file has a NUL"):
        read(Path("a\0b"))


def test_text_is_utf8_with_or_without_a_mark_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\nb\xc3\xa9")
    assert read_text(path) == "a\nbé"
    path.write_bytes(b"a\nb\n\xff")
    with pytest.raises(DamagedFile, match=r"a\.txt line 3: not text in UTF-8 \(byte 0xff\)"):
        read_text(path)
    monkeypatch.setattr(files, "TEXT_BYTES", 2)
    with pytest.raises(DamagedFile, match="larger"):
        read_text(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "line 1"), ('{\n"a": }', "line 2"), ("[" * 100_000, "levels"), ("9" * 5000, "number too long")],
)
def test_what_is_not_json_is_said_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DamagedFile, match=message):
        read_json(path)


def test_an_object_is_an_object(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('\ufeff{"a": [1]}')
    assert read_object(tmp_path / "a.json") == {"a": [1]}
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(DamagedFile, match="found list"):
        read_object(tmp_path / "a.json")


def test_rows_have_a_value_for_each_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,"x\ny"\n\n2,\n')
    assert read_rows(path) == [{"a": "1", "b": "x\ny"}, {"a": "2", "b": ""}]
    path.write_text("a,b\n1,2\n3\n")
    with pytest.raises(DamagedFile, match="line 3: 1 values for 2 columns"):
        read_rows(path)
    path.write_text("a,b\n1," + "2" * 200_000)
    with pytest.raises(DamagedFile, match="line 2: not CSV"):
        read_rows(path)


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "a", []

    def note(descriptor: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), path.exists()))

    monkeypatch.setattr(os, "fsync", note)
    write_text(path, "new\udcff")
    assert path.read_text() == "new\\udcff"
    assert [exists for _, exists in synced] == [False, True]
    assert synced[0][0].startswith(f"{path}.") and synced[1][0] == str(tmp_path)
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(2)}, path)
    assert [exists for _, exists in synced[2:]] == [True, True] and torch.load(path)["a"].tolist() == [1, 1]


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(OSError) as raised, written_whole(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_folder_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(OSError) as raised, folder_written_whole(path) as folder:
        (folder / "new").write_text("new")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(path)
    assert [file.name for file in path.iterdir()] == ["old"] and list(tmp_path.iterdir()) == [path]
