"""Which files of a folder are taken for pictures, and what is said of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from transfer.errors import DamagedFile, MissingData
from transfer.images.listing import list_images, natural_key, walk_files


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_natural_order_reads_digits_as_numbers() -> None:
    assert sorted(["10", "2", "1", "a10", "a9", "B"], key=natural_key) == ["1", "2", "10", "a9", "a10", "B"]


def test_list_images_recurses_in_natural_order_without_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "10.JPG", "2.jpg", ".hidden.jpg", "sub/1.Png", ".git/x.png", "__MACOSX/y.png")
    assert [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)] == ["2.jpg", "10.JPG", "sub/1.Png"]
    assert list_images(tmp_path / "2.jpg") == [tmp_path / "2.jpg"]


def test_files_that_are_left_out_are_counted_by_their_extension(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "a.txt", "sub/b.TXT", "sub/c.svg", "Makefile")
    with pytest.warns(UserWarning, match=r"left out 4 files .*\(2 \.txt, 1 Makefile, 1 \.svg\)") as caught:
        assert [path.name for path in list_images(tmp_path)] == ["1.jpg"]
    assert len(caught) == 1


def test_list_images_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"no such file or folder: .*nowhere"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(MissingData, match=r"no image in .* image files end in .*\.jpg"):
        list_images(tmp_path)
    touch(tmp_path, "a.txt", "b.txt")
    with pytest.raises(MissingData, match=r"but 2 files .*\(2 \.txt\)"):
        list_images(tmp_path)


def test_a_link_back_to_a_folder_above_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [path.name for path in list_images(tmp_path)] == ["x.png"]


def test_two_links_to_one_folder_are_both_followed(tmp_path: Path) -> None:
    touch(tmp_path, "store/x.png")
    for name in ("a", "b"):
        (tmp_path / "root" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "root" / name).symlink_to(tmp_path / "store", target_is_directory=True)
    assert list_images(tmp_path / "root") == [tmp_path / "root" / name / "x.png" for name in ("a", "b")]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "cat/1.png", "dog/1.png")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(MissingData, match=r"dog: this folder cannot be listed \(permission denied\)"):
        list(walk_files(tmp_path))


def test_a_name_that_is_not_utf8_is_named_and_what_to_do(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/ma\xf1ana.png"))).touch()
    with pytest.raises(DamagedFile, match=r"ma\\xf1ana\.png: this name is not in UTF-8; rename it") as caught:
        list_images(tmp_path)
    assert str(caught.value).isprintable()
