"""pkilint on what the product signs: certificates and CRLs (RFC 5280), OCSP responses (RFC 6960)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pkilint import loader, pkix
from pkilint.pkix import certificate, crl, extension, name, ocsp
from pkilint.validation import ValidationFindingSeverity

REPORTED = ValidationFindingSeverity.WARNING


def lint_certificate(der: bytes) -> list[str]:
    """What pkilint finds wrong with a certificate: errors and warnings."""
    document = loader.RFC5280CertificateDocumentLoader().load_der_document(der, "certificate")
    return _findings(_certificate_validator(), document)


def lint_crl(der: bytes) -> list[str]:
    """What pkilint finds wrong with a CRL."""
    document = loader.RFC5280CertificateListDocumentLoader().load_der_document(der, "crl")
    return _findings(_crl_validator(), document)


def lint_ocsp_response(der: bytes) -> list[str]:
    """What pkilint finds wrong with an OCSP response."""
    document = loader.RFC6960OCSPResponseDocumentLoader().load_der_document(der, "response")
    return _findings(_ocsp_validator(), document)


def _findings(validator: Any, document: Any) -> list[str]:
    return [
        f"{found.finding.severity.name} {found.finding.code} at {result.node.path}: {found.message or ''}"
        for result in validator.validate(document.root)
        for found in result.finding_descriptions
        # FATAL is 0, and the more a number says the less it matters.
        if found.finding.severity <= REPORTED
    ]


@lru_cache
def _certificate_validator() -> Any:
    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )


@lru_cache
def _crl_validator() -> Any:
    return crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container([]),
            crl.create_extensions_validator_container([]),
        ],
    )


@lru_cache
def _ocsp_validator() -> Any:
    return ocsp.create_pkix_ocsp_response_validator_container(
        [
            ocsp.create_response_decoder(),
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [],
    )
