"""Convert a checkpoint or a run for another code base: efficientnet-transfer convert RUN_DIR mine.safetensors --to timm

Prints the lines that load the file there with the same outputs, and how to prepare its images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from transfer.commands.console import add_allow_user_code, exit_status, find_flags, name_flags
from transfer.commands.next_steps import say_next
from transfer.config.screens import add_help
from transfer.files import expanded


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer convert`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer convert",
        description="Convert a checkpoint or a run of finetune for another code base.",
    )
    parser.add_argument("source", metavar="SOURCE", type=expanded, help="checkpoint file, or folder of a run")
    parser.add_argument("dest", metavar="DEST", type=expanded, help="the .safetensors file to write")
    parser.add_argument("--to", required=True, choices=("own", "timm", "torchvision", "lukemelas", "transformers"))
    parser.add_argument(
        "--family", metavar="NAME", help="what a file that nobody knows was trained like; leave it out to see the names"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DEST")
    parser.add_argument(
        "--allow_other_padding",
        action="store_true",
        help="convert even if the code base cannot pad as the network was trained, which changes its outputs",
    )
    add_allow_user_code(parser)
    add_help(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: convert(**vars(arguments)), build_parser)


def convert(
    source: Path,
    dest: Path,
    to: str,
    family: str | None = None,
    overwrite: bool = False,
    allow_other_padding: bool = False,
    allow_user_code: bool = False,
) -> None:
    """Write `dest` and print how to use it.

    Args:
        source: a checkpoint, or a run's folder.
        dest: the .safetensors file to write.
        to: the code base: own, timm, torchvision, lukemelas or transformers.
        family: what an unknown file was trained like: a family or a row.
        overwrite: whether to replace `dest`.
        allow_other_padding: whether to convert although the code base pads otherwise, which changes the outputs.
        allow_user_code: whether to import a head of one's own that a run names.

    Raises:
        MissingData: there is no such source.
        DamagedFile: the source is not a network.
        BadValue: `family` is needed, the code base cannot build the network, or `dest` must not be written.
    """
    from transfer.commands.convert.source import read_network
    from transfer.weights import code_bases
    from transfer.weights.portable import check_destination, describe_preprocessing, save_tensors

    check_destination(dest, overwrite)
    network = read_network(source, family, allow_user_code)
    tensors = code_bases.convert(network, to, allow_other_padding)
    save_tensors(tensors, network.metadata(), dest)

    settings = network.like.settings
    print(
        f"{dest}: {network.variant.name} trained like {network.like.name} (padding {settings.padding!r}, BatchNorm"
        f" epsilon {settings.bn_eps}), {network.num_classes or 'no'} classes, {len(tensors)} tensors"
    )
    other = code_bases.other_padding(network, to)
    if other is not None:
        print(f"WARNING: {name_flags(code_bases.describe_other_padding(network, to, other), find_flags(build_parser))}")
    print("\nLoad it:\n")
    for line in code_bases.loading_lines(network, to, dest):
        print(f"    {line}")
    size = network.preprocessing.image_size
    if code_bases.agrees_at_one_size(network, to):
        print(f"\nThe outputs are the same at {size} px; at other sizes this code base may pad otherwise.")
    assumed = " (assumed: what its family does)" if network.assumes_preprocessing else ""
    print(f"\nPrepare images{assumed}: {describe_preprocessing(network.preprocessing, network.in_channels)}")
    if network.multilabel:
        print("Several labels per image: probabilities are the sigmoid of each logit.")
    if network.class_names is not None:
        print("The classes' names are in the file's header (class_names, JSON), in the order of the logits.")
    if to == "own" and network.in_channels == 3:
        names = ["--backbone", network.variant.name, "--pretrained", network.like.name]
        say_next("converted", [*names, "--weights", dest])
