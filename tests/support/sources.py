"""The program's own text, for what can only be said of all of it."""

from __future__ import annotations

import re

from tests.support.server import ROOT

NOT_THE_PRODUCT = frozenset({"tests", "bench", "tools"})


def modules_with(pattern: str) -> set[str]:
    """The product's modules (paths below the root) whose text has the pattern somewhere; no migrations."""
    wanted, found = re.compile(pattern), set()
    for path in ROOT.glob("[a-z]*/**/*.py"):
        where = path.relative_to(ROOT).as_posix()
        if where.split("/")[0] in NOT_THE_PRODUCT or "/migrations/" in where:
            continue
        if wanted.search(path.read_text()):
            found.add(where)
    return found
