"""Sphinx: `make docs` builds these pages and the reference from the docstrings, without a warning."""

from importlib.metadata import version as _version

project = "dtkernels"
author = "The dtkernels developers"
copyright = "The dtkernels developers, Apache-2.0"
version = release = _version("dtkernels")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
intersphinx_mapping: dict[str, tuple[str, None]] = {}  # builds without a network
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
templates_path: list[str] = []
exclude_patterns: list[str] = []
nitpicky = False
html_theme = "furo"
html_title = "dtkernels"
copybutton_prompt_text = ">>> |\\.\\.\\. |\\$ "
copybutton_prompt_is_regexp = True
