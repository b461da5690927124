"""Both forms of the answer to GetCACert: one certificate, or a PKCS #7 with a chain or an RA."""

from __future__ import annotations

import pytest
from django.utils import timezone

from audit.recording import SERVER
from enrollment.models import EnrollmentProfile
from pki import issuers
from pki.core import cms
from pki.models import Issuer
from pki.subordinate import create_subordinate
from scep import services
from scep.core import wire
from scep.models import CaForm, Transaction
from simulator.exchange import Request, Response, SimulationError, converse
from simulator.identity import read_ca_certificates
from tests.simulator.in_process import InProcess
from tests.simulator.test_enrolment import URL, make_device

pytestmark = pytest.mark.django_db


class Listening(InProcess):
    """Keeps the content types of the answers to GetCACert."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[str] = []

    def send(self, request: Request) -> Response:
        response = super().send(request)
        if "operation=GetCACert" in request.url:
            self.forms.append(response.headers["content-type"])
        return response


@pytest.fixture
def below(profile: EnrollmentProfile, issuer: Issuer) -> Issuer:
    """A CA below ``bramley``, by which devices enrol."""
    made = create_subordinate(
        "branch", "Branch CA", parent=issuer, algorithm="RSA-2048", years=5, actor=SERVER, now=timezone.now()
    )
    profile.issuer = made
    profile.save()
    return made


@pytest.mark.parametrize(
    ("form", "own", "content_type"),
    [
        (CaForm.SINGLE, False, wire.CA_CERTIFICATE),
        (CaForm.CHAIN, False, wire.CA_CERTIFICATES),
        (CaForm.SINGLE, True, wire.CA_CERTIFICATES),
    ],
    ids=["single", "chain", "ra"],
)
def test_a_device_enrols_with_each_form(below: Issuer, form: CaForm, own: bool, content_type: str) -> None:
    service = services.of_issuer(below)
    service.ca_form, service.ra_certificate = form, own
    services.save(service, actor=SERVER)
    device, server = make_device(1), Listening()
    converse(device.enrol(URL), server.send)
    assert server.forms == [content_type]
    assert Transaction.objects.get().status == "SUCCESS"
    assert device.enrolled is not None


def test_what_is_no_ca_certificate_is_refused(issuer: Issuer) -> None:
    ca, leaf = issuers.chain(issuer)[0], b"\x30\x03\x02\x01\x01"
    assert read_ca_certificates(cms.degenerate([ca]), wire.CA_CERTIFICATES).recipient == ca
    for body, content_type in (
        (ca, "text/html"),
        (leaf, wire.CA_CERTIFICATE),
        (ca, wire.CA_CERTIFICATES),
        (cms.degenerate([]), wire.CA_CERTIFICATES),
        (cms.degenerate([leaf]), wire.CA_CERTIFICATES),
    ):
        with pytest.raises(SimulationError, match="GetCACert"):
            read_ca_certificates(body, content_type)
