"""The names of the files in a run's folder."""

CONFIG = "config.yaml"
HELD_OUT = "held_out.json"
METRICS = "metrics.csv"
BEST, LAST = "best.ckpt", "last.ckpt"
RESULTS = "results.json"
LOCK = "run.lock"  # held while the run computes
