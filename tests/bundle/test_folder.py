"""Folders and zip files of bundles are written whole or not at all, and nothing in them leads out."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bundle.test_record import RECORD
from transfer.bundle.folder import check_destination, new_bundle, open_folder
from transfer.bundle.record import MODEL, write_record
from transfer.errors import BadValue, DamagedFile, MissingData, UserError
from transfer.files import file_sha256


def fill(folder: Path, text: str = "content") -> None:
    (folder / "openvino").mkdir(parents=True, exist_ok=True)
    (folder / "openvino" / "model.xml").write_text(text)
    digest = file_sha256(folder / "openvino" / "model.xml")
    write_record(folder, replace(RECORD, files={"openvino/model.xml": digest}))


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_a_bundle_comes_back_from_a_folder_and_a_zip(tmp_path: Path, name: str) -> None:
    with new_bundle(tmp_path / name) as folder:
        fill(folder)
    opened = open_folder(tmp_path / name)
    assert opened.record.class_names == RECORD.class_names
    assert opened.file("openvino/model.xml").read_text() == "content"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_equal_folders_make_equal_zips(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        with new_bundle(tmp_path / name) as folder:
            fill(folder)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        members = archive.infolist()
    assert {member.compress_type for member in members} == {zipfile.ZIP_STORED}
    assert {member.date_time for member in members} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_an_error_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    with new_bundle(tmp_path / name) as folder:
        fill(folder, "before")
    with pytest.raises(RuntimeError), new_bundle(tmp_path / name) as folder:
        fill(folder, "after")
        raise RuntimeError
    assert open_folder(tmp_path / name).file("openvino/model.xml").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_only_a_bundle_is_overwritten_and_only_on_demand(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").touch()
    with pytest.raises(BadValue, match="is no bundle: nothing else is overwritten"):
        check_destination(photos, overwrite=True)
    with new_bundle(tmp_path / "bundle") as folder:
        fill(folder)
    with pytest.raises(BadValue, match="exists; `overwrite` replaces it"):
        check_destination(tmp_path / "bundle", overwrite=False)
    check_destination(tmp_path / "bundle", overwrite=True)
    with pytest.raises(MissingData, match="no such folder"):
        check_destination(tmp_path / "nowhere" / "bundle", overwrite=False)
    with new_bundle(tmp_path / "bundle") as folder:
        fill(folder, "newer")
    assert open_folder(tmp_path / "bundle").file("openvino/model.xml").read_text() == "newer"


def test_changed_missing_and_unlisted_files_are_told_apart(tmp_path: Path) -> None:
    fill(tmp_path)
    bundle = open_folder(tmp_path)
    (tmp_path / "notes.txt").touch()
    assert bundle.strangers() == ["notes.txt"]
    with pytest.raises(MissingData, match=r"lists no model\.onnx"):
        bundle.file("model.onnx")
    (tmp_path / "openvino" / "model.xml").write_text("Content")
    with pytest.raises(DamagedFile, match=r"openvino/model\.xml: changed since it was written"):
        bundle.check_files()
    (tmp_path / "openvino" / "model.xml").unlink()
    with pytest.raises(MissingData, match=r"openvino/model\.xml is missing"):
        bundle.check_files()


def test_links_lead_nowhere_else_but_in_the_hubs_cache(tmp_path: Path) -> None:
    outside = tmp_path / "blobs"
    outside.mkdir()
    folder = tmp_path / "snapshots" / "abc"
    fill(folder)
    (folder / "openvino" / "model.xml").rename(outside / "1234")
    (folder / "openvino" / "model.xml").symlink_to(outside / "1234")
    assert open_folder(folder).file("openvino/model.xml").read_text() == "content"
    moved = tmp_path / "moved"
    folder.rename(moved)
    with pytest.raises(DamagedFile, match="a link that leads out of the bundle"):
        open_folder(moved).file("openvino/model.xml")


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "a\\evil"])
def test_a_zip_unpacks_nothing_outside(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(MODEL, "{}")
        archive.writestr(name, "evil")
    with pytest.raises(DamagedFile, match="is no file inside the bundle"):
        open_folder(tmp_path / "x.zip")
    assert not list(tmp_path.parent.rglob("evil"))


def test_other_zips_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.bin", bytes(10**6))
    with pytest.raises(DamagedFile, match="is compressed"):
        open_folder(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(DamagedFile, match=f"no bundle: it has no {MODEL}"):
        open_folder(path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "w") as archive:
        for text in ("a", "b"):
            archive.writestr("a.txt", text)
    with pytest.raises(DamagedFile, match="share names or bytes"):
        open_folder(path)
    for names in (("a", "a/b"), ("a", "a/b/c"), ("a/b", "a")):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, name)
        with pytest.raises(DamagedFile, match="not a zip file that can be read"):
            open_folder(path)
    for content in (b"", b"PK\x03\x04 and then nothing", bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a zip file that can be read"):
            open_folder(path)


def test_a_path_that_is_no_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match=r"is no bundle: it has no model\.json"):
        open_folder(tmp_path)
    with pytest.raises(MissingData, match="no such bundle"):
        open_folder(tmp_path / "x")
