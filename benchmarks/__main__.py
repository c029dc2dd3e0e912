"""Speed and memory as ratios within one run: python -m benchmarks WHAT

module  a training epoch through Lightning and TransferModule against a bare PyTorch loop with the same step
train   training images per second for each memory layout and precision
peer    training images per second, and GPU memory, against timm's implementation of the same network
memory  peak memory and seconds of a training step without and with gradient checkpointing
scaling coefficients of the compound rule against the released ones, and counts of the paper's Tables 3 and 7

Each of these has its own --help:

data    training-ready images per second on one core, without and with a cache, against a torchvision-style pipeline
decode  processor time of an image before the network sees it: decoding, transform, loading by threads and processes
inference  images per second of every installed engine, of the plain network and of timm
photos  predict and evaluate on photos as whole commands, against a plain loop; accuracy of each engine
allocator  processor time, page faults and peak memory with freed memory kept and with glibc's defaults
cores   training speed on cores shared with other processes, with our and with OpenMP's default way of waiting
calibration  calibration error, sets, rejection and strangers on images that nothing was fitted to
recipe  accuracy of --recipe auto against the defaults
progressive  accuracy of growing training images at equal processor time
distillation  accuracy, size and latency of a student without and with a teacher
probe   seconds of a linear probe's fits on cached features, against scikit-learn's lbfgs
probe_photos  wall and processor seconds of a whole linear probe of photos, by part
penalties      where few images choose the penalty of a linear probe: on val or by cross-validation in train
logit_adjustment  what logit adjustment brings a linear probe, also against class weights
stages         what pooled maps of earlier stages bring a linear probe
probe_choices  what a linear probe loses by cheaper features, and gains by views of its images
tracing  seconds of tracing, exporting and compiling, and differences at other image sizes
gpu     training, inference and feature extraction on a GPU against timm, eager and compiled, with the bandwidth floor
traffic operators and bytes of a training step, against timm's implementation of the same network; needs no GPU
memory_prediction  predicted memory of training steps and of inference against the measured
precision  speed of training on a CPU in float32, in bf16 autocast and with contiguous weights
frozen_norms  memory and time of training with frozen BatchNorm, folded into the convolutions against not
cpu_training  images per second of a training step on a CPU, against timm in its fastest setting
ddp     predicted seconds of a training step of 2 and 4 processes against the measured
small_data  accuracy of ways to learn from few photos: defaults, probe, LP-FT, timm's recipe, fastai's fine_tune
lpft_settings  what other rates, weight decays and warm-ups bring LP-FT, and their choice on val
learning_curve  errors of extrapolated learning curves, and how many of their intervals cover what more photos bring
label_noise  precision and recall of suspect labels, of which a share was changed
class_maps  whether class maps find a photo that was pasted into noise: CAM of few cells against HiResCAM
ledger  a finished table without its runs, as benchmarks/ledger holds them
seed_intervals  how often intervals of two settings' difference cover the truth, for few seeds
formats  the formats of a bundle on photos: time and answers of each, the graph's preprocessing, the reader's start
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from transfer.commands.console import exit_status
from transfer.commands.process import keep_freed_memory, share_cores
from transfer.files import expanded

# Subjects that share their options, and the module of each; imported when asked for, as they import torch.
SUBJECTS = {"module": "module", "train": "networks", "peer": "networks", "memory": "memory", "scaling": "scaling"}
# Subjects with options of their own, each in the module of its name.
OWN_COMMAND_LINE = (
    "data",
    "decode",
    "inference",
    "photos",
    "allocator",
    "cores",
    "calibration",
    "recipe",
    "progressive",
    "distillation",
    "probe",
    "probe_photos",
    "penalties",
    "logit_adjustment",
    "stages",
    "probe_choices",
    "memory_prediction",
    "precision",
    "tracing",
    "frozen_norms",
    "cpu_training",
    "ddp",
    "traffic",
    "small_data",
    "lpft_settings",
    "learning_curve",
    "label_noise",
    "class_maps",
    "formats",
    "ledger",
    "seed_intervals",
    "gpu",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    share_cores()
    keep_freed_memory()
    if argv and argv[0] in OWN_COMMAND_LINE:
        return run_own(argv[0], argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=(*SUBJECTS, *OWN_COMMAND_LINE))
    parser.add_argument("--backbone", help="default: lite0")
    parser.add_argument("--image_size", type=int, help="pixels; default: 64")
    parser.add_argument("--batch_size", type=int, help="images per step; default: 64")
    parser.add_argument("--steps", type=int, help="timed steps per round; default: 20, for memory 1")
    parser.add_argument("--rounds", type=int, help="alternating rounds; default: 5, for memory 2")
    parser.add_argument(
        "--compile", action="store_true", default=None, help="peer: compare both with torch.compile, too"
    )
    parser.add_argument("--json", type=expanded, metavar="FILE", help="also write the figures to this file")
    arguments = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    subject, path = arguments.pop("what"), arguments.pop("json", None)
    if subject in OWN_COMMAND_LINE:
        parser.error(f"{subject}: put its options after it; python -m benchmarks {subject} --help lists them")
    if "compile" in arguments and subject != "peer":
        parser.error("--compile: only peer compares compiled networks")
    if subject == "scaling":
        if arguments:
            parser.error(f"--{min(arguments)}: scaling has no options")
    else:
        arguments = {"backbone": "lite0", "image_size": 64, "batch_size": 64, **arguments}
    return exit_status(lambda: report(measure(SUBJECTS[subject], subject, arguments), path))


def measure(module: str, subject: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a subject, which is a function of a module of this folder."""
    benchmark: Callable[..., dict[str, Any]] = getattr(import_module(f"benchmarks.{module}"), f"benchmark_{subject}")
    return benchmark(**arguments)


def run_own(subject: str, argv: Sequence[str]) -> int:
    """Run the command line of a subject that has its own, and return the exit status."""
    module = import_module(f"benchmarks.{subject}")
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {subject}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_options(parser)
    parser.add_argument("--json", type=expanded, metavar="FILE", help="also write the figures to this file")
    arguments = vars(parser.parse_args(argv))
    path = arguments.pop("json")
    return exit_status(lambda: report(measure(subject, subject, arguments), path))


def report(figures: dict[str, Any], path: Path | None) -> None:
    """Print the figures with the hardware, and write them to `path` unless it is None."""
    from transfer.environment import environment, write_figures

    plain = json.loads(json.dumps({**figures, "hardware": environment()["hardware"]}))
    try:
        print(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True), end="")
    finally:  # though nobody reads them any more, as behind `head`
        write_figures(path, figures)


if __name__ == "__main__":
    sys.exit(main())
