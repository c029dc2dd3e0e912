"""Serve a bundle on this machine: efficientnet-transfer serve mymodel/

A page to drop photos on at http://127.0.0.1:8000/, and POST /predict for programs:
curl -F images=@photo.jpg http://127.0.0.1:8000/predict
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.commands.console import exit_status, find_flags, name_flags
from transfer.config.screens import add_help
from transfer.errors import BadValue, Interrupted, MissingData, check_count, printable
from transfer.files import expanded

if TYPE_CHECKING:
    from socket import socket

    from transfer.bundle.bundle import Bundle
    from transfer.calibration.guarantees import Guarantees
    from transfer.serving.limits import Limits
    from transfer.serving.service import Service

HOST, PORT = "127.0.0.1", 8000
MAX_BYTES, MAX_FILES = "20MB", 64
MAX_PIXELS = 50_000_000  # what phones take; 150 MB in memory
MAX_SECONDS = 60  # 20 MB at 3 Mbit/s
MAX_REQUESTS = 16  # 320 MB of bodies


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
    add("--max_files", type=int, default=MAX_FILES, metavar="NUMBER", help=f"photos in one; default: {MAX_FILES}")
    pixels = f"of a photo; default: {MAX_PIXELS:,}, or the bundle's limit if that is lower"
    add("--max_pixels", type=int, metavar="NUMBER", help=pixels)
    seconds = f"until a request is here, and until its turn comes; default: {MAX_SECONDS}"
    add("--max_seconds", type=int, default=MAX_SECONDS, metavar="NUMBER", help=seconds)
    requests = f"read and computed at the same time; others wait; default: {MAX_REQUESTS}"
    add("--max_requests", type=int, default=MAX_REQUESTS, metavar="NUMBER", help=requests)
    coverage = "share of photos like val's that are not called unknown; default: 0.95, where val allows it"
    add("--coverage", type=float, metavar="SHARE", help=coverage)
    error = "in its place: highest share of wrong answers, promised with 95%% confidence"
    add("--max_error", type=float, metavar="SHARE", help=error)
    add("--sets", type=float, metavar="SHARE", help="add a set of classes that holds the right one so often, as 0.95")
    add_help(parser)
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
    max_seconds: int = MAX_SECONDS,
    max_requests: int = MAX_REQUESTS,
    coverage: float | None = None,
    max_error: float | None = None,
    sets: float | None = None,
) -> None:
    """Answer requests until Ctrl-C or SIGTERM.

    Args:
        bundle: folder or zip file of a bundle.
        host: name or address of this machine to listen on.
        port: 0 takes a free one.
        format: see `load_bundle`.
        max_bytes, max_files, max_pixels, max_seconds, max_requests: see `Limits`; `max_bytes` as `20MB`. `max_pixels`
            None: 50 million, or the bundle's limit if that is lower.
        coverage, max_error: which photos are `unknown`, see `Guarantees`; None: coverage 0.95 where val allows it.
        sets: probability with which a set of classes holds the right one; None: no sets.

    Raises:
        MissingData: there is no bundle, or a package is not installed.
        DamagedFile: the bundle is damaged.
        BadValue: an argument is out of range, val cannot give what is demanded, or the port is taken.
    """
    from transfer.serving.address import listen

    check_packages()
    limits = read_limits(
        max_bytes, max_files, MAX_PIXELS if max_pixels is None else max_pixels, max_seconds, max_requests
    )
    with listen(host, port) as listening:  # what is refused comes before what takes time to import
        from transfer.bundle.bundle import load_bundle

        opened = load_bundle(bundle, format)
        if max_pixels is None:
            limits = replace(limits, max_pixels=min(MAX_PIXELS, opened.folder.record.max_pixels))
        guarantees, rule = choose_guarantees(opened, coverage, max_error, sets)

        from transfer.serving.service import Service

        print(printable(rule))
        answer_requests(Service(opened, limits, guarantees), listening, host)


def answer_requests(service: Service, listening: socket, host: str) -> None:
    """Say where a service is and what is wrong with it, and answer until Ctrl-C or SIGTERM.

    Args:
        service: what answers.
        listening: a socket that listens.
        host: what the user called its address.
    """
    from transfer.serving.address import address_of, is_loopback
    from transfer.serving.app import build_app, describe
    from transfer.serving.health import Health, is_healthy
    from transfer.serving.server import run_server

    health = Health(service.check)
    if not is_healthy(health.outcome):
        print(printable(f"warning: golden test: {describe(health.outcome)}"), file=sys.stderr)
    local = is_loopback(listening)
    if not local:
        reached = "every machine that reaches this one can use it, and there is no password"
        print(printable(f"warning: --host {host}: {reached}"), file=sys.stderr)
    app = build_app(service, health, [host, "localhost", "127.0.0.1", "::1"] if local else ["*"])
    bundle = service.bundle
    names = f"{bundle.folder.record.name}, {len(bundle.class_names)} classes, {bundle.format}"
    with suppress(Interrupted, KeyboardInterrupt):  # a caller that ignores SIGINT gets neither
        print(printable(f"{bundle.folder.path} ({names}): {address_of(host, listening)}"), flush=True)
        run_server(app, listening, service.limits.max_seconds)
    print("stopped")


def check_packages() -> None:
    """Check that what the extra `serve` installs is there.

    Raises:
        MissingData: it is not.
    """
    missing = [name for name in ("fastapi", "uvicorn", "python_multipart") if find_spec(name) is None]
    if missing:
        raise MissingData(f"serve needs {', '.join(missing)}; run: pip install 'efficientnet-transfer[serve]'")


def choose_guarantees(
    bundle: Bundle, coverage: float | None, max_error: float | None, sets: float | None = None
) -> tuple[Guarantees, str]:
    """Return by which rule photos are unknown, and the rule in words; none if none was asked for and val allows none.

    Raises:
        BadValue: val cannot give what is demanded.
        MissingData: it is demanded of a bundle without a calibration.
    """
    from transfer.calibration.guarantees import UNKNOWN, Guarantees
    from transfer.commands.predict_guarantees import read_guarantees

    demanded = read_guarantees(True, coverage, max_error, sets)
    try:
        demanded.check(bundle.calibrated(), bundle.class_names)
        return demanded, "; ".join(demanded.describe(bundle.calibrated()))
    except (BadValue, MissingData) as reason:
        if (coverage, max_error, sets) != (None, None, None):
            raise
        return Guarantees(), f"nothing is called {UNKNOWN}: {name_flags(str(reason), find_flags(build_parser))}"


def read_limits(max_bytes: str, max_files: int, max_pixels: int, max_seconds: int, max_requests: int) -> Limits:
    """Return the limits of a request.

    Raises:
        BadValue: one is out of range.
    """
    from transfer.costs.units import parse_bytes
    from transfer.serving.limits import Limits

    check_count("max_files", max_files)
    check_count("max_pixels", max_pixels)
    check_count("max_seconds", max_seconds)
    check_count("max_requests", max_requests)
    return Limits(parse_bytes(max_bytes, "max_bytes"), max_files, max_pixels, max_seconds, max_requests)
