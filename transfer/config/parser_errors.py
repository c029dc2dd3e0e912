"""jsonargparse's messages in our words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transfer.errors import nearest

# What a user would write for a type.
_TYPES = {"NoneType": "null"}


def explain(message: str, flags: Sequence[str]) -> str:
    """Return jsonargparse's message in our words, with the allowed values and the nearest name.

    Args:
        message: jsonargparse's message.
        flags: names of all options.
    """
    unknown = re.findall(r"--([\w.-]+)", message) if message.startswith("unrecognized") else []
    if match := re.search(r"Group '(\S+)' does not accept option '(\S+)'", message):
        unknown = [f"{match[1]}.{match[2]}"]
    elif match := re.search(r"Option '(\S+)' is not accepted", message):
        unknown = [match[1]]
    if unknown:
        return "\n".join(
            f"unknown option {name!r}{nearest(name.replace('-', '_'), flags)} (see --help)" for name in unknown
        )
    if match := re.search(r"Parser key \"config\":\s+(.*)", message):
        return f"`config`: {match[1]}"
    if match := re.search(r"key \"(\S+)\":\s+Expected a typing.Literal\[(.*)\]. Got value: (.*)", message):
        allowed = re.findall(r"'([^']*)'", match[2])
        return f"`{match[1]}`={match[3]!r}{nearest(match[3], allowed)} (allowed: {', '.join(allowed)})"
    if match := re.search(r"key \"(\S+)\":\s+Expected a (?:<class '(\w+)'>|(.*))\. Got value: (.*)", message):
        return f"`{match[1]}`={match[4]!r} (allowed: {match[2] or match[3]})"
    if match := re.search(r"key \"(\S+)\":\s+Does not validate against any of the Union subtypes", message):
        types = re.findall(r"- Expected (?:a |one of )?(?:<class '(\w+)'>|typing\.Literal\[(.*)\]|(.*))", message)
        allowed = [_TYPES.get(name, name) for name in ("".join(names).replace("'", "") for names in types)]
        given = re.search(r"Given value type: <class '(.*)'>\s+Given value: ([^\n]*)", message)
        value = "" if given is None else repr(given[2]) if given[1] == "str" else given[2]
        return f"`{match[1]}`={value} (allowed: {', '.join(allowed)})"
    return message
