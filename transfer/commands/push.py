"""Push a bundle to the Hugging Face Hub: efficientnet-transfer push mymodel/ user/name

Says what leaves, uploads it in one commit, and compares the Hub's digests with the bundle's. The token is that of
`hf auth login` or `HF_TOKEN`. Photos of val go to a private repository (--private), or to a public one if asked
(--allow_photos). Back again: hf download user/name --local-dir mymodel
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.commands.console import exit_status
from transfer.commands.next_steps import say_next
from transfer.config.screens import add_help
from transfer.errors import BadValue, Interrupted, MissingData, printable, some_of
from transfer.files import expanded

if TYPE_CHECKING:
    from transfer.bundle.folder import BundleFolder


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer push`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer push",
        description="Push a bundle to the Hugging Face Hub. The token is that of hf auth login or HF_TOKEN.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=expanded, help="folder or .zip file of export")
    add("repository", metavar="USER/NAME", help="model repository; it is made where there is none")
    add("--private", action="store_true", help="make it a private repository, or refuse where it is public")
    add("--allow_photos", action="store_true", help="push photos of val without --private, too")
    dry = "send nothing: list what would leave, and write it to the new FOLDER if one is given"
    add("--dry_run", nargs="?", const=True, default=False, type=expanded, metavar="FOLDER", help=dry)
    add_help(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = vars(build_parser().parse_args(argv))
    return exit_status(lambda: push(**arguments), build_parser)


def push(
    bundle: Path,
    repository: str,
    private: bool = False,
    allow_photos: bool = False,
    dry_run: Path | bool = False,
) -> None:
    """Print what leaves with a bundle, upload it, and print where it is.

    Args:
        bundle: folder or zip file of a bundle.
        repository: `user/name`, a model repository; it is made where there is none.
        private: whether the repository must be private.
        allow_photos: whether photos of val may leave for a repository that need not be private.
        dry_run: whether nothing is sent; a path is a new folder to write what would be.

    Raises:
        MissingData: there is no bundle, no token, or the Hub cannot be reached or refuses.
        DamagedFile: a file was changed since it was written.
        BadValue: no name of a repository, photos would leave without being allowed, `private` meets a public
            repository, or the repository holds something that is no bundle.
    """
    from transfer.bundle.folder import open_folder
    from transfer.bundle.hub import repository_address, upload

    address = repository_address(repository)
    opened = open_folder(bundle)
    opened.check_files()
    print_leaving(opened, address)
    if opened.record.golden == "photos" and not (private or allow_photos):
        raise BadValue(
            f"{bundle}: its golden inputs are photos of val: `private`=True keeps them private, `allow_photos`=True"
            " publishes them, and export's --golden noise leaves them out"
        )
    if dry_run:
        if dry_run is not True:
            copy_files(opened, Path(dry_run))
        print("nothing was sent")
        allowed = (["--private"] if private else []) + (["--allow_photos"] if allow_photos else [])
        say_next("push rehearsed", [bundle, repository, *allowed])
        return
    try:
        pushed = upload(opened, repository, private)
    except (Interrupted, KeyboardInterrupt) as stop:
        number = stop.signal_number if isinstance(stop, Interrupted) else signal.SIGINT
        raise Interrupted(number, "the same command; the repository changes at the end, in one commit") from None
    seen = "private" if pushed.private else "public"
    print(f"pushed: {pushed.address} ({seen}), commit {pushed.commit[:12]}; its files are those of {bundle}")
    print(f"Back again: hf download {repository} --local-dir mymodel && efficientnet-transfer check mymodel")


def print_leaving(bundle: BundleFolder, address: str) -> None:
    """Print each file that a push uploads, and what they tell about val's images."""
    from transfer.bundle.golden import describe_places, read_golden
    from transfer.costs.units import format_bytes

    record = bundle.record
    sizes = {name: (bundle.folder / name).stat().st_size for name in bundle.names}
    total = format_bytes(sum(sizes.values()), 3)
    print(printable(f"{bundle.path}: {record.name}, {len(sizes)} files, {total}, for {address}"))
    for name, size in sizes.items():
        print(f"{format_bytes(size, 3):>9}  {name}")
    if record.golden == "photos":
        number = len(read_golden(bundle).inputs)
        print(f"{number} photos of val leave with it (golden/), with the metadata in their files")
        if places := describe_places(bundle):
            print(places)
    else:
        print("golden inputs: noise, no photo leaves with it")
    if record.calibration is not None:
        print(f"its calibration holds logits, labels and features of {record.calibration.num_images:,} val images")
    if strangers := bundle.strangers():
        print(printable(f"not the bundle's, and left out: {some_of(strangers)}"))


def copy_files(bundle: BundleFolder, out: Path) -> None:
    """Write the files of a bundle, and no others, to a new folder, whole or not at all.

    Raises:
        MissingData: the folder it is to lie in does not exist.
        BadValue: there is something already.
    """
    from transfer.bundle.folder import new_bundle

    if os.path.lexists(out):
        raise BadValue(f"`dry_run`={out} exists: name a new folder")
    if not out.absolute().parent.is_dir():
        raise MissingData(f"`dry_run`={out}: no such folder {out.parent}; make it first")
    with new_bundle(out) as folder:
        for name in bundle.names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.folder / name, folder / name)
