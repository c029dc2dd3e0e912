"""efficientnet-transfer push uploads a bundle's bytes and nothing else, and says what leaves, before any leaves."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, close_session, constants, snapshot_download
from huggingface_hub.repocard import metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import ExifTags, Image

from tests.bundle.test_record import RECORD
from tests.support.bundles import TINY, sealed_again
from tests.support.model_hub import TOKEN, ModelHub, Repository, model_hub
from tests.support.runs import ROOT, call, environment
from transfer.bundle.folder import new_bundle, open_folder
from transfer.bundle.golden import noise_files
from transfer.bundle.tensors import describe_network
from transfer.bundle.writing import Source, write_bundle
from transfer.commands import check, push
from transfer.files import file_sha256
from transfer.images.place import tells_place
from transfer.networks.ensemble import Ensemble
from transfer.weights.build import build_classifier

CARD_OF_THE_HUB = {".gitattributes": b"", "README.md": b"---\nlicense: mit\n---\n"}


@pytest.fixture(scope="module")
def noise_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of an untrained network, whose golden inputs are noise."""
    torch.manual_seed(0)
    classifier = build_classifier(TINY, 3, class_names=RECORD.class_names).eval()
    member = replace(RECORD.members[0], network=describe_network(classifier), weights=None)
    record = replace(RECORD, members=(member,), golden="noise")
    network = Ensemble([classifier], [member.temperature], record.multilabel).eval()
    folder = tmp_path_factory.mktemp("bundles") / "mymodel"
    folder.mkdir()
    write_bundle(Source(network, record, noise_files(), calibration=b"what val says"), folder, [], 0.5)
    return folder


@pytest.fixture
def bundle(noise_bundle: Path, tmp_path: Path) -> Path:
    """A copy with a file that is not its own."""
    shutil.copytree(noise_bundle, tmp_path / "mymodel")
    (tmp_path / "mymodel" / "notes.txt").write_text("not for others")
    return tmp_path / "mymodel"


@pytest.fixture
def photo_bundle(bundle: Path) -> Path:
    """The same, whose golden inputs count as photos."""
    sealed_again(bundle, lambda record: replace(record, golden="photos"))
    return bundle


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelHub]:
    """An empty hub, which this process takes for the only one."""
    with model_hub() as hub:
        for name, value in settings(hub, tmp_path).items():
            monkeypatch.setenv(name, value)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address())
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address() + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
        close_session()
        yield hub
        close_session()


def settings(hub: ModelHub, tmp_path: Path) -> dict[str, str]:
    """What a process needs that knows no other hub."""
    home = {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "no_proxy": "127.0.0.1"}
    return {**home, "HF_ENDPOINT": hub.address(), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def contents(folder: Path) -> dict[str, bytes]:
    """The bundle's files, without others that lie there."""
    return {name: (folder / name).read_bytes() for name in open_folder(folder).names}


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A push that must fail with one line, which is returned."""

    def refused(*argv: str | Path) -> str:
        capsys.readouterr()
        assert call(push.main, *argv) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and TOKEN not in errors[0]
        return errors[0]

    return refused


def test_a_bundle_arrives_and_comes_back(
    bundle: Path, hub: ModelHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(push.main, bundle, "user/name") == 0
    out, err = capfd.readouterr()
    found = hub.repositories["user/name"]
    assert not found.private and found.num_commits == 2
    assert found.files == contents(bundle) | {".gitattributes": found.files[".gitattributes"]}
    assert f"pushed: {hub.address()}/user/name (public), commit {found.commit[:12]}" in out
    assert "golden inputs: noise" in out and "features of 180 val images" in out and TOKEN not in out + err
    snapshot_download("user/name", local_dir=tmp_path / "back")  # hf download user/name --local-dir back
    assert contents(tmp_path / "back") == contents(bundle)
    assert call(check.main, tmp_path / "back") == 0
    assert "not the bundle's" not in capfd.readouterr().out
    cached = Path(snapshot_download("user/name", cache_dir=tmp_path / "cache"))
    assert (cached / "model.json").is_symlink() and call(check.main, cached) == 0


def test_the_token_goes_to_the_hub_alone(bundle: Path, hub: ModelHub) -> None:
    assert call(push.main, bundle, "user/name") == 0
    assert {asked.token for asked in hub.asked if asked.server == "hub"} == {TOKEN}
    stored = [asked for asked in hub.asked if asked.server == "storage"]
    assert len(stored) == len(hub.stored) > 8 and {asked.token for asked in stored} == {None}


def test_a_zip_is_pushed_as_its_files(bundle: Path, hub: ModelHub, tmp_path: Path) -> None:
    with new_bundle(tmp_path / "mymodel.zip") as folder:
        for name, content in contents(bundle).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    assert call(push.main, tmp_path / "mymodel.zip", "user/name") == 0
    assert hub.repositories["user/name"].files.items() >= contents(bundle).items()


def test_the_hubs_client_reads_the_cards_metadata(bundle: Path) -> None:
    metadata = metadata_load(bundle / "README.md")
    assert metadata is not None and metadata["pipeline_tag"] == "image-classification"
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "photos_lite0" and {result.dataset_split for result in results} == {"val", "test"}


def test_a_dry_run_lists_and_writes_what_would_leave_and_asks_nobody(
    bundle: Path, hub: ModelHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(push.main, bundle, "user/name", "--dry_run", tmp_path / "staged") == 0
    out = capsys.readouterr().out
    assert hub.asked == []
    files = {str(path.relative_to(tmp_path / "staged")) for path in (tmp_path / "staged").rglob("*") if path.is_file()}
    assert files == contents(bundle).keys() and contents(tmp_path / "staged") == contents(bundle)
    listed = {line.split()[-1] for line in out.splitlines() if line.startswith(" ")}
    assert listed == files and "left out: notes.txt" in out and out.endswith("nothing was sent\n")
    assert call(push.main, bundle, "user/name", "--dry_run") == 0


def test_photos_leave_only_where_it_was_said(
    photo_bundle: Path, hub: ModelHub, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ((), ("--dry_run",)):
        message = refused(photo_bundle, "user/name", *words)
        assert all(way in message for way in ("--private keeps", "--allow_photos publishes", "--golden noise"))
    assert hub.asked == []
    assert call(push.main, photo_bundle, "user/name", "--private") == 0
    assert hub.repositories["user/name"].private
    out = capsys.readouterr().out
    assert "8 photos of val leave with it" in out and "(private)" in out
    assert call(push.main, photo_bundle, "user/public", "--allow_photos") == 0
    assert not hub.repositories["user/public"].private


def test_a_public_repository_does_not_become_private_by_a_flag(
    photo_bundle: Path, hub: ModelHub, refused: Callable[..., str]
) -> None:
    hub.repositories["user/name"] = Repository(private=False)
    assert "--private: user/name is on the Hub already, and public" in refused(photo_bundle, "user/name", "--private")
    assert hub.repositories["user/name"].num_commits == 1 and hub.stored == {}


def test_the_next_bundle_takes_the_place_of_the_last(
    bundle: Path, hub: ModelHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["user/name"] = Repository(files=dict(CARD_OF_THE_HUB))
    assert call(push.main, bundle, "user/name") == 0
    found = hub.repositories["user/name"]
    found.files["LICENSE"] = b"mine"
    (bundle / "golden" / "old.txt").write_text("of the last one")
    old = file_sha256(bundle / "golden" / "old.txt")
    smaller = contents(bundle)
    sealed_again(bundle, lambda record: replace(record, files={**record.files, "golden/old.txt": old}))
    assert call(push.main, bundle, "user/name") == 0
    assert "golden/old.txt" in found.files
    (bundle / "model.json").write_bytes(smaller["model.json"])
    assert call(push.main, bundle, "user/name") == 0
    assert found.files == smaller | {".gitattributes": b"", "LICENSE": b"mine"}
    before = found.num_commits
    assert call(push.main, bundle, "user/name") == 0
    assert found.num_commits == before


def test_what_is_no_bundle_is_not_overwritten(bundle: Path, hub: ModelHub, refused: Callable[..., str]) -> None:
    hub.repositories["user/name"] = Repository(files={"config.json": b"{}", "README.md": b""})
    assert "'user/name' holds files and is no bundle, as config.json" in refused(bundle, "user/name")
    hub.repositories["user/name"] = Repository(files={"model.json": b'{"schema_version": 99}'})
    message = refused(bundle, "user/name")
    assert "user/name/model.json, which is on the Hub: schema version 99" in message
    assert hub.stored == {} and hub.repositories["user/name"].num_commits == 1


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("repos/create", 401, "it does not accept the token, which may have expired: run hf auth login"),
        ("repos/create", 429, "too many requests: wait"),
        ("repos/create", 503, "it failed: wait, then push again (it answered 503 the message)"),
        ("preupload", 403, "the token may not write there: make one with write access"),
        ("objects/batch", 422, "it refuses the upload (it answered 422 the message)"),
        ("commit", 412, "someone else changed the repository meanwhile: push again"),
        ("commit", 500, "it failed"),
        ("/" + "revision", 500, "it failed"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    bundle: Path, hub: ModelHub, refused: Callable[..., str], path: str, status: int, said: str
) -> None:
    hub.refuses[path] = (status, "the message")
    message = refused(bundle, "user/name")
    assert f"user/name on {hub.address()}: " in message and said in message


def test_a_large_file_that_is_refused_is_no_success(bundle: Path, hub: ModelHub, refused: Callable[..., str]) -> None:
    hub.refuses[open_folder(bundle).record.files["model.safetensors"]] = (403, "Request has expired")
    assert "it answered 403 Request has expired" in refused(bundle, "user/name")
    assert hub.repositories["user/name"].num_commits == 1


def test_a_commit_that_lacks_a_file_is_no_success(bundle: Path, hub: ModelHub, refused: Callable[..., str]) -> None:
    hub.ignores = {"golden/golden.json"}
    message = refused(bundle, "user/name")
    assert "lacks files of the bundle, or holds others: golden/golden.json; a .gitignore" in message


@pytest.mark.parametrize("name", ["golden/golden.json", "model.safetensors", "model.json"])
def test_a_file_that_changes_while_it_travels_is_no_success(
    bundle: Path, hub: ModelHub, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The Hub then holds what lies here, which is another file than the one that was listed."""
    ask = HfApi.model_info

    def change(*words: Any, **options: Any) -> Any:
        if name == "model.json":
            sealed_again(bundle, lambda record: replace(record, name="another"))
        else:
            (bundle / name).write_bytes(b"changed")
        return ask(*words, **options)

    monkeypatch.setattr(HfApi, "model_info", change)
    assert f"holds others: {name}; a .gitignore in the repository leaves files out, or" in refused(bundle, "user/name")
    assert hub.repositories["user/name"].files[name] == (bundle / name).read_bytes()


def test_the_place_of_photos_is_said(photo_bundle: Path, hub: ModelHub, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1
    for name, gps in (("1.png", {}), ("2.png", {ExifTags.GPS.GPSLatitude: (52.0, 31.0, 12.0)})):
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
        with Image.open(photo_bundle / "golden" / name) as image:
            image.save(photo_bundle / "golden" / name, exif=exif)
    sealed_again(photo_bundle)
    assert call(push.main, photo_bundle, "user/name", "--private", "--dry_run") == 0
    out = capsys.readouterr().out
    assert "their metadata say where they were taken (GPS): 2.png in golden/\n" in out
    assert tells_place((photo_bundle / "golden" / "2.png").read_bytes(), 10**6) and not tells_place(b"GPSLatitude", 9)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", xmp=b'<x exif:GPSLatitude="52,31.2N"/>')
    assert tells_place(buffer.getvalue(), 10**6)


def test_another_namespace_is_refused(bundle: Path, hub: ModelHub, refused: Callable[..., str]) -> None:
    message = refused(bundle, "other/name")
    assert "the token may not write there" in message and "rights to create a model under other" in message


@pytest.mark.parametrize("name", ["name", "a/b/c", "user/na me", "user/..", "user/x.git", "user/" + "x" * 97, ""])
def test_a_name_that_the_hub_does_not_allow(
    bundle: Path, hub: ModelHub, refused: Callable[..., str], name: str
) -> None:
    assert "no repository of the Hub (allowed: user/name" in refused(bundle, name)
    assert hub.asked == []


def test_without_a_token_or_a_network(
    bundle: Path, hub: ModelHub, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("HF_TOKEN")
        assert "no token of the Hugging Face Hub: run hf auth login" in refused(bundle, "user/name")
        assert hub.asked == []
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE is set, which forbids uploads" in refused(bundle, "user/name")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "user/name on http://127.0.0.1:9: could not upload (" in refused(bundle, "user/name")


def test_a_full_disk_is_named(
    bundle: Path, hub: ModelHub, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub's client keeps what it downloads of an earlier bundle in a temporary folder."""
    hub.repositories["user/name"] = Repository(files=contents(bundle))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x")

    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", full)
    assert "no space left on the disk while writing /tmp/x" in refused(bundle, "user/name")
    assert hub.stored == {}


def test_a_damaged_bundle_stays_here(bundle: Path, hub: ModelHub, refused: Callable[..., str], tmp_path: Path) -> None:
    (bundle / "golden" / "golden.json").write_text("changed")
    assert "golden.json: changed since it was written" in refused(bundle, "user/name")
    (bundle / "golden" / "golden.json").unlink()
    assert "golden.json is missing" in refused(bundle, "user/name")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").touch()
    assert f"is a run, no bundle: efficientnet-transfer export {run}" in refused(run, "user/name")
    assert hub.asked == []


def test_a_dry_run_overwrites_nothing(bundle: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    assert f"--dry_run {tmp_path} exists" in refused(bundle, "user/name", "--dry_run", tmp_path)
    assert "no such folder" in refused(bundle, "user/name", "--dry_run", tmp_path / "none" / "staged")


def test_a_scheduler_stops_it_as_a_user_does(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("transfer.bundle.hub.upload", stopped)
    assert call(push.main, bundle, "user/name") == 128 + signal.SIGTERM
    assert capsys.readouterr().err.startswith("stopped by SIGTERM; go on with: the same command")


@pytest.mark.slow
def test_a_stopped_push_changes_nothing_and_can_be_repeated(noise_bundle: Path, tmp_path: Path) -> None:
    """Stopped as files travel by Xet, the Hub's own way; repeated without it."""
    command = [sys.executable, "-m", "transfer", "push", str(noise_bundle), "user/name"]
    with model_hub() as hub:
        own = environment(**settings(hub, tmp_path), PYTHONPATH=str(ROOT))
        hub.stalls, by_xet = threading.Event(), own | {"HF_HUB_DISABLE_XET": "0"}
        with subprocess.Popen(command, cwd=tmp_path, env=by_xet, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert hub.stalls.wait(60)
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode == 128 + signal.SIGINT
        assert "stopped by SIGINT; go on with: the same command" in err.splitlines()[-1]
        assert hub.repositories["user/name"].num_commits == 1
        hub.stalls = None
        subprocess.run(command, cwd=tmp_path, env=own, check=True, capture_output=True)
        assert hub.repositories["user/name"].files.items() >= contents(noise_bundle).items()
