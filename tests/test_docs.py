"""Every example in the docstrings and in the README runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

import dtkernels
from dtkernels.data import MissingDependencyError

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(dtkernels.__file__).parent
MODULES = sorted(
    ".".join(("dtkernels", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for file in PACKAGE.rglob("*.py")
)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    failed, _ = doctest.testmod(module, optionflags=FLAGS)
    assert failed == 0


def test_public_functions_have_examples() -> None:
    for name in dtkernels.__all__:
        function = getattr(dtkernels, name)
        if callable(function):
            assert ">>>" in (function.__doc__ or ""), f"dtkernels.{name} has no example"


def test_readme_examples() -> None:
    """Python blocks of the README run one after the other in one namespace."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_readme_names_only_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (ROOT / target).exists(), f"README.md links to {target}"


def test_readme_tables_are_their_result_files() -> None:
    """No number stands in the README that is not in a committed result file."""
    from bench import tables

    text = (ROOT / "README.md").read_text()
    assert tables.fill(text) == text, "run python -m bench.tables"
