"""Looking into the database of a running server, in its own environment."""

from __future__ import annotations

import json
from typing import Any

from tests.support.server import RunningServer

KEPT = ("devices", "commands", "enrollment", "scep", "pki.Certificate", "pki.Issuer")
_STATE = f"""
from audit.models import Refusal
from tests.support.snapshot import snapshot
value = {{
    "rows": {{name: digest for name, digest in snapshot().items() if name.startswith({KEPT!r})}},
    "refusals": {{}},
}}
for surface, reason, count in Refusal.objects.values_list("surface", "reason", "count"):
    key = f"{{surface}}: {{reason}}"
    value["refusals"][key] = value["refusals"].get(key, 0) + count
"""


def inside(server: RunningServer, code: str) -> Any:
    """Run ``code`` in a shell of the server; gives what it left in ``value``."""
    done = server.manage("shell", "--no-imports", "-c", f"import json\n{code}\nprint(json.dumps(value))")
    return json.loads(done.stdout.strip().splitlines()[-1])


def state(server: RunningServer) -> dict[str, dict[str, Any]]:
    """``rows``: digests of what a refused request must leave as it was; ``refusals``: how many, by reason."""
    found: dict[str, dict[str, Any]] = inside(server, _STATE)
    return found


def refused_since(before: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Refusals that came in between, by reason."""
    counts = {key: now["refusals"][key] - before["refusals"].get(key, 0) for key in now["refusals"]}
    return {key: count for key, count in counts.items() if count}
