"""Stands for finetune in the tests of a study: the same files in milliseconds.

The accuracy of networks named by phi grows with alpha, beta, the seed and the steps; that of others is a number made of
the backbone's and the run's names. STUB: `fail RUN`, `diverge RUN`, or `kill RUN`, which kills all processes of the
session; every start is a line of STUB_CALLS: the run, its group, CPU threads.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import zlib
from pathlib import Path

import yaml

words = [word for word in sys.argv[1:] if word != "--allow_user_code"]
arguments = dict(zip(words[::2], words[1::2], strict=True))
run_dir = Path(arguments["--out_dir"])
config = yaml.safe_load(Path(arguments["--config"]).read_text(encoding="utf-8"))
with open(os.environ["STUB_CALLS"], "a", encoding="utf-8") as calls:
    calls.write(f"{run_dir.name} {os.environ['TRANSFER_RUN_GROUP']} {os.environ['OMP_NUM_THREADS']}\n")
what, _, where = os.environ.get("STUB", "").partition(" ")
if where == run_dir.name:
    if what == "kill":
        os.killpg(0, signal.SIGKILL)
    if what == "diverge":
        print("error: training loss is nan in epoch 1", file=sys.stderr)
        sys.exit(3)
    sys.exit("error: no memory")
run_dir.mkdir()
if "phi=" in config["backbone"]:
    numbers = dict(re.findall(r"(alpha|beta)=([0-9.]+)", config["backbone"]))
    accuracy = float(numbers.get("alpha", 1.2)) / 10 + float(numbers.get("beta", 1.1)) / 100
    accuracy += config["seed"] / 1000 + config["trainer"]["max_steps"] / 10**4
else:
    network, run = (zlib.crc32(name.encode()) for name in (config["backbone"], run_dir.name))
    accuracy = 0.5 + network % 1000 / 5000 + run % 100 / 5000
(run_dir / "metrics.csv").write_text(f"step,val/top1,val/loss\n1,{accuracy},2.0\n")
results = {
    **{"command": sys.argv, "dataset": config["dataset"], "backbone": config["backbone"], "metrics": {}},
    **{"quoted_metric": "top1", "train_seconds": 1.0, "versions": {"torch": "2"}, "git_commit": None},
    "hardware": {"gpus": [], "cores": 2, "cpu": "a CPU"},
}
(run_dir / "results.json").write_text(json.dumps(results))
