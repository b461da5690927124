"""What hangs on a push topic: ways to enrol that name it, and devices that listen to it."""

from __future__ import annotations

from dataclasses import dataclass

from django.apps import apps
from django.urls import NoReverseMatch, reverse

from push.certificates import only_topic

# Ways to enrol belong to an app above this one: named, not imported, and only to be shown.
_WAYS = "enrollment.EnrollmentProfile"


@dataclass(frozen=True)
class WayToEnrol:
    """``chosen``: it names the topic itself; otherwise it takes that of the newest certificate."""

    name: str
    url: str
    chosen: bool


def ways_to_enrol(topic: str) -> list[WayToEnrol]:
    """The ways to enrol whose devices get this topic from now on."""
    newest = only_topic()
    rows = apps.get_model(_WAYS)._default_manager.order_by("pk").values_list("pk", "name", "topic")
    return [
        WayToEnrol(str(name), _address(pk), chosen=bool(own))
        for pk, name, own in rows
        if (own or newest) == topic
    ]


def _address(pk: int) -> str:
    try:
        return reverse("admin:enrollment_enrollmentprofile_change", args=[pk])
    except NoReverseMatch:
        return ""
