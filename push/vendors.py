"""Requests for push certificates, signed by an MDM vendor: here, or elsewhere and brought back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from django.db import IntegrityError, models, transaction
from django.utils.translation import gettext as _

from audit.models import Outcome
from audit.recording import Actor, record
from pki.core.pem import blocks
from push import provenance
from push.certificates import PushCertificateRefused
from push.core import apple, pushcert, vendor
from push.models import PushCertificate, PushCertificateState, VendorCertificate
from vault.sealed import seal, unseal


def import_vendor(
    data: bytes, *, password: str = "", private_key: bytes = b"", actor: Actor, now: datetime
) -> VendorCertificate:
    """Keep an MDM vendor's certificate with its key: PEM, DER with the key apart, or PKCS #12.

    What stands above it may come in the file, and is known for Apple's own. Raises
    :class:`PushCertificateRefused`; a refusal is recorded, and changes nothing else.
    """
    with _refusals_recorded("vendor_certificate.imported", actor, now):
        file = pushcert.decode_file(data, password=password)
        key = pushcert.decode_private_key(private_key, password=password) if private_key else file.private_key
        facts = vendor.verify_current(vendor.describe(file.certificate), now=now)
        if key is None:
            raise pushcert.KeyMismatch(
                _("The file has no private key. Give the key with which the certificate was requested.")
            )
        if pushcert.public_key_of(key) != facts.public_key:
            raise pushcert.KeyMismatch(_("The private key does not belong to the vendor's certificate."))
        above = vendor.complete_chain(
            file.certificate,
            file.chain,
            intermediates=apple.INTERMEDIATES,
            roots=provenance.roots(),
            now=now,
        )
        row = VendorCertificate(
            common_name=facts.common_name,
            serial_number=facts.serial_number[:40],
            not_before=facts.not_before,
            not_after=facts.not_after,
            der=file.certificate,
            sha256=hashlib.sha256(file.certificate).hexdigest(),
            chain=pushcert.encode_certificate_pem(*above),
        )
        row.private_key_sealed = seal(key, context=_context(row))
        return _keep(row, actor, now)


def _keep(row: VendorCertificate, actor: Actor, now: datetime) -> VendorCertificate:
    try:
        with transaction.atomic():
            row.save()
            record(
                "vendor_certificate.imported",
                actor=actor,
                target=row,
                details={"serial_number": row.serial_number, "not_after": row.not_after.isoformat()},
                at=now,
            )
    except IntegrityError:
        raise PushCertificateRefused(_("This vendor certificate is here already.")) from None
    return row


def usable_vendors(now: datetime) -> models.QuerySet[VendorCertificate]:
    """With which a request can be signed now, the one that lasts longest first."""
    return VendorCertificate.objects.filter(
        retired_at__isnull=True, not_before__lte=now, not_after__gt=now
    ).order_by("-not_after", "-id")


def retire_vendor(row: VendorCertificate, *, actor: Actor, now: datetime) -> None:
    """Sign nothing with it any more. Push certificates that were asked for with it stay good."""
    with transaction.atomic():
        if not VendorCertificate.objects.filter(pk=row.pk, retired_at__isnull=True).update(retired_at=now):
            raise PushCertificateRefused(_("This vendor certificate is out of use already."))
        record("vendor_certificate.retired", actor=actor, target=row, at=now)


def sign_request(
    request: PushCertificate, signer: VendorCertificate, *, actor: Actor, now: datetime
) -> PushCertificate:
    """Make what Apple's portal takes, with a vendor's key that is kept here.

    Raises :class:`PushCertificateRefused` where the request is answered already or the vendor's certificate
    is not (or no longer) good. A refusal is recorded, and changes nothing else.
    """
    with _refusals_recorded("push_certificate.request_signed", actor, now, request):
        if not usable_vendors(now).filter(pk=signer.pk).exists():
            raise PushCertificateRefused(_("The vendor certificate has expired or is out of use."))
        certificates = [bytes(signer.der), *_chain(signer)]
        made = vendor.sign(bytes(request.csr), _private_key(signer), certificates)
        action = "push_certificate.request_signed"
        return _signed(
            request, made, by=str(signer), sha256=signer.sha256, action=action, actor=actor, now=now
        )


def import_signed_request(
    data: bytes, request: PushCertificate | None = None, *, actor: Actor, now: datetime
) -> PushCertificate:
    """Keep what a vendor returned, if it is this request (or one of ours) with the vendor's good signature.

    Raises :class:`PushCertificateRefused`; a refusal is recorded, and changes nothing else.
    """
    with _refusals_recorded("push_certificate.signed_request_imported", actor, now, request):
        signed = vendor.decode(data)
        found = request or _request_of(signed.request)
        facts = vendor.verify(signed, request=bytes(found.csr))
        vendor.verify_current(facts, now=now)
        vendor.complete_chain(
            signed.chain[0],
            signed.chain[1:],
            intermediates=apple.INTERMEDIATES,
            roots=provenance.roots(),
            now=now,
        )
        return _signed(
            found,
            vendor.normalise(data),
            by=facts.common_name,
            sha256=hashlib.sha256(signed.chain[0]).hexdigest(),
            action="push_certificate.signed_request_imported",
            actor=actor,
            now=now,
        )


def _request_of(csr: bytes) -> PushCertificate:
    for row in PushCertificate.objects.filter(state=PushCertificateState.REQUESTED).defer(
        "private_key_sealed"
    ):
        if bytes(row.csr) == csr:
            return row
    raise vendor.NotOurRequest(
        _("The vendor signed a request that was not made here, or is answered already.")
    )


def _signed(
    request: PushCertificate,
    made: bytes,
    *,
    by: str,
    sha256: str,
    action: str,
    actor: Actor,
    now: datetime,
) -> PushCertificate:
    with transaction.atomic():
        open_ones = PushCertificate.objects.filter(pk=request.pk, state=PushCertificateState.REQUESTED)
        if not open_ones.update(signed_request=made, signed_by=by[:200]):
            raise PushCertificateRefused(_("This request is answered already: make a new one to renew."))
        record(action, actor=actor, target=request, details={"vendor_sha256": sha256}, at=now)
    request.signed_request, request.signed_by = made, by[:200]
    return request


@contextmanager
def _refusals_recorded(
    action: str, actor: Actor, now: datetime, target: PushCertificate | None = None
) -> Iterator[None]:
    try:
        yield
    except (pushcert.PushCertError, PushCertificateRefused) as error:
        reason = str(error)
        record(action, actor=actor, target=target, outcome=Outcome.REFUSED, reason=reason, at=now)
        if isinstance(error, PushCertificateRefused):
            raise
        raise PushCertificateRefused(reason) from error


def _chain(row: VendorCertificate) -> list[bytes]:
    return [pushcert.decode_file(block).certificate for _label, block in blocks(bytes(row.chain))]


def _private_key(row: VendorCertificate) -> bytes:
    return unseal(bytes(row.private_key_sealed), context=_context(row))


def _context(row: VendorCertificate) -> str:
    return f"push.vendorcertificate.private_key:{row.uuid}"
