"""Made-up devices: plausible, reproducible, distinct."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from simulator.hardware import MODELS, Hardware, make_hardware

UDID = re.compile(r"[0-9A-F]{8}-[0-9A-F]{16}|[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}")


@given(st.text(max_size=20), st.integers(min_value=1, max_value=100_000))
def test_every_specimen_is_plausible(seed: str, number: int) -> None:
    made = make_hardware(seed, number)
    assert made == make_hardware(seed, number)
    assert UDID.fullmatch(made.udid)
    assert re.fullmatch(r"[A-Z0-9]{10}", made.serial_number)
    assert made.product_name in {model.product_name for model in MODELS}
    assert made.is_mac == made.product_name.startswith("Mac")
    assert bool(made.provisioning_udid) == made.is_mac
    if made.imei:
        assert _luhn(made.imei.replace(" ", ""))
    assert Hardware.from_json(json.loads(json.dumps(made.as_json()))) == made


def test_a_fleet_is_mixed_and_no_two_are_alike() -> None:
    fleet = [make_hardware("seed", number) for number in range(1, 1001)]
    assert {made.platform for made in fleet} == {"iOS", "iPadOS", "macOS", "tvOS"}
    assert len({made.udid for made in fleet}) == len({made.serial_number for made in fleet}) == 1000


def test_another_seed_is_another_fleet() -> None:
    assert make_hardware("a", 1).udid != make_hardware("b", 1).udid


def _luhn(digits: str) -> bool:
    doubled = (int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(digits)))
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0
