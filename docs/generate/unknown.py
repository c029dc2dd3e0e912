"""How well calibrated networks are, and how well they recognise strangers: `benchmarks/calibration_cpu.json`."""

from __future__ import annotations

from docs.generate.measurement import load, percent

DATA = {"clothing": "clothing", "cifar10_jpeg": "CIFAR-10 (JPEG)"}
STRANGERS = {
    "cifar10": "CIFAR-10",
    "hat and shoes": "hats and shoes, to a probe of the other eight classes",
    "pants and skirt": "pants and skirts, likewise",
}
# What an image is ranked by; the last three were tried and left.
SCORES = {
    "probability": "probability",
    "distance": "distance",
    "combined": "both, as in `--abstain`",
    "distance_to_2000_of_train": "distance to train",
    "mahalanobis_of_val": "Mahalanobis, val",
    "mahalanobis_of_train": "Mahalanobis, train",
}


def calibration() -> str:
    """Return a table of calibration errors, sets and coverages on val."""
    found = [load("calibration_cpu")[name] for name in DATA]
    halves = [part["halves"] for part in found]
    rows = {
        "expected calibration error on val, without and with the temperature, cross-fitted": [
            f"{percent(part['ece_before'])}, {percent(part['ece_after'])}" for part in found
        ],
        "sets of 0.9 and 0.95 that hold the class (mean size), on the other half of val": [
            ", ".join(f"{percent(half[f'sets_{s}_hold'])} ({half[f'sets_{s}_size']:.1f})" for s in ("0.9", "0.95"))
            for half in halves
        ],
        "answered with `--coverage` 0.9 and 0.95": [
            ", ".join(percent(half[f"coverage_{share}_answered"]) for share in ("0.9", "0.95")) for half in halves
        ],
        "wrong answers among all, and among those with `--coverage` 0.9": [
            f"{percent(1 - part['top1'])}, {percent(part['halves']['coverage_0.9_wrong'])}" for part in found
        ],
    }
    head = ["| | " + " | ".join(DATA.values()) + " |", "| --- | --- | --- |"]
    return "\n".join(head + [f"| {what} | {' | '.join(cells)} |" for what, cells in rows.items()])


def strangers() -> str:
    """Return a table of how well images of other kinds are told from known ones."""
    head = [
        f"| Strangers to a clothing network | {' | '.join(SCORES.values())} |",
        "| --- |" + " --- |" * len(SCORES),
    ]
    found = load("calibration_cpu")["strangers"]
    rows = []
    for name, title in STRANGERS.items():
        scores = [found[name][score] for score in SCORES]
        cells = [f"{score['auroc']:.3f} ({percent(score['fpr_at_95_tpr'], 0)})" for score in scores]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(head + rows)
