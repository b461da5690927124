"""The admin's pages of renewals and permits: renew one device, let an expired one in, try again, withdraw."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from devices.models import Enrollment, EnrollmentState
from renewal import identities
from renewal.models import IdentityRenewal, RenewalPermit, RenewalState
from simulator.exchange import SimulationError
from tests.renewal.phones import ADA, Phone
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
LIST = "/admin/renewal/identityrenewal/"
PERMITS = "/admin/renewal/renewalpermit/"


@pytest.fixture
def root(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="x"))
    return client


def of_device(phone: Phone) -> str:
    return reverse("admin:renewal_identityrenewal_device", args=[phone.enrollment.device_id])


def text(client: Client, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, address
    return answer.content.decode()


def test_one_device_is_renewed(root: Client, phone: Phone) -> None:
    assert "No renewal here." in text(root, LIST)
    before = phone.certificate
    page = text(root, of_device(phone))
    assert "It stays enrolled and keeps its commands" in page
    answer = root.post(of_device(phone))
    assert answer.status_code == 302
    assert answer["Location"] == reverse("admin:devices_device_change", args=[phone.enrollment.device_id])
    with no_change():
        assert "It is being renewed already." in root.post(of_device(phone)).content.decode()
    phone.connect()
    assert phone.certificate != before
    page = text(root, LIST)
    assert "new certificate in use" in page
    page = text(root, reverse("admin:renewal_identityrenewal_change", args=[phone.renewals[0].pk]))
    assert before.serial_number in page
    assert phone.certificate.serial_number in page
    assert "Try again…" not in page


def test_an_expired_device_is_let_in_and_the_permit_can_be_withdrawn(root: Client, phone: Phone) -> None:
    assert "No permit here." in text(root, PERMITS)
    phone.end_certificate()
    page = text(root, of_device(phone))
    assert "Let this expired device in for one renewal" in page
    with no_change():
        assert root.post(of_device(phone), {"days": 31}).status_code == 200
        assert root.post(of_device(phone), {"days": 0}).status_code == 200
    assert root.post(of_device(phone), {"days": 2, "note": "in a drawer"}).status_code == 302
    permit = RenewalPermit.objects.get()
    assert (permit.granted_by, permit.note) == ("root", "in a drawer")
    assert permit.until - permit.granted_at == timedelta(days=2)
    assert "another one replaces it" in text(root, of_device(phone))
    assert "in a drawer" in text(root, f"{PERMITS}?is=open")
    assert "in a drawer" not in text(root, f"{PERMITS}?is=used")

    page = reverse("admin:renewal_renewalpermit_change", args=[permit.pk])
    withdraw = reverse("admin:renewal_renewalpermit_withdraw", args=[permit.pk])
    assert withdraw in text(root, page)
    assert "refused again" in text(root, withdraw)
    assert root.post(withdraw).status_code == 302
    assert withdraw not in text(root, page)
    with pytest.raises(SimulationError):
        phone.connect()
    with no_change():
        assert root.post(withdraw).status_code == 302
    assert "in a drawer" in text(root, f"{PERMITS}?is=withdrawn")

    assert root.post(of_device(phone), {"days": 7}).status_code == 302
    phone.connect()
    assert phone.certificate.not_after > timezone.now()
    assert RenewalPermit.objects.filter(used_at__isnull=False).count() == 1


def test_failures_are_tried_again(root: Client, phone: Phone, other: Phone) -> None:
    now = timezone.now()
    for one in (phone, other):
        identities.renew(one.enrollment, actor=ADA, now=now)
    IdentityRenewal.objects.update(state=RenewalState.FAILED, error="out of luck", finished_at=now)
    page = text(root, reverse("admin:renewal_identityrenewal_change", args=[phone.renewals[0].pk]))
    assert of_device(phone) in page
    assert "out of luck" in text(root, f"{LIST}?state__exact=FAILED")
    Enrollment.objects.filter(pk=other.enrollment.pk).update(state=EnrollmentState.CHECKED_OUT)
    failed = list(IdentityRenewal.objects.values_list("pk", flat=True))
    answer = root.post(LIST, {"action": "try_again", "_selected_action": failed}, follow=True)
    said = answer.content.decode()
    assert "1 device is asked again. 1 is not: the device is not enrolled." in said
    assert "Only the first" not in said
    assert [renewal.state for renewal in phone.renewals] == [RenewalState.FAILED, RenewalState.PLANNED]
    assert IdentityRenewal.objects.filter(state=RenewalState.PLANNED).count() == 1


def test_nobody_is_left_out_unsaid(
    root: Client, phone: Phone, other: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("renewal.admin_identities.MOST_AT_ONCE", 1)
    for one in (phone, other):
        identities.renew(one.enrollment, actor=ADA, now=timezone.now())
    IdentityRenewal.objects.update(state=RenewalState.FAILED, finished_at=timezone.now())
    failed = list(IdentityRenewal.objects.values_list("pk", flat=True))
    said = root.post(LIST, {"action": "try_again", "_selected_action": failed}, follow=True).content.decode()
    assert "1 device is asked again. Only the first 1 of those chosen were looked at" in said
    assert IdentityRenewal.objects.filter(state=RenewalState.PLANNED).count() == 1


def test_a_device_that_is_not_enrolled_has_no_such_page(root: Client, phone: Phone) -> None:
    address = of_device(phone)
    Enrollment.objects.update(state=EnrollmentState.CHECKED_OUT)
    with no_change():
        assert root.get(address).status_code == 404
        assert root.post(address).status_code == 404
        assert root.get(reverse("admin:renewal_identityrenewal_device", args=[0])).status_code == 404


def test_who_may_only_look(phone: Phone) -> None:
    user = User.objects.create_user("eve", password="x", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(codename__in=["view_identityrenewal", "view_renewalpermit"])
    )
    client = Client()
    client.force_login(user)
    assert "Try again" not in text(client, LIST)
    with no_change():
        assert client.post(of_device(phone)).status_code == 403
    phone.end_certificate()
    renewal = identities.renew(phone.enrollment, actor=ADA, now=timezone.now())
    permit = RenewalPermit.objects.create(
        enrollment=phone.enrollment,
        certificate=phone.certificate,
        renewal=renewal,
        granted_by="ada",
        granted_at=timezone.now(),
        until=timezone.now() + timedelta(days=1),
    )
    with no_change():
        assert client.post(of_device(phone), {"days": 1}).status_code == 403
        withdraw = reverse("admin:renewal_renewalpermit_withdraw", args=[permit.pk])
        assert client.post(withdraw).status_code == 403
        page = text(client, reverse("admin:renewal_renewalpermit_change", args=[permit.pk]))
        assert withdraw not in page


def test_the_page_of_a_device_leads_there(root: Client, phone: Phone) -> None:
    page = text(root, reverse("admin:devices_device_change", args=[phone.enrollment.device_id]))
    assert of_device(phone) in page
    assert "Renew certificate…" in page
    phone.end_certificate()
    page = text(root, reverse("admin:devices_device_change", args=[phone.enrollment.device_id]))
    assert "Let in for one renewal…" in page
    assert "Let it in for one renewal, or enrol it again." in page
    Enrollment.objects.update(state=EnrollmentState.CHECKED_OUT)
    device = Enrollment.objects.get().device_id
    page = text(root, reverse("admin:devices_device_change", args=[device]))
    assert reverse("admin:renewal_identityrenewal_device", args=[device]) not in page
