"""How Sphinx builds the pages (`make docs`). Nothing here needs the network."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from transfer import __version__

project = "efficientnet-transfer"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docs.generate"]
myst_enable_extensions = ["deflist", "linkify"]
myst_linkify_fuzzy_links = False  # optim.lr is no address
myst_heading_anchors = 3
exclude_patterns = ["generate"]
smartquotes = False  # they would make a dash of a flag's --
highlight_language = "bash"
html_theme = "furo"
html_title = "EfficientNet transfer"
html_static_path: list[str] = []
html_copy_source = False
# Docstrings put names and values in single backticks.
default_role = "code"
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
autodoc_typehints = "description"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
