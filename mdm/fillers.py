"""Who completes commands for the device that fetches them: by the name that they were queued with."""

from __future__ import annotations

from collections.abc import Mapping

from commands.queue import Filler
from renewal import filling, identities

FILLERS: Mapping[str, Filler] = {
    identities.FILLED_BY: filling.fill,
}
