"""Several machines: what starts their processes, and the folder that they share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from tests.support.ranks import run_ranks
from transfer.config.schema import FinetuneConfig, TrainerConfig
from transfer.errors import BadValue, MissingData
from transfer.probe.fabric import build_fabric
from transfer.training import machines
from transfer.training.callbacks import SharedFolder
from transfer.training.module import TransferModule
from transfer.training.trainer import prepare_process
from transfer.weights.build import build_classifier

LAUNCHERS = ("SLURM_NTASKS", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "NODE_RANK")


def test_several_machines_need_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    trainer = TrainerConfig(accelerator="cpu", devices=1, num_nodes=3)
    for start in (
        lambda: prepare_process(FinetuneConfig(trainer=trainer)),
        lambda: build_fabric(trainer),
    ):
        with pytest.raises(BadValue, match=r"`trainer.num_nodes`=3: no launcher .* srun or torchrun, .*MASTER_ADDR"):
            start()
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    assert prepare_process(FinetuneConfig(trainer=trainer)) == 3


def test_restarts_that_would_hang_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = FinetuneConfig(trainer=TrainerConfig(accelerator="cpu", devices=1))
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    prepare_process(config)  # alone, it waits for nobody
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadValue, match=r"--max_restarts 2: .* set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 .*c10d"):
        prepare_process(config)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    prepare_process(config)


def train(folder: Path) -> str:
    """What a run's process is told whose folder is this one."""
    folder.mkdir(exist_ok=True)
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", callbacks=[SharedFolder(folder)], logger=False, max_epochs=0,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    module = TransferModule(build_classifier("b0@d=0.3,w=0.25", 3, pretrained=False))
    try:
        trainer.fit(module, DataLoader([(torch.zeros(3, 32, 32), 0)] * 4))
    except MissingData as error:
        return str(error)
    return ""


def train_twice(parent: Path) -> None:
    machines._SECONDS = 0.2
    rank = os.environ["RANK"]
    folders = [parent / "shared", parent / rank]
    told = [train(folder) for folder in folders]
    left = [path.name for folder in folders for path in folder.iterdir()]
    (parent / f"{rank}.json").write_text(json.dumps([told, left]))


@pytest.mark.slow
def test_processes_without_a_shared_folder_stop_at_once_and_all_say_so(tmp_path: Path) -> None:
    run_ranks(train_twice, tmp_path)
    for rank in ("0", "1"):
        told, left = json.loads((tmp_path / f"{rank}.json").read_text())
        assert told[0] == "" and left == []
        assert told[1].startswith(f"`out_dir`={tmp_path / rank}: process 1 of 2 does not see") and "share" in told[1]
