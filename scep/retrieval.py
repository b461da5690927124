"""GetCert and GetCRL (RFC 8894 sections 4.5 and 4.6): what a client may fetch again.

Both answer SUCCESS or FAILURE, never PENDING. Whatever is wrong, the failure is badCertId: nobody learns
which serial numbers exist.
"""

from __future__ import annotations

from django.db import transaction

from pki import issuers, revocation
from pki.models import Certificate, Crl, IssuerCertificate, IssuerKey, IssuerKeyState
from scep import signers, transactions
from scep.core.attributes import FailInfo, MessageType
from scep.core.decision import Refusal
from scep.core.message import OpenedQuery
from scep.core.queries import IssuerAndSerialNumber
from scep.models import ScepService
from scep.transactions import Asked, Outcome, Retrieved

_ANSWERED = (IssuerKeyState.CURRENT, IssuerKeyState.PREVIOUS, IssuerKeyState.CLOSED)


def fetch(asked: Asked, opened: OpenedQuery) -> Outcome:
    """Decide and record."""
    message_type = MessageType(asked.request.header.message_type)
    outcome: Outcome
    if message_type is MessageType.GET_CERT:
        outcome = _certificate(asked, opened.asked)
    else:
        outcome = _crl(asked.service, opened.asked)
    with transaction.atomic():
        transactions.record(asked, opened, None, outcome)
    return outcome


def _certificate(asked: Asked, wanted: IssuerAndSerialNumber) -> Outcome:
    """One's own certificate, not everybody's: this is no directory (section 2.6)."""
    row = _issued(asked.service, wanted)
    if row is None:
        return Refusal(FailInfo.BAD_CERT_ID, f"no certificate {wanted.serial_number[:40]} of this issuer")
    if not signers.may_fetch(asked.request.signer, row, asked.service, asked.now):
        return Refusal(FailInfo.BAD_CERT_ID, f"the certificate {row.serial_number} is somebody else's")
    return Retrieved(certificates=(bytes(row.der),), certificate=row)


def _crl(service: ScepService, wanted: IssuerAndSerialNumber) -> Outcome:
    """The newest list of the key that issued the named certificate; CRLs are public."""
    issuer_key = _issuing_key(service, wanted)
    if issuer_key is None:
        return Refusal(FailInfo.BAD_CERT_ID, "the named issuer is not that of this service")
    try:
        crl = revocation.current_crl(issuer_key)
    except Crl.DoesNotExist:
        return Refusal(FailInfo.BAD_CERT_ID, f"no CRL of {issuer_key} has been published")
    return Retrieved(crls=(bytes(crl.der),), note=f"CRL of generation {issuer_key.generation}")


def _issued(service: ScepService, wanted: IssuerAndSerialNumber) -> Certificate | None:
    row = (
        Certificate.objects.select_related("issuer_key")
        .filter(issuer_key__issuer=service.issuer, serial_number=wanted.serial_number[:40], foreign=False)
        .first()
    )
    return row if row is not None and _is_named(row.issuer_key, wanted.issuer) else None


def _issuing_key(service: ScepService, wanted: IssuerAndSerialNumber) -> IssuerKey | None:
    """The key that issued the certificate; for one that is not known, the current key of that name."""
    row = _issued(service, wanted)
    if row is not None:
        return row.issuer_key
    keys = IssuerKey.objects.filter(issuer=service.issuer, state__in=_ANSWERED).order_by("-generation")
    ordered = sorted(keys, key=lambda key: _ANSWERED.index(IssuerKeyState(key.state)))
    return next((key for key in ordered if _is_named(key, wanted.issuer)), None)


def _is_named(issuer_key: IssuerKey, name: str) -> bool:
    """Names are compared as text: some clients encode them anew."""
    subjects = IssuerCertificate.objects.filter(issuer_key=issuer_key, kind__in=issuers.OWN_KINDS)
    return any(row.subject == name[:500] for row in subjects.only("subject"))
