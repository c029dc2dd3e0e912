"""How a command ends: its exit status, and messages in place of tracebacks."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable

from transfer.errors import Interrupted, UserError, printable


def exit_status(command: Callable[[], int | None]) -> int:
    """Runs a script's command and gives its exit status: what it gives, or 0; 2 and a message for a user's mistake or a
    full disk; 128 + n after signal n, and for a pipe that nobody reads any more. Any other exception is a programmer's
    and passes.
    """
    try:
        status = command()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        return 128 + signal.SIGPIPE
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            print(f"error: no space left on the disk while writing {error.filename or 'a file'}", file=sys.stderr)
        elif error.filename is not None:
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        else:
            raise
        return 2
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        return 128 + interruption.signal_number
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return status or 0
