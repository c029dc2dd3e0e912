"""The names of the files in a run's folder."""

CONFIG = "config.yaml"
PROBE = "probe.yaml"  # a linear probe's own fields; no other run has them
HELD_OUT = "held_out.json"
FIRST_PROBE = "first_probe.json"  # what the frozen network reaches; see `transfer.commands.finetune_probe`
METRICS = "metrics.csv"
RATE_CURVE, RATE_PICTURE = "lr_find.csv", "lr_find.png"  # the sweep over learning rates that a run began with
BEST, LAST = "best.ckpt", "last.ckpt"
RESULTS = "results.json"
CALIBRATION = "calibration.safetensors"  # what val says about the answers; see `transfer.calibration`
PREDICTIONS, VAL_PREDICTIONS = "test_predictions.npz", "val_predictions.npz"
REPORT, REPORT_PHOTOS = "report.html", "report_photos.safetensors"  # see `transfer.report`
LENGTHENED = "lengthened.json"  # from which lengths the run was lengthened; no other run has it
LOCK = "run.lock"  # held while the run computes
TRACKING = "tracking.json"  # which run of W&B or MLflow this is; see `transfer.tracking`
WANDB, TENSORBOARD = "wandb", "tensorboard"  # folders of theirs
# All that a run leaves which took no step.
NOTHING_LEARNED = frozenset((CONFIG, HELD_OUT, RATE_CURVE, RATE_PICTURE, TRACKING, WANDB, TENSORBOARD, REPORT))
