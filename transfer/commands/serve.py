"""Serve a bundle on this machine: efficientnet-transfer serve mymodel/

A page to drop photos on at http://127.0.0.1:8000/, and POST /predict for programs:
curl -F images=@photo.jpg http://127.0.0.1:8000/predict
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.calibration.guarantees import UNKNOWN, Guarantees
from transfer.commands.console import exit_status, find_flags, name_flags
from transfer.commands.predict_guarantees import DEFAULT_COVERAGE, read_guarantees
from transfer.errors import BadValue, Interrupted, MissingData, check_count, printable
from transfer.files import expanded

if TYPE_CHECKING:
    from transfer.bundle.bundle import Bundle
    from transfer.serving.uploads import Limits

HOST, PORT = "127.0.0.1", 8000
MAX_BYTES, MAX_FILES = "20MB", 64
MAX_PIXELS = 50_000_000  # what phones take; 150 MB in memory


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer serve`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer serve", description="Serve a bundle: a page to drop photos on, and POST /predict."
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=expanded, help="folder or .zip file of export")
    add("--host", default=HOST, help=f"name or address to listen on; default: {HOST}, which only this machine reaches")
    add("--port", type=int, default=PORT, help=f"0 takes a free one; default: {PORT}")
    add("--format", metavar="NAME", help="what computes the network; default: the first that is installed")
    add("--max_bytes", default=MAX_BYTES, metavar="SIZE", help=f"of a request; default: {MAX_BYTES}")
    add("--max_files", type=int, default=MAX_FILES, help=f"photos in a request; default: {MAX_FILES}")
    pixels = f"of a photo; default: {MAX_PIXELS:,}, or the bundle's limit if that is lower"
    add("--max_pixels", type=int, metavar="NUMBER", help=pixels)
    coverage = (
        f"share of photos like val's that are not called {UNKNOWN}; default: {DEFAULT_COVERAGE}, where val allows it"
    )
    add("--coverage", type=float, metavar="SHARE", help=coverage)
    error = "in its place: highest share of wrong answers, promised with 95%% confidence"
    add("--max_error", type=float, metavar="SHARE", help=error)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0 when it is stopped."""
    arguments = vars(build_parser().parse_args(argv))
    return exit_status(lambda: serve(**arguments), build_parser)


def serve(
    bundle: Path,
    host: str = HOST,
    port: int = PORT,
    format: str | None = None,
    max_bytes: str = MAX_BYTES,
    max_files: int = MAX_FILES,
    max_pixels: int | None = None,
    coverage: float | None = None,
    max_error: float | None = None,
) -> None:
    """Answer requests until Ctrl-C or SIGTERM.

    Args:
        bundle: folder or zip file of a bundle.
        host: name or address of this machine to listen on.
        port: 0 takes a free one.
        format: see `load_bundle`.
        max_bytes: of a request, as `20MB`.
        max_files: photos in a request, at least 1.
        max_pixels: of a photo, at least 1; None: 50 million, or the bundle's limit if that is lower.
        coverage, max_error: which photos are `unknown`, see `Guarantees`; None: coverage 0.95 where val allows it.

    Raises:
        MissingData: there is no bundle, or a package is not installed.
        DamagedFile: the bundle is damaged.
        BadValue: an argument is out of range, val cannot give what is demanded, or the port is taken.
    """
    from transfer.bundle.bundle import load_bundle

    check_packages()
    opened = load_bundle(bundle, format)
    limits = read_limits(opened, max_bytes, max_files, max_pixels)
    guarantees, rule = choose_guarantees(opened, coverage, max_error)

    from transfer.serving.app import build_app, describe
    from transfer.serving.health import Health, is_healthy
    from transfer.serving.server import address_of, is_loopback, listen, run_server
    from transfer.serving.service import Service

    with listen(host, port) as listening:
        service = Service(opened, limits, guarantees)
        health = Health(service.check)
        if not is_healthy(health.outcome):
            print(printable(f"warning: golden test: {describe(health.outcome)}"), file=sys.stderr)
        local = is_loopback(listening)
        if not local:
            print(f"warning: whoever reaches this machine can use it: {host} is no loopback address", file=sys.stderr)
        app = build_app(service, health, [host, "localhost", "127.0.0.1", "::1"] if local else ["*"])
        names = f"{opened.folder.record.name}, {len(opened.class_names)} classes, {opened.format}"
        print(printable(rule))
        try:
            print(printable(f"{bundle} ({names}): {address_of(host, listening)}"), flush=True)
            run_server(app, listening)
        except (Interrupted, KeyboardInterrupt):
            print("stopped")


def check_packages() -> None:
    """Check that what the extra `serve` installs is there.

    Raises:
        MissingData: it is not.
    """
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingData(f"serve: {error}; run: pip install 'efficientnet-transfer[serve]'") from None


def choose_guarantees(bundle: Bundle, coverage: float | None, max_error: float | None) -> tuple[Guarantees, str]:
    """Return by which rule photos are unknown, and the rule in words; none if none was asked for and val allows none.

    Raises:
        BadValue: val cannot give what is demanded.
        MissingData: it is demanded of a bundle without a calibration.
    """
    demanded = read_guarantees(True, coverage, max_error)
    try:
        return demanded, " ".join(demanded.describe(bundle.calibrated()))
    except (BadValue, MissingData) as reason:
        if (coverage, max_error) != (None, None):
            raise
        return Guarantees(), f"nothing is called {UNKNOWN}: {name_flags(str(reason), find_flags(build_parser))}"


def read_limits(bundle: Bundle, max_bytes: str, max_files: int, max_pixels: int | None) -> Limits:
    """Return the limits of a request.

    Raises:
        BadValue: one is out of range.
    """
    from transfer.costs.units import parse_bytes
    from transfer.serving.uploads import Limits

    check_count("max_files", max_files)
    if max_pixels is None:
        max_pixels = min(MAX_PIXELS, bundle.folder.record.max_pixels)
    check_count("max_pixels", max_pixels)
    return Limits(parse_bytes(max_bytes, "max_bytes"), max_files, max_pixels)
