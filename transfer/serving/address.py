"""The socket that a service listens on, and who reaches it."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

from transfer.errors import BadValue


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
    if not host:  # the resolver would take it for every address
        raise BadValue("`host`='' (allowed: a name or an address of this machine; 0.0.0.0 for all of them)")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except (socket.gaierror, UnicodeError) as error:
        raise BadValue(f"`host`={host}: {getattr(error, 'strerror', None) or error}") from None
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise BadValue(f"`host`={host}: not an address of this machine") from None
        raise BadValue(f"`host`={host}, `port`={port}: {os.strerror(error.errno or 0).lower()}") from None


def is_loopback(listening: socket.socket) -> bool:
    """Return whether only this machine reaches a socket."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def address_of(host: str, listening: socket.socket) -> str:
    """Return the URL of a socket under the host that was asked for."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
