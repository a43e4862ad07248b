"""Every example in the docstrings, the README and the guides runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dtkernels
from dtkernels import losses
from dtkernels.optional import MissingDependencyError

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(dtkernels.__file__).parent
MODULES = sorted(
    ".".join(("dtkernels", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for file in PACKAGE.rglob("*.py")
    if file.parent.name != "docs"
)
DOCS = ROOT / "dtkernels" / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LOSS_PAGES = sorted((DOCS / "losses").glob("*.md"))
# 12 ms, 3.4 x, 5 ns per voxel, 2 times as fast; not 128 x 128
MEASURED = re.compile(r"\d ?(?:ms|ns|us|µs|GB/s)\b|\d ?x(?! \d)\b|\| (?:ms|ns|us|µs)\b|\d times as", re.I)
SECTIONS = (
    "Formula",
    "The map and its gradient",
    "When to use it",
    "Defaults",
    "Classes that are empty or full",
    "Example",
    "Differences from the paper and from other code",
    "Cost",
    "References",
    "See also",
)  # of the page of a loss
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def path_of(page: Path) -> str:
    return str(page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT))


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


@pytest.mark.parametrize("page", PAGES, ids=path_of)
def test_examples_of_a_page(page: Path) -> None:
    """Python blocks of a page run one after the other in one namespace."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)
    assert blocks or page.name != "README.md"
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=path_of)
def test_links_name_files_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_loss_has_a_page() -> None:
    overview = (DOCS / "losses.md").read_text()
    for name in losses.__all__:
        assert (DOCS / "losses" / f"{name}.md").exists()
    for page in LOSS_PAGES:
        assert f"](losses/{page.name})" in overview, page.name
    for name in losses.__all__:
        assert f"| {name} |" in overview, f"{name} is missing in the table of costs"


@pytest.mark.parametrize("page", LOSS_PAGES, ids=path_of)
def test_page_of_a_loss_has_everything(page: Path) -> None:
    text = page.read_text()
    assert tuple(re.findall(r"^## (.*)$", text, flags=re.M)) == SECTIONS
    part = dict(zip(SECTIONS, re.split(r"^## .*$", text, flags=re.M)[1:], strict=True))
    assert "$$" in part["Formula"]
    assert re.search(r"!\[.+\]\(\.\./figures/\w+(-\w+)?\.png\)", part["The map and its gradient"])
    assert "python -m bench.loss_pictures" in part["The map and its gradient"]
    assert "Not for:" in part["When to use it"]
    assert "```python" in part["Example"]
    assert "../losses.md#what-they-cost" in part["Cost"]


@pytest.mark.parametrize("page", LOSS_PAGES, ids=path_of)
def test_page_of_a_loss_has_its_defaults(page: Path) -> None:
    """Every option of the class with the default that it has; a page of a variant may leave some out."""
    name, _, variant = page.stem.partition("-")
    options = inspect.signature(getattr(losses, name)).parameters
    shown: dict[str, str] = {}
    for names, default in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| `([^`]*)` \| \S", page.read_text(), flags=re.M):
        shown |= dict.fromkeys(re.findall(r"`(\w+)`", names), default)
    wanted = {option: repr(p.default).replace("'", '"') for option, p in options.items()}
    assert shown == ({option: wanted[option] for option in shown} if variant else wanted)
    assert shown


def test_pages_build_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="Sphinx is not installed (pip install '.[docs]')")
    build = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run([*build, str(DOCS), str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=path_of)
def test_tables_are_their_result_files(page: Path) -> None:
    """No table stands in a page that is not in a committed result file."""
    from bench import tables

    text = page.read_text()
    assert tables.fill(text) == text, "run python -m bench.tables"


# The page of the study is written as a whole from its result files, which tests/test_study.py checks.
@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "study.md"], ids=path_of)
def test_measured_numbers_stand_in_tables(page: Path) -> None:
    """A table with a time or a ratio in its head or in a cell is made from a result file."""
    from bench import tables

    text = re.sub(r"```.*?```", "", tables.PATTERN.sub("", page.read_text()), flags=re.S)
    measured = [line for line in text.splitlines() if line.startswith("|") and MEASURED.search(line)]
    assert measured == [], "take these numbers from a file in bench/results: see bench/tables.py"


def test_every_result_file_is_shown() -> None:
    from bench import tables

    text = "".join(page.read_text() for page in PAGES)
    files = [f"bench/results/{file.name}" for file in (ROOT / "bench" / "results").glob("*.json")]
    assert [file for file in files if file not in text] == []
    names = {match[2] for page in PAGES for match in tables.PATTERN.finditer(page.read_text())}
    assert names == set(tables.TABLES)


def test_a_changed_number_is_seen() -> None:
    from bench import tables

    page = next(page for page in PAGES if tables.PATTERN.search(page.read_text()))
    text = page.read_text()
    start = tables.PATTERN.search(text)
    assert start is not None
    digit = start.start(4) + re.search(r"\d", start[4]).start()  # type: ignore[union-attr]
    changed = text[:digit] + str(9 - int(text[digit])) + text[digit + 1 :]
    assert tables.fill(changed) == text
