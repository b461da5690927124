"""Which certificates belong to a device that somebody names (``BRAMLEY_CERTIFICATE_FINDERS``)."""

from __future__ import annotations

from django.db.models import Q

from devices.models import Device, Identity

MIN_LETTERS = 3


def certificates_of(term: str, limit: int) -> list[int]:
    """The keys of the certificates that devices hold or held, the newest first; at most ``limit``.

    ``term``: a serial number or UDID as a whole, in either case; else part of a name, three letters or more.
    """
    devices = Device.objects.filter(
        Q(serial_number__in={term, term.upper()}) | Q(udid__in={term, term.upper(), term.lower()})
    )
    if len(term) >= MIN_LETTERS and not devices.exists():
        devices = Device.objects.filter(name__icontains=term)
    rows = Identity.objects.filter(enrollment__device__in=devices.values("pk")).order_by("-pk")
    return list(rows.values_list("certificate_id", flat=True)[:limit])
