"""A run's folder: its number, its agreement between processes, and that nobody else gets it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import ROOT, environment
from transfer.config.choices import settled_fields
from transfer.config.command_line import save_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import UserError
from transfer.runs import folder
from transfer.runs.folder import (
    RUN_DIR_VARIABLE,
    RunFolder,
    check_run_dir,
    find_interrupted,
    is_main_process,
    open_run,
)
from transfer.runs.names import numbered_runs

FOREIGN = (RUN_DIR_VARIABLE, "SLURM_JOB_ID", "SLURM_PROCID", "TORCHELASTIC_RUN_ID", "WORLD_SIZE", "RANK", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that nobody else started, in an empty folder."""
    for name in (*FOREIGN, "NODE_RANK"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


CONFIG = FinetuneConfig(dataset="flowers", backbone="b7", recipe="none", method="full")


def path_of(config: FinetuneConfig) -> Path:
    with open_run(config, None) as run:
        return run.path


def test_the_first_run_is_number_one_and_its_folder_is_claimed(tmp_path: Path) -> None:
    assert path_of(CONFIG) == Path("runs/flowers_b7/1")
    assert (tmp_path / "runs" / "flowers_b7" / "1").is_dir()
    assert os.environ[RUN_DIR_VARIABLE] == str(tmp_path / "runs" / "flowers_b7" / "1")


def test_the_next_number_is_above_the_highest_and_others_do_not_count(tmp_path: Path) -> None:
    for name in ("flowers_b7/2", "flowers_b7/10", "flowers_b7/11-old", "flowers_b7/best", "pets_b7/40"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert path_of(CONFIG) == Path("runs/flowers_b7/11")
    assert path_of(FinetuneConfig(dataset="pets", backbone="b7")) == Path("runs/pets_b7/41")


@pytest.mark.parametrize(
    ("data_root", "name"),
    [
        ("my photos (2024)/", "my_photos_2024_b7"),
        ("./blumen-größe", "blumen-größe_b7"),
        ("photos/..", "here_b7"),
        ("labels.v2.csv", "labels.v2_b7"),
        ("((", "folder_b7"),
    ],
)
def test_runs_of_ones_own_images_are_named_after_their_folder_or_table(
    data_root: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "photos").mkdir(parents=True)
    (tmp_path / "here" / "labels.v2.csv").touch()
    monkeypatch.chdir(tmp_path / "here")
    config = FinetuneConfig(dataset="folder", data_root=data_root, backbone="b7")
    assert path_of(config) == Path("runs", name, "1")
    assert numbered_runs(config, "_probe") == Path("runs", f"{name}_probe")


def test_a_run_that_fails_before_its_first_file_leaves_no_folder() -> None:
    for config in (CONFIG, replace(CONFIG, out_dir="own")):
        with pytest.raises(KeyError), open_run(config, None) as run:
            raise KeyError
        assert not run.path.exists()
        with pytest.raises(KeyError), open_run(config, None) as run:
            run.begin(config, {})
            raise KeyError
        assert [path.name for path in run.path.iterdir()] == ["config.yaml"]
        # What trackers leave which have followed no step does not make it another run's folder.
        (run.path / "tracking.json").write_text("{}")
        (run.path / "wandb").mkdir()
        check_run_dir(replace(CONFIG, out_dir=str(run.path)), None)
    Path("mine").mkdir()
    with pytest.raises(KeyError), open_run(replace(CONFIG, out_dir="mine"), None):
        raise KeyError
    assert Path("mine").is_dir()


def test_the_runs_of_a_sweep_have_its_agents_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "83412")
    monkeypatch.setenv("WANDB_RUN_ID", "x1y2")
    assert path_of(CONFIG) == Path("runs/flowers_b7/83412")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s3")
    assert path_of(CONFIG) == Path("runs/flowers_b7/x1y2")


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"])
def test_processes_of_a_scheduler_agree_on_its_job_id(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "83412")
    for rank in ("1", "0"):  # in any order
        monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert path_of(CONFIG) == Path("runs/flowers_b7/83412")
        assert Path("runs/flowers_b7/83412").is_dir()


def test_processes_that_cannot_agree_must_be_given_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # what torchrun says when it was given no --rdzv_id
    with pytest.raises(UserError, match="started manually cannot agree on a run's number: pass `out_dir`"):
        path_of(CONFIG)
    assert path_of(FinetuneConfig(out_dir="mine")) == Path("mine")


def test_a_child_process_inherits_its_parents_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = path_of(CONFIG)
    (chosen / "config.yaml").write_text("")
    (chosen / "metrics.csv").write_text("")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.chdir("/")  # a child may start elsewhere
    assert path_of(CONFIG) == tmp_path / chosen
    assert path_of(FinetuneConfig(out_dir=str(tmp_path / "other"))) == tmp_path / chosen


def test_a_later_run_in_the_same_process_does_not_inherit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_DIR_VARIABLE, "/somewhere/else")
    assert path_of(CONFIG) == Path("runs/flowers_b7/1")


def test_a_folder_of_its_own_may_be_missing_empty_or_never_begun(tmp_path: Path) -> None:
    config = FinetuneConfig(out_dir=str(tmp_path / "own"))
    check_run_dir(config, None)
    (tmp_path / "own").mkdir()
    check_run_dir(config, None)
    assert path_of(config) == tmp_path / "own"
    (tmp_path / "own" / "config.yaml").write_text("seed: 1\n")
    check_run_dir(config, None)
    assert path_of(config) == tmp_path / "own"


@pytest.mark.parametrize("name", ["last.ckpt", "notes.txt", ".hidden"])
def test_a_folder_with_anything_else_in_it_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / name).write_text("mine")
    with pytest.raises(UserError, match=f"own is not empty; .* continue that run: `resume`={tmp_path}/own"):
        check_run_dir(FinetuneConfig(out_dir=str(tmp_path / "own")), None)
    assert (tmp_path / "own" / name).read_text() == "mine"
    assert RUN_DIR_VARIABLE not in os.environ


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("mine")
    with pytest.raises(UserError, match="own is not empty"):
        check_run_dir(FinetuneConfig(out_dir=str(tmp_path / "own")), None)


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"])
def test_the_main_process_has_rank_zero_everywhere(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_main_process()
    monkeypatch.setenv(variable, "0")
    assert is_main_process()
    monkeypatch.setenv(variable, "1")
    assert not is_main_process()


def test_disk_space_counts_48_bytes_a_parameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 48 * 10_000_000
    asked: list[Any] = []

    def disk_usage(path: Path) -> Any:
        asked.append(path)
        return shutil._ntuple_diskusage(2 * free, free, free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    RunFolder(tmp_path).check_space(10_000_000)
    message = f"{tmp_path}: 458 MiB free, about 458 MiB are needed for checkpoints: free some space"
    with pytest.raises(UserError, match=message):
        RunFolder(tmp_path).check_space(10_000_001)
    assert asked == [tmp_path, tmp_path]


CLAIM = """
import sys
from transfer.config.command_line import save_config
from transfer.config.schema import FinetuneConfig
from transfer.runs.folder import open_run
sys.stdin.readline()
for _ in range(20):
    with open_run(FinetuneConfig(dataset="flowers", backbone="b7"), None) as run:
        print(run.path.name)
"""


def test_runs_that_start_together_never_share_a_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CLAIM]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), **pipes) for _ in "ab"]
    numbers = [number for process in processes for number in process.communicate("go\n")[0].split()]
    assert sorted(map(int, numbers)) == list(range(1, 41))


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    save_config(CONFIG, tmp_path / "config.yaml")
    with pytest.raises(UserError, match=r"is a finished run \(it has results.json\)"):
        check_run_dir(CONFIG, tmp_path)
    check_run_dir(replace(CONFIG, trainer=replace(CONFIG.trainer, max_epochs=1000)), tmp_path)


HOLD = """
import sys
from pathlib import Path
from transfer.config.schema import FinetuneConfig
from transfer.runs.folder import open_run
resume = Path(sys.argv[2]) if len(sys.argv) > 2 else None
with open_run(FinetuneConfig(out_dir=sys.argv[1] or None), resume) as run:
    print("holds", flush=True)
    sys.stdin.readline()
"""


def holder(*argv: str, **variables: str) -> subprocess.Popen[str]:
    """A process that has a run's folder until it reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, *argv],
        env=environment(PYTHONPATH=str(ROOT), **variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "holds\n"
    return process


def test_a_second_process_cannot_use_the_folder_until_the_first_has_ended(tmp_path: Path) -> None:
    own = tmp_path / "own"
    first = holder(str(own))
    with pytest.raises(UserError, match=f"{own}: another process is using this folder: .*`out_dir`"):
        path_of(FinetuneConfig(out_dir=str(own)))
    first.communicate("go on\n")
    assert first.returncode == 0 and list(own.iterdir()) == []
    assert path_of(FinetuneConfig(out_dir=str(own))) == own


def test_a_killed_process_leaves_its_folder_to_the_next(tmp_path: Path) -> None:
    own = tmp_path / "own"
    with holder(str(own)) as first:
        first.send_signal(signal.SIGKILL)
    assert [path.name for path in own.iterdir()] == ["run.lock"]
    check_run_dir(FinetuneConfig(out_dir=str(own)), None)
    assert path_of(FinetuneConfig(out_dir=str(own))) == own
    assert list(own.iterdir()) == []


def test_a_run_is_resumed_by_one_process(tmp_path: Path) -> None:
    first = holder("", str(tmp_path))
    with pytest.raises(UserError, match="another process is using this folder"), open_run(CONFIG, tmp_path):
        pass
    first.communicate("go on\n")
    with open_run(CONFIG, tmp_path) as run:
        assert run == RunFolder(tmp_path, resumes=True)


def test_what_came_into_the_folder_after_the_check_is_seen_when_it_is_opened(tmp_path: Path) -> None:
    config = FinetuneConfig(out_dir=str(tmp_path / "own"))
    check_run_dir(config, None)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "metrics.csv").write_text("theirs")
    with pytest.raises(UserError, match="own is not empty"):
        path_of(config)
    (tmp_path / "own" / "results.json").write_text("{}")
    with pytest.raises(UserError, match="own is a finished run"), open_run(config, tmp_path / "own"):
        pass


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a job's run that was stopped after its first validation."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with open_run(CONFIG, None) as run:
        run.begin(CONFIG, {})
        run.last.write_text("checkpoint")
    return run.path


def test_two_steps_of_a_job_do_not_share_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    first = holder("", SLURM_JOB_ID="77")
    with pytest.raises(UserError, match="77: another process is using this folder"):
        path_of(FinetuneConfig())
    first.communicate("go on\n")


def test_a_second_run_in_a_job_does_not_take_the_first_ones_results(job: Path) -> None:
    (job / "results.json").write_text("{}")
    with pytest.raises(UserError, match=r"flowers_b7/77 is a finished run, .*: set `out_dir` for another run"):
        check_run_dir(replace(CONFIG, seed=1), None)
    with pytest.raises(UserError, match="is a finished run"):
        path_of(replace(CONFIG, seed=1))
    check_run_dir(replace(CONFIG, out_dir="mine"), None)
    assert find_interrupted(replace(CONFIG, out_dir="mine")) is None


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_job_that_is_started_again_goes_on_with_its_run(
    rank: str, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rank == "1":
        monkeypatch.delenv(RUN_DIR_VARIABLE)
    monkeypatch.setenv("SLURM_PROCID", rank)
    check_run_dir(CONFIG, None)
    assert find_interrupted(CONFIG) == job


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"])
def test_what_is_started_again_goes_on_in_its_own_folder(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, out_dir="mine")
    path = path_of(config)
    save_config(config, path / "config.yaml")
    (path / "last.ckpt").touch()
    with pytest.raises(UserError, match="mine is not empty"):
        check_run_dir(config, None)
    assert find_interrupted(config) is None

    monkeypatch.setenv(variable, "none" if variable == "TORCHELASTIC_RUN_ID" else "77")
    check_run_dir(config, None, settled=settled_fields(config, frozenset()))
    assert find_interrupted(config) == path and path_of(config) == path
    changed = replace(config, seed=1)
    for refused in (
        lambda: check_run_dir(changed, None, settled=settled_fields(changed, frozenset())),
        lambda: find_interrupted(changed),
    ):
        with pytest.raises(UserError, match=r"mine is not empty; .* `resume`=mine") as error:
            refused()
        assert str(error.value).splitlines()[1:] == ["  `seed`=0, here 1"]
    (path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="mine is not empty"):
        check_run_dir(config, None)


def test_another_run_in_a_job_with_an_unfinished_one_is_refused(job: Path) -> None:
    changed = replace(CONFIG, seed=1, optim=replace(CONFIG.optim, lr=0.5))
    with pytest.raises(UserError, match=r"77 holds an unfinished run, .*: set `out_dir`") as error:
        find_interrupted(changed)
    assert str(error.value).splitlines()[1:] == ["  `seed`=0, here 1", "  `optim.lr`=0.02, here 0.5"]
    (job / "last.ckpt").rename(job / "best.ckpt")
    assert find_interrupted(changed) is None
    with pytest.raises(UserError, match="77 holds an unfinished run"):
        path_of(changed)


def test_another_run_in_a_job_is_refused_before_its_data_are_loaded(job: Path) -> None:
    changed = replace(CONFIG, seed=1, data=replace(CONFIG.data, batch_size=7))
    with pytest.raises(UserError, match="77 holds an unfinished run") as error:
        check_run_dir(changed, None, settled=settled_fields(changed, frozenset()))
    assert str(error.value).splitlines()[1:] == ["  `seed`=0, here 1"]  # the batch is not yet divided
    by_rule = replace(changed, recipe="auto")
    check_run_dir(by_rule, None, settled=settled_fields(by_rule, frozenset({"data.batch_size"})))
    with pytest.raises(UserError, match="`seed`=0, here 1"):
        check_run_dir(by_rule, None, settled=settled_fields(by_rule, frozenset({"seed"})))


def test_a_job_that_was_stopped_before_its_first_checkpoint_starts_over(job: Path) -> None:
    (job / "last.ckpt").rename(job / "metrics.csv")
    assert find_interrupted(CONFIG) is None and path_of(CONFIG) == job
    (job / "metrics.csv").unlink()  # never begun: any run may have it
    assert path_of(replace(CONFIG, seed=1)) == job


def test_a_run_without_a_job_goes_on_with_none(tmp_path: Path) -> None:
    path = path_of(CONFIG)
    save_config(CONFIG, path / "config.yaml")
    (path / "last.ckpt").write_text("")
    assert find_interrupted(CONFIG) is None


def test_a_probe_has_a_folder_of_its_own_in_a_job(job: Path) -> None:
    (job / "results.json").write_text("{}")
    check_run_dir(CONFIG, None, "_probe")
    with open_run(CONFIG, None, "_probe") as run:
        assert run.path == Path("runs/flowers_b7_probe/77")
    (run.path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="flowers_b7_probe/77 is a finished run"):
        check_run_dir(CONFIG, None, "_probe")


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("last.ckpt.123.tmp", "metrics.csv.7.tmp", "config.yaml"):
        (run / name).write_text("half")
    config = replace(CONFIG, out_dir=str(run))
    check_run_dir(config, None)
    with open_run(config, None) as opened:
        assert {path.name for path in opened.path.iterdir()} == {"config.yaml", "run.lock"}
    (run / "last.ckpt.123.tmp").touch()
    (run / "notes.tmp").touch()
    with open_run(config, run) as opened:
        assert {path.name for path in opened.path.iterdir()} == {"config.yaml", "run.lock", "notes.tmp"}


def test_a_folder_holds_a_run_only_once_all_its_first_files_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        RunFolder(tmp_path).begin(CONFIG, {"val": {"of": "train", "images": []}})
    assert not (tmp_path / "config.yaml").exists()


def test_a_probe_is_not_resumed_and_its_folder_does_not_advise_it(tmp_path: Path) -> None:
    (tmp_path / "probe.yaml").write_text("beside: null\n", encoding="utf-8")
    (tmp_path / "test_reads.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="a linear probe, which is not resumed"):
        check_run_dir(FinetuneConfig(), tmp_path)
    with pytest.raises(UserError, match=r"choose a new folder$"):
        check_run_dir(FinetuneConfig(out_dir=str(tmp_path)), None)
