"""The authors' files beside their published sizes and digests."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from datamodules import get_sheet, list_datasets, load_dataset
from datamodules.dataset.layout import Layout, OfficialFile
from datamodules.reading.official_files import check_official_files, find_archives, find_difference, find_wrong_size
from datamodules.sheets.food import Food101
from transfer.errors import MissingData, UserError

CONTENT = b"the authors' bytes"
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


def save(folder: Path, name: str = "data.tgz", content: bytes = CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("name", list_datasets())
def test_every_published_digest_has_its_form(name: str) -> None:
    layout = get_sheet(name).layout
    for file in layout.files if layout else ():
        assert file.sha256 is None or (len(file.sha256) == 64 and int(file.sha256, 16) >= 0)
        assert file.md5 is None or (len(file.md5) == 32 and int(file.md5, 16) >= 0)
        assert file.num_bytes is None or file.num_bytes > 0
        assert file.url is None or file.url.endswith(file.name)


def test_a_file_is_compared_with_the_best_digest_there_is(tmp_path: Path) -> None:
    path = save(tmp_path)
    assert find_difference(path, [OfficialFile("data.tgz", sha256=SHA256, md5="0" * 32, num_bytes=18)]) is None
    assert find_difference(path, [OfficialFile("data.tgz", md5=MD5)]) is None
    assert find_difference(path, [OfficialFile("data.tgz")]) is None
    other = "0" * 64
    found = find_difference(path, [OfficialFile("data.tgz", sha256=other, md5=MD5)])
    assert found == f"SHA-256 {other} expected, {SHA256} found"
    assert find_difference(path, [OfficialFile("data.tgz", md5="1" * 32)]) == f"MD5 {'1' * 32} expected, {MD5} found"


def test_any_of_several_releases_will_do(tmp_path: Path) -> None:
    path = save(tmp_path)
    old, new = OfficialFile("data.tgz", "0" * 64, num_bytes=7), OfficialFile("data.tgz", SHA256, num_bytes=18)
    assert find_difference(path, [old, new]) is find_wrong_size(path, [new, old]) is None
    path.write_bytes(CONTENT[:-1])
    assert find_difference(path, [old, new]) == "7 or 18 bytes expected, 17 found"


def test_archives_are_left_alone_while_loading_and_found_where_they_lie(tmp_path: Path) -> None:
    files = (OfficialFile("data.tgz", sha256="0" * 64), OfficialFile("ids.txt", md5=MD5))
    layout = Layout(needs=(), folders=("inside",), files=files)
    assert layout.archives == ("data.tgz",)
    save(tmp_path / "name" / "inside")
    save(tmp_path / "name" / "inside", "ids.txt")
    check_official_files(tmp_path / "name" / "inside", layout)
    assert find_archives(layout, tmp_path, "name") == [tmp_path / "name" / "inside" / "data.tgz"]
    save(tmp_path / "name" / "inside", "ids.txt", b"others")
    with pytest.raises(UserError, match=r"ids\.txt: MD5 \w+ expected, \w+ found; not the authors' file\. Download it"):
        check_official_files(tmp_path / "name" / "inside", layout)


def test_an_archive_that_is_not_whole_is_not_to_be_extracted(tmp_path: Path) -> None:
    archive = save(tmp_path, "food-101.tar.gz")
    with pytest.raises(MissingData) as caught:
        load_dataset("food101", data_root=tmp_path)
    assert f"{archive} is not whole (4,996,278,331 bytes expected, 18 found): download it again." in str(caught.value)
    assert "tar -xf" not in str(caught.value)

    class SmallFood(Food101):
        layout: ClassVar[Layout] = replace(Food101.layout, files=(OfficialFile("food-101.tar.gz", num_bytes=18),))

    with pytest.raises(MissingData, match=r"Extract what is there with: tar -xf .*food-101\.tar\.gz -C"):
        load_dataset(SmallFood(), data_root=tmp_path)


def test_the_addresses_of_the_authors_files_are_named_where_none_is_there(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"The authors' files: .*setid\.mat \(https://www\.robots\.ox\.ac\.uk/"):
        load_dataset("flowers", data_root=tmp_path)
