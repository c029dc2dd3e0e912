"""Stands for finetune in the tests of a table: the same files in milliseconds, and ends as STUB says.

The accuracy falls with the distance of the learning rate from 0.01. STUB: `fail LR`, `diverge LR`, `die LR` (SIGKILL
once it has a checkpoint), `wait LR` (until SIGTERM), each at that learning rate; every start is a line of STUB_CALLS.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import yaml

words = [word for word in sys.argv[1:] if word != "--allow_user_code"]
arguments = dict(zip(words[::2], words[1::2], strict=True))
resumed = "--resume" in arguments
run_dir = Path(arguments["--resume" if resumed else "--out_dir"])
if not resumed:
    assert not run_dir.exists()
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(Path(arguments["--config"]).read_text(encoding="utf-8"))
with open(os.environ["STUB_CALLS"], "a", encoding="utf-8") as calls:
    calls.write(f"{'resume' if resumed else 'start'} {run_dir.parent.name}/{run_dir.name}\n")
config = yaml.safe_load((run_dir / "config.yaml").read_text())
lr, steps = config["optim"]["lr"], config["trainer"]["max_steps"]
what, _, where = os.environ.get("STUB", "").partition(" ")
here = bool(where) and float(where) == lr
if here and what == "diverge":
    print("error: training loss is nan in epoch 1: the run has diverged", file=sys.stderr)
    sys.exit(3)
if here and what == "fail":
    print("error: the learning rate is wrong", file=sys.stderr)
    sys.exit(2)
(run_dir / "last.ckpt").write_text("state")
if here and what == "die" and not resumed:
    os.kill(os.getpid(), signal.SIGKILL)
if here and what == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("waiting", flush=True)
    time.sleep(60)
(run_dir / "best.ckpt").write_text("state")
accuracy = 1 - abs(math.log10(lr) + 2) / 10
final = config.get("data", {}).get("train_on") == "trainval"
top1 = {"top1": accuracy}
rows = f"step\n{steps}\n" if final else f"step,val/top1\n1,0.99\n{steps},{accuracy}\n"
(run_dir / "metrics.csv").write_text(rows)
results = {
    **{"command": sys.argv, "dataset": config["dataset"], "backbone": config["backbone"]},
    "metrics": {"test": top1} if final else {"val": {"top1": 0.99}},
    **{"quoted_metric": "top1", "decay": {}, "weights": None, "train_seconds": 1.5, "world_size": 2},
    **{"hardware": {"gpus": ["a GPU"]}, "versions": {}, "git_commit": None, "test_reads": int(final)},
    "copy": "a JPEG copy",
}
(run_dir / "results.json").write_text(json.dumps(results))
