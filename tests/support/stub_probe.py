"""Stands for probe in the tests of a table: its results in milliseconds; every start is a line of STUB_CALLS."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import yaml

arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
run_dir, config = Path(arguments["--out_dir"]), yaml.safe_load(Path(arguments["--config"]).read_text(encoding="utf-8"))
assert not run_dir.exists()
run_dir.mkdir(parents=True)
with open(os.environ["STUB_CALLS"], "a", encoding="utf-8") as calls:
    calls.write(f"probe {run_dir.parent.name}/{run_dir.name}\n")
if os.environ.get("STUB") == "fail":
    print("error: no weights", file=sys.stderr)
    sys.exit(2)
results = {
    **{"command": sys.argv, "protocol": "linear probe", "dataset": config["dataset"], "backbone": config["backbone"]},
    **{"metrics": {"val": {"top1": 0.8}, "test": {"top1": 0.75}}, "quoted_metric": "top1", "test_reads": 1},
    **{"penalty": 0.1, "val_metrics": [], "extract_seconds": 2.0, "fit_seconds": 0.5, "passes": 9, "world_size": 2},
    **{"hardware": {"gpus": ["a GPU"]}, "versions": {}, "git_commit": None, "image_size": 64, "weights": None},
}
(run_dir / "results.json").write_text(json.dumps(results))
