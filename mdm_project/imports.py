"""What libraries import only because it is there, and what a process then carries for as long as it lives."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Let what is imported in here find the modules ``names`` absent; one that is loaded already stays.

    For optional parts of a library that are not used. Afterwards they can be imported as always. Imports of
    other threads must not run meanwhile: for the start of a process.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: "import halted"
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
