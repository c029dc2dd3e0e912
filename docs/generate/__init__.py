"""The directive `{generate} NAME`: parts of pages that come from parsers, docstrings and `benchmarks/`.

They are computed while Sphinx builds, so that no figure and no flag is copied by hand.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from docs.generate import accuracy, ledger, reference, scaling, seeds, speed, unknown
from docs.generate.measurement import definitions

# What a page may ask for, and the Markdown that it gets.
PARTS = {
    "command-line": reference.command_line,
    "config": reference.config,
    "errors": reference.errors,
    "python": reference.python,
    "accuracy": lambda: definitions(accuracy.MEASUREMENTS),
    "speed": lambda: definitions(speed.MEASUREMENTS),
    "few-photos": accuracy.few_photos,
    "calibration": unknown.calibration,
    "strangers": unknown.strangers,
    "seed-intervals": seeds.coverage,
    "ledger": ledger.tables,
    "scaling-rule": scaling.rule,
    "scaling-studies": scaling.studies,
}


class Generate(SphinxDirective):
    """Put a part into a page, by its name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the part's nodes.

        Raises:
            DirectiveError: there is no such part.
        """
        name = self.arguments[0]
        if name not in PARTS:
            raise self.severe(f"no part {name!r} (there are: {', '.join(PARTS)})")
        return self.parse_text_to_nodes(PARTS[name](), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("generate", Generate)
    return {"parallel_read_safe": True}
