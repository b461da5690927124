"""Finding issued certificates by what people have at hand: a number, a fingerprint, a name, a device."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils.module_loading import import_string

from pki.models import Certificate
from pki.records import normal_hexadecimal

# From so many digits on the beginning of a number or fingerprint is looked for too; lists show twelve.
MIN_PREFIX = 8
# So many tell a number from a word: nothing else is looked for then.
SURE_DIGITS = 12
MAX_OF_DEVICES = 1000
# Subjects are kept as RFC 4514 text, with a backslash before these.
_SPECIAL = re.compile(r"([,+\"\\<>;])")


def found_by(term: str, rows: QuerySet[Certificate]) -> QuerySet[Certificate]:
    """Those of ``rows`` that the words fit; all of them without words.

    Serial numbers and SHA-256 fingerprints with or without colons, in either case, whole or their first
    digits; any part of the subject and of the alternative names; the device that holds it, where a higher app
    knows (``BRAMLEY_CERTIFICATE_FINDERS``).
    """
    term = term.strip()
    if not term:
        return rows
    digits = normal_hexadecimal(term)
    if digits:
        by_number = rows.filter(_number(digits))
        if len(digits) >= SURE_DIGITS and by_number.exists():
            return by_number
    wanted = Q(subject__icontains=term) | Q(subject_alternative_name__icontains=term)
    if (escaped := _SPECIAL.sub(r"\\\1", term)) != term:
        wanted |= Q(subject__icontains=escaped)
    if digits:
        wanted |= _number(digits)
    if of_devices := certificates_of(term):
        wanted |= Q(pk__in=of_devices)
    return rows.filter(wanted)


def _number(digits: str) -> Q:
    """A beginning as a range: an ordinary index answers it, whatever the collation of the database."""
    wanted = Q(serial_number=digits) | Q(sha256=digits.lower())
    if MIN_PREFIX <= len(digits) < 64:
        low = digits.lower()
        wanted |= Q(serial_number__gte=digits, serial_number__lt=f"{digits}G")
        wanted |= Q(sha256__gte=low, sha256__lt=f"{low}g")
    return wanted


def certificates_of(device: str) -> list[int]:
    """The keys of certificates that devices of this serial number, UDID or name hold or held."""
    found: list[int] = []
    for path in settings.BRAMLEY_CERTIFICATE_FINDERS:
        find: Callable[[str, int], Iterable[int]] = import_string(path)
        found += find(device, MAX_OF_DEVICES)
    return found[:MAX_OF_DEVICES]
