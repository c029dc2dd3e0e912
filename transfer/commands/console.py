"""How a command ends: its exit status, and messages that name the user's flags in place of tracebacks."""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

from transfer.errors import BadValue, Diverged, Interrupted, MissingData, UserError, explain_failure, printable

# Arguments of the library whose flag has another name.
_RENAMED = {"optimizer": "optim.name", "loss": "loss.name"}


def exit_status(
    command: Callable[[], int | None], build_parser: Callable[[], argparse.ArgumentParser] | None = None
) -> int:
    """Run a command and return its exit status.

    Args:
        command: returns the status of a success; None stands for 0.
        build_parser: builds the command's parser, whose flags replace the arguments that messages name in backticks.
            None leaves the arguments' names.

    Returns:
        What the command returns; 2 after a user's mistake, on a full disk or for want of memory, 3 where the training
        diverged, with a message on stderr; 128 + n after signal n, and after SIGPIPE for a pipe that nobody reads any
        more.

    Raises:
        Exception: any other error is a bug; it passes with its traceback.
    """
    try:
        with _warnings_once(), _warnings_with_flags(build_parser), _stopped_by_sigterm():
            status = command()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        return 128 + signal.SIGPIPE
    except UserError as error:
        print(f"error: {printable(name_flags(str(error), find_flags(build_parser)))}", file=sys.stderr)
        return error.STATUS if isinstance(error, Diverged) else 2
    except ImportError as error:
        if (place := _other_datamodules(error)) is not None:
            print(
                f"error: {place} is another package called datamodules, and hides the one that comes with"
                " efficientnet-transfer: uninstall it, or use an environment of its own",
                file=sys.stderr,
            )
        elif not _explained(error, build_parser):
            raise
        return 2
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            print(f"error: no space left on the disk while writing {error.filename or 'a file'}", file=sys.stderr)
        elif error.filename is not None:
            print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        elif not _explained(error, build_parser):
            raise
        return 2
    except (MemoryError, RuntimeError) as error:
        if not _explained(error, build_parser):
            raise
        return 2
    except Interrupted as interruption:
        from transfer.runs.folder import is_main_process

        if is_main_process():
            print(interruption, file=sys.stderr)
        return 128 + interruption.signal_number
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return status or 0


def _explained(error: Exception, build_parser: Callable[[], argparse.ArgumentParser] | None) -> bool:
    """Print what an error means that is the system's and no bug, and return whether it is one."""
    reason = explain_failure(error)
    if reason is not None:
        print(f"error: {name_flags(reason, find_flags(build_parser))}", file=sys.stderr)
    return reason is not None


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the command as Ctrl-C does, so that nothing is left half-written; a handler in place stays.

    Raises:
        Interrupted: in the middle of the command, when the signal comes.
    """
    is_free = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not is_free or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _other_datamodules(error: ImportError) -> str | None:
    """Return where another package called datamodules lies, if that is why an import failed."""
    package = sys.modules.get("datamodules")
    if package is None or hasattr(package, "load_dataset") or (error.name or "").partition(".")[0] != "datamodules":
        return None
    return package.__file__ or str(next(iter(package.__path__)))


def add_allow_user_code(parser: argparse._ActionsContainer) -> None:
    """Add the flag without which no code is imported that a file names; see `transfer.networks.user_code`."""
    parser.add_argument(
        "--allow_user_code",
        action="store_true",
        help="import a backbone or a head of your own that a file names, which runs its code",
    )


def add_engine(parser: argparse._ActionsContainer, default: str) -> None:
    """Add the flag that says what computes a finished network; see `transfer.inference`."""
    from transfer.inference.names import CHOICES

    explained = "what computes the network; auto: the fastest installed that agrees with float32 PyTorch; default: "
    parser.add_argument("--engine", choices=CHOICES, default=default, help=explained + default)


def add_reading(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Add the flags that say how images of the user's own are read: fields of `ReadOptions`, None where not given.

    Args:
        parser: the command's parser.
        otherwise: what holds where a flag is not given, for the help of those that have a default.
    """
    for name in ("image_column", "label_column", "split_column", "group_column"):
        parser.add_argument(f"--data.{name}", f"--{name}", dest=name, metavar="NAME", help="of a table")
    separator = f"between the labels of an image; default: {otherwise or '|'}"
    parser.add_argument("--data.label_separator", "--label_separator", dest="label_separator", help=separator)
    layout = "what the folders are: classes, splits (others are left out), or auto, what their names say; default: "
    parser.add_argument(
        "--data.folder_layout",
        "--folder_layout",
        dest="folder_layout",
        choices=("auto", "classes", "splits"),
        help=layout + (otherwise or "auto"),
    )


def check_folder(argument: str, file: Path | None) -> None:
    """Refuse, before any work is done, a file to write whose folder does not exist, or that is a folder itself.

    Args:
        argument: name of the argument, for the message.
        file: the path to write; None is never refused.

    Raises:
        MissingData: there is no such folder.
        BadValue: it is a folder.
    """
    if file is not None and not file.parent.is_dir():
        raise MissingData(f"`{argument}`={file}: no such folder")
    if file is not None and file.is_dir():
        raise BadValue(f"`{argument}`={file} is a folder: give the path of a file")


@contextmanager
def _warnings_once() -> Iterator[None]:
    """Show a warning once, though folds and other parts of a command may give it again.

    Python's own filter `once` forgets what it has shown whenever a library changes the filters.
    """
    original, shown = warnings.showwarning, set[str]()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category is not UserWarning or str(message) not in shown:
            shown.add(str(message))
            original(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = original


@contextmanager
def _warnings_with_flags(build_parser: Callable[[], argparse.ArgumentParser] | None) -> Iterator[None]:
    """Show warnings with flags and without the line of code they come from; those that a program collects stay."""
    original = warnings.formatwarning

    def with_flags(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        text = printable(name_flags(str(message), find_flags(build_parser)))
        return f"warning: {text}\n" if category is UserWarning else original(text, category, filename, lineno, line)

    warnings.formatwarning = with_flags
    try:
        yield
    finally:
        warnings.formatwarning = original


def find_flags(build_parser: Callable[[], argparse.ArgumentParser] | None) -> dict[str, str]:
    """Return the flag of each argument that a parser knows, or the metavar of a positional one.

    A dotted option such as `--data.batch_size` is also found by its last word, unless two options end in it. A flag
    that takes no value ends in a space, to tell it from one that does.
    """
    if build_parser is None:
        return {}
    flags: dict[str, str] = {}
    last_words: dict[str, list[str]] = {}
    for action in _actions(build_parser()):
        options = [option for option in action.option_strings if option.startswith("--")]
        name = options[0].removeprefix("--") if options else action.dest
        flag = options[0] if options else str(action.metavar or action.dest)
        flag += " " if options and action.nargs == 0 else ""
        flags.setdefault(name, flag)
        flags.setdefault(action.dest, flag)
        last_words.setdefault(name.rpartition(".")[2], []).append(flag)
    unique = {word: found[0] for word, found in last_words.items() if len(set(found)) == 1}
    renamed = {name: flags[field] for name, field in _RENAMED.items() if field in flags}
    return unique | flags | renamed


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _actions(subparser)
        else:
            yield action


def name_flags(text: str, flags: Mapping[str, str]) -> str:
    """Return a message with its arguments in backticks replaced by the flags of a command.

    `batch_size`=0 becomes --data.batch_size 0, and `multilabel`=True becomes --data.multilabel true, or --multilabel
    alone where that takes no value. An argument without a flag loses its backticks.

    Args:
        text: a message of the library.
        flags: see `find_flags`.
    """

    def name_flag(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        flag = flags.get(name)
        if flag is None:
            return f"{name}{value or ''}"
        if value is None or (flag.endswith(" ") and value == "=True"):
            return flag.rstrip()
        return f"{flag.rstrip()} {_WORDS.get(value[1:], value[1:])}"

    return _ARGUMENT.sub(name_flag, text)


_WORDS = {"True": "true", "False": "false", "None": "null"}  # as a command line spells them
_ARGUMENT = re.compile(r"`([a-z_][\w.]*)`(=(?:(?:True|False|None)\b)?)?")
