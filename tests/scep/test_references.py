"""What an enrolment points at without a constraint of the database: by how it comes and never goes."""

from __future__ import annotations

import pytest
from django.db import connection
from django.db.models import ProtectedError

from pki import issuers
from pki.models import Certificate, Issuer, IssuerKey
from scep.models import ScepService, Transaction
from tests.scep.asking import enrol
from tests.scep.conftest import Mint
from tests.scep.support import Door
from tests.support.snapshot import no_change
from tests.support.sources import modules_with

pytestmark = pytest.mark.django_db


def _referenced(table: str) -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT confrelid::regclass::text FROM pg_constraint "
            "WHERE conrelid = %s::regclass AND contype = 'f'",
            [table],
        )
        return {name for (name,) in cursor.fetchall()}


def test_only_what_may_be_deleted_is_checked_by_the_database() -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite keeps all of them")
    assert _referenced("scep_transaction") == {"scep_challenge"}
    assert _referenced("pki_certificate") == {"pki_certificate"}
    # What keeps keys and issuers from being deleted by hand.
    assert "pki_issuerkey" in _referenced("pki_issuercertificate")
    assert "pki_issuer" in _referenced("pki_issuerkey")


def test_nobody_deletes_them() -> None:
    """No line of ours deletes an issuer, a key, a service or a certificate, and no page offers it."""
    deletes = (
        r"\b(Issuer|IssuerKey|ScepService|Certificate)\.(objects|_base_manager)\b[^\n]*\.(delete|_raw_delete)\("
        r"|DELETE FROM (\{(Issuer|IssuerKey|ScepService|Certificate)\b|pki_|scep_)"
        r"|\b(issuer|issuer_key|service|certificate)\.delete\("
    )
    assert modules_with(deletes) == set()


def test_the_models_refuse_to_delete_them(
    door: Door, mint: Mint, issuer: Issuer, service: ScepService, ca_certificate: bytes
) -> None:
    enrol(door, ca_certificate, mint()[1])
    certificate = Certificate.objects.get()
    key = issuers.current_key(issuer)
    for row in (certificate, service, key, issuer):
        with no_change(), pytest.raises(ProtectedError):
            row.delete()
    for rows in (Certificate, ScepService, IssuerKey, Issuer):
        with no_change(), pytest.raises(ProtectedError):
            rows.objects.all().delete()
    assert Transaction.objects.get().certificate == certificate
