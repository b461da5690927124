"""Which devices there are: models with their systems, and one made-up but plausible specimen by number."""

from __future__ import annotations

import random
import uuid
from dataclasses import asdict, dataclass
from typing import Any

# Without what is mistaken for another character, as in serial numbers of today.
SERIAL_CHARACTERS = "CDFGHJKLMNPQRTVWXY0123456789"
FIRST_NAMES = (
    "Ada",
    "Amir",
    "Anna",
    "Arno",
    "Bea",
    "Carla",
    "Chidi",
    "Dara",
    "Dmitri",
    "Elif",
    "Emre",
    "Femi",
    "Greta",
    "Hana",
    "Ines",
    "Ivo",
    "Jonas",
    "Jun",
    "Kemal",
    "Lena",
    "Linus",
    "Mara",
    "Marek",
    "Mina",
    "Nadia",
    "Nils",
    "Oona",
    "Paolo",
    "Priya",
    "Rosa",
    "Samir",
    "Selma",
    "Tariq",
    "Tilda",
    "Uma",
    "Vera",
    "Wanda",
    "Yann",
    "Zoe",
)


@dataclass(frozen=True)
class Model:
    """A product as Apple names it. ``chip`` starts the UDID; without one it is a UUID, as on Macs."""

    platform: str
    product_name: str
    model_name: str
    model: str
    chip: str
    systems: tuple[tuple[str, str], ...]
    capacities: tuple[int, ...]
    cellular: bool
    share: int


IOS = (("18.1", "22B83"), ("18.0.1", "22A3370"), ("17.7.1", "21H216"))
MACOS = (("15.1", "24B83"), ("14.7.1", "23H222"), ("13.7.1", "22H221"))
TVOS = (("18.1", "22J580"), ("18.0", "22J357"))

MODELS = (
    Model("iOS", "iPhone17,1", "iPhone", "MYND3", "00008140", IOS[:2], (128, 256, 512), True, 12),
    Model("iOS", "iPhone15,4", "iPhone", "MTP63", "00008120", IOS, (128, 256), True, 12),
    Model("iOS", "iPhone14,7", "iPhone", "MPUF3", "00008110", IOS, (128, 256), True, 10),
    Model("iOS", "iPhone12,8", "iPhone", "MHGT3", "00008030", IOS, (64, 128), True, 6),
    Model("iPadOS", "iPad13,18", "iPad", "MPQ33", "00008101", IOS, (64, 256), False, 12),
    Model("iPadOS", "iPad14,8", "iPad", "MUWD3", "00008112", IOS[:2], (128, 256), False, 8),
    Model("iPadOS", "iPad14,6", "iPad", "MP203", "00008112", IOS, (256, 512), True, 4),
    Model("macOS", "Mac14,2", "MacBook Air", "MLXY3", "", MACOS, (256, 512), False, 12),
    Model("macOS", "Mac15,3", "MacBook Pro", "MTL73", "", MACOS, (512, 1024), False, 10),
    Model("macOS", "Mac16,10", "Mac mini", "MU9D3", "", MACOS[:1], (256, 512), False, 4),
    Model("tvOS", "AppleTV14,1", "Apple TV", "MN873", "00008110", TVOS, (64, 128), False, 4),
)


@dataclass(frozen=True)
class Hardware:
    """One specimen: what it is born with."""

    platform: str
    product_name: str
    model_name: str
    model: str
    os_version: str
    build_version: str
    udid: str
    provisioning_udid: str
    serial_number: str
    name: str
    capacity_gb: int
    imei: str
    meid: str
    iccid: str
    phone_number: str
    wifi_mac: str
    bluetooth_mac: str
    ethernet_mac: str

    @property
    def is_mac(self) -> bool:
        return self.platform == "macOS"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Hardware:
        return cls(**value)


def dice(seed: str) -> random.Random:
    """Reproducible chance. Never for keys or nonces."""
    return random.Random(seed)  # noqa: S311 - made-up inventory


def make_hardware(seed: str, number: int) -> Hardware:
    """Specimen ``number`` of the fleet ``seed``: the same for the same arguments, others for others."""
    chance = dice(f"{seed}/{number}")
    model = chance.choices(MODELS, weights=[model.share for model in MODELS])[0]
    version, build = chance.choice(model.systems)
    ecid = f"{chance.getrandbits(52):016X}"
    hardware_uuid = str(uuid.UUID(int=chance.getrandbits(128), version=4)).upper()
    imei = _imei(chance) if model.cellular else ""
    return Hardware(
        platform=model.platform,
        product_name=model.product_name,
        model_name=model.model_name,
        model=model.model,
        os_version=version,
        build_version=build,
        udid=f"{model.chip}-{ecid}" if model.chip else hardware_uuid,
        provisioning_udid="" if model.chip else f"00008112-{ecid}",
        serial_number="".join(chance.choices(SERIAL_CHARACTERS, k=10)),
        name=f"{chance.choice(FIRST_NAMES)}’s {model.model_name}",
        capacity_gb=chance.choice(model.capacities),
        imei=imei,
        meid=imei.replace(" ", "")[:14],
        iccid=f"8944{chance.randrange(10**15):015d}" if model.cellular else "",
        phone_number=f"+447700900{chance.randrange(1000):03d}" if model.cellular else "",
        wifi_mac=_mac(chance),
        bluetooth_mac=_mac(chance),
        ethernet_mac=_mac(chance) if model.platform in ("macOS", "tvOS") else "",
    )


def _imei(chance: random.Random) -> str:
    """Fifteen digits, the last one right by Luhn, spaced as devices write them."""
    digits = f"35{chance.randrange(10**12):012d}"
    doubled = (int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(digits))
    check = -sum(value - 9 if value > 9 else value for value in doubled) % 10
    return f"{digits[:2]} {digits[2:8]} {digits[8:14]} {check}"


def _mac(chance: random.Random) -> str:
    """A locally administered address: no vendor's."""
    return ":".join(["02", *(f"{chance.randrange(256):02x}" for _ in range(5))])
