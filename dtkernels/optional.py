"""Packages that only some parts of dtkernels need, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any


class MissingDependencyError(ImportError):
    """A package that this needs is not installed; the message says which extra brings it."""


def require(module: str, purpose: str, extra: str) -> Any:
    """Import an optional package, or say which extra of dtkernels installs it.

    >>> require("json", "reading settings", extra="cli").dumps(1)
    '1'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise MissingDependencyError(
            f"{purpose} needs {package}, which cannot be imported here ({error}): pip install 'dtkernels[{extra}]'"
        ) from error
