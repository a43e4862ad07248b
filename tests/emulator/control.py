"""Settings and statistics of an emulated library, from the Python process that has loaded it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
from collections.abc import Iterator
from typing import Any


class Emulator:
    """The emulator inside one shared library or extension module, for example Emulator(_C_emulated.__file__)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._library = ctypes.CDLL(os.fspath(path))
        self._library.dtk_emulator_set.argtypes = [ctypes.c_char_p, ctypes.c_int64]
        self._library.dtk_emulator_get.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_int64)]
        self._library.dtk_emulator_statistics.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
        self._library.dtk_emulator_statistics.restype = ctypes.c_size_t
        self._library.dtk_emulator_reset_statistics.restype = None

    def set(self, **settings: int) -> None:
        """Changes settings, named as in runtime/settings.h."""
        for name, value in settings.items():
            if self._library.dtk_emulator_set(name.encode(), value):
                raise KeyError(f"the emulator has no setting {name!r}")

    def get(self, name: str) -> int:
        value = ctypes.c_int64()
        if self._library.dtk_emulator_get(name.encode(), ctypes.byref(value)):
            raise KeyError(f"the emulator has no setting {name!r}")
        return value.value

    @contextlib.contextmanager
    def using(self, **settings: int) -> Iterator[None]:
        """Settings for the length of a `with` block."""
        before = {name: self.get(name) for name in settings}
        self.set(**settings)
        try:
            yield
        finally:
            self.set(**before)

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Counts by kernel since the last reset; `counters` holds those of DTK_COUNT."""
        size = self._library.dtk_emulator_statistics(None, 0)
        text = ctypes.create_string_buffer(size + 1)
        self._library.dtk_emulator_statistics(text, size + 1)
        statistics: dict[str, dict[str, Any]] = json.loads(text.value)
        return statistics

    def reset_statistics(self) -> None:
        self._library.dtk_emulator_reset_statistics()
