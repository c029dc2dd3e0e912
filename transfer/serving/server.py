"""A socket for a service, and the server that answers on it until it is stopped."""

from __future__ import annotations

import ipaddress
import os
import socket

import uvicorn
from fastapi import FastAPI

from transfer.errors import BadValue

_MOST_CONNECTIONS = 64  # each may hold a request of the largest size
_SECONDS_TO_FINISH = 5  # containers are killed ten seconds after SIGTERM


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: a name or an address of this machine.
        port: 0 takes a free one.

    Raises:
        BadValue: there is no such host here, or the port is taken or not allowed.
    """
    if not 0 <= port < 2**16:
        raise BadValue(f"`port`={port} (allowed: 0 to 65535; 0 takes a free one)")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except (socket.gaierror, UnicodeError) as error:
        raise BadValue(f"`host`={host}: {getattr(error, 'strerror', None) or error}") from None
    except OSError as error:
        raise BadValue(f"`host`={host}, `port`={port}: {os.strerror(error.errno or 0).lower()}") from None


def is_loopback(listening: socket.socket) -> bool:
    """Return whether only this machine reaches a socket."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def address_of(host: str, listening: socket.socket) -> str:
    """Return the URL of a socket under the host that was asked for."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"


def run_server(app: FastAPI, listening: socket.socket) -> None:
    """Answer until SIGINT or SIGTERM, finish what has been asked, and raise the signal again."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_SECONDS_TO_FINISH,
    )
    uvicorn.Server(config).run(sockets=[listening])
