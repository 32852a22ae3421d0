"""Sphinx: `python -m sphinx -W -b html docs build/docs`."""

import json
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

from extension.pages import write_pages  # noqa: E402

project = "HistoDiffusion"
author = "HistoDiffusion bundle developers"
copyright = author
release = json.loads((ROOT / "configs" / "metadata.json").read_text(encoding="utf-8"))["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["zoo", "examples", "extension"]
myst_heading_anchors = 4

highlight_language = "none"
html_theme = "pydata_sphinx_theme"
html_title = "HistoDiffusion"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_show_sourcelink = False

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Result"]
default_role = "literal"


def readable(app, what, name, obj, options, lines):
    """Docstrings speak of |epsilon| and x* in plain text, where reStructuredText reads markup.

    Napoleon takes what stands before a colon under "Returns" for a type, and knows no "Attributes (after ...)".
    """
    for number, line in enumerate(lines):
        if re.match(r"\s*Returns:$", line):
            lines[number] = line.replace("Returns", "Result")
        elif heading := re.match(r"(\s*Attributes) \(.*\):$", line):
            lines[number] = heading[1] + ":"
        elif not re.match(r"\s*\*{1,2}\w+:", line):  # not `**others:`
            parts = re.split(r"(`[^`]*`)", line)
            parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
            lines[number] = "".join(parts)


def setup(app):
    write_pages(ROOT, DOCS / "reference" / "generated")
    app.connect("autodoc-process-docstring", readable, priority=100)  # before napoleon
