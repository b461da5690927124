"""Names as people write them in a form: one part on each line."""

from __future__ import annotations

from collections.abc import Iterable

from pki.core.names import NAME_OIDS, Name, NameRefused, encode_alternative_names, encode_name

San = tuple[tuple[str, str], ...]
SAN_KINDS = ("DNS", "IP", "URI", "email")


def encode_subject(subject: Name) -> str:
    """``CN=router 1``, one part on each line, in the certificate's order."""
    return "\n".join(f"{key}={value}" for key, value in subject)


def encode_names(names: San) -> str:
    """``DNS:router.example``, one name on each line."""
    return "\n".join(f"{kind}:{value}" for kind, value in names)


def decode_subject(text: str) -> Name:
    """The other way round. Raises :class:`NameRefused`, with the line that is meant."""
    subject = tuple(_pairs(text, "=", _keys(NAME_OIDS), "CN=router 1"))
    encode_name(subject)
    return subject


def decode_names(text: str) -> San:
    """The other way round. Raises :class:`NameRefused`, with the line that is meant."""
    names = tuple(_pairs(text, ":", _keys(SAN_KINDS), "DNS:router.example"))
    encode_alternative_names(names)
    return names


def _keys(names: Iterable[str]) -> dict[str, str]:
    return {name.lower(): name for name in names}


def _pairs(text: str, separator: str, keys: dict[str, str], example: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        if not line.strip():
            continue
        key, found, value = line.partition(separator)
        if not found or not value.strip():
            raise NameRefused(f"“{line.strip()[:60]}” is not written like {example}")
        name = keys.get(key.strip().lower())
        if name is None:
            raise NameRefused(f"“{key.strip()[:60]}” is none of {', '.join(keys.values())}")
        yield name, value.strip()
