"""Which push topic devices get, and what stands in the way of managing real ones."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from django.utils.translation import gettext as _

from enrollment.models import EnrollmentProfile
from pki import issuers, server_tls
from push import certificates


@dataclass(frozen=True)
class Topic:
    """The topic of the MDM payload. ``provisional``: no push certificate stands behind it."""

    value: str
    provisional: bool


def topic_of(profile: EnrollmentProfile) -> Topic:
    """The profile's own topic, else that of the push certificate in use, else a provisional one.

    The provisional one lets a fresh installation be tried out, with the simulator above all: such devices
    enrol and answer, but cannot be woken, and have to enrol again once there is a push certificate, since
    Apple fixes the topic for the life of an enrolment.
    """
    if profile.topic:
        return Topic(profile.topic, provisional=certificates.active(profile.topic) is None)
    if topic := certificates.only_topic():
        return Topic(topic, provisional=False)
    return Topic(f"com.apple.mgmt.Bramley.{profile.payload_uuid}", provisional=True)


def obstacles(profile: EnrollmentProfile) -> list[str]:
    """What keeps real devices from enrolling or from being woken, in words for an administrator."""
    found = []
    if not settings.BRAMLEY_PUBLIC_URL.startswith("https://"):
        found.append(
            _("The public address is not https: Apple devices refuse to enrol. Set BRAMLEY_PUBLIC_URL.")
        )
    if profile.pin_tls and not _tls_roots():
        found.append(_("The server's TLS is pinned, but its root is not known: add it under Roots for TLS."))
    if topic_of(profile).provisional:
        found.append(
            _("No push certificate for this topic: devices enrol but cannot be woken.")
            if profile.topic
            else _(
                "No push certificate yet: devices enrol but cannot be woken, "
                "and have to enrol again when there is one."
            )
        )
    return found


def _tls_roots() -> list[bytes]:
    try:
        return server_tls.anchors()
    except issuers.IssuerMissing:
        return []
