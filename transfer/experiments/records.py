"""Types of what the files of experiments hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

# A name that files are called by: it stays in its folder.
FileName = Annotated[str, StringConstraints(pattern=r"^[^/\x00-\x1f.][^/\x00-\x1f]*$")]
