"""What people call train, val and test: `training_set`, `seg_train`, `Validation`, `train2017`."""

from __future__ import annotations

import re
from collections.abc import Iterable

SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "tst": "test",
    "eval": "test",
    "evaluation": "test",
}
# Words beside the split's that say nothing.
_FILLERS = r"(?:data)?set|data|images?|imgs?|pictures?|photos?|split|folder|dir|files"
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_ALIAS = re.compile(rf"({'|'.join(SPLIT_ALIASES)})(?:{_FILLERS})?")


def find_splits(names: Iterable[str]) -> dict[str, str]:
    """Return the split of each name that stands for one, seen beside the others.

    Words of its own, as in `seg_train`, a name may have if another split's name has the same, as `seg_test`.
    """
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name in names:
        words = [word.lower() for word in _WORD.findall(name)]
        splits = [SPLIT_ALIASES[match[1]] for word in words if (match := _ALIAS.fullmatch(word))]
        if len(splits) == 1:
            others = [word for word in words if not _ALIAS.fullmatch(word) and not re.fullmatch(_FILLERS, word)]
            found[name] = splits[0], tuple(others)
    splits_of: dict[tuple[str, ...], set[str]] = {}
    for split, rest in found.values():
        splits_of.setdefault(rest, set()).add(split)
    return {name: split for name, (split, rest) in found.items() if not rest or len(splits_of[rest]) > 1}
