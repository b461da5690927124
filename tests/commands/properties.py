"""How property tests run here: the machine may be busy, so time decides nothing."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
