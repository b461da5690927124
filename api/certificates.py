"""Issued certificates: find, download, revoke."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate
from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from api import filters
from api.scopes import CERTIFICATES_READ, CERTIFICATES_REVOKE
from api.views import DetailOf, Guarded, ListOf, actor_of
from pki import revocation
from pki.models import Certificate, CertificateStatus, Purpose, RevocationReason


class CertificateSerializer(serializers.ModelSerializer[Certificate]):
    issuer = serializers.CharField(source="issuer_key.issuer.slug", read_only=True)
    device = serializers.SerializerMethodField(help_text="Id of the device whose identity it is.")

    class Meta:
        model = Certificate
        fields = [
            "id",
            "serial_number",
            "subject",
            "subject_alternative_name",
            "issuer",
            "purpose",
            "not_before",
            "not_after",
            "status",
            "sha256",
            "public_key_sha256",
            "foreign",
            "renewed_from",
            "device",
            "first_used_at",
            "revoked_at",
            "revocation_reason",
            "created_at",
        ]

    def get_device(self, certificate: Certificate) -> int | None:
        identity = getattr(certificate, "identity", None)
        return identity.enrollment.device_id if identity else None


class CertificateFilter(filters.Filters):
    serial_number = filters.CharFilter(lookup_expr="iexact", help_text="Hexadecimal.")
    sha256 = filters.CharFilter(lookup_expr="iexact")
    subject = filters.CharFilter(lookup_expr="icontains", help_text="Part of the subject.")
    purpose = filters.ChoiceFilter(choices=Purpose.choices)
    status = filters.ChoiceFilter(choices=CertificateStatus.choices)
    issuer = filters.CharFilter(field_name="issuer_key__issuer__slug", help_text="Short name.")
    device = filters.NumberFilter(field_name="identity__enrollment__device_id")
    expires_after = filters.IsoDateTimeFilter(field_name="not_after", lookup_expr="gte")
    expires_before = filters.IsoDateTimeFilter(field_name="not_after", lookup_expr="lt")

    class Meta:
        model = Certificate
        fields: list[str] = []


class RevokeSerializer(serializers.Serializer[Any]):
    reason = serializers.ChoiceField(
        choices=RevocationReason.choices,
        default=RevocationReason.UNSPECIFIED,
        help_text="As RFC 5280 section 5.3.1 names it.",
    )


class CertificateList(ListOf):
    scopes = {"GET": CERTIFICATES_READ}
    serializer_class = CertificateSerializer
    filterset_class = CertificateFilter
    ordering_fields = ("not_after",)

    def get_queryset(self) -> QuerySet[Certificate]:
        return certificates().defer("der")

    @extend_schema(operation_id="certificates_list")
    def get(self, *args: Any, **kwargs: Any) -> Any:
        """List issued certificates."""
        return super().get(*args, **kwargs)


class CertificateDetail(DetailOf):
    scopes = {"GET": CERTIFICATES_READ}
    serializer_class = CertificateSerializer

    def get_queryset(self) -> QuerySet[Certificate]:
        return certificates()

    @extend_schema(operation_id="certificates_retrieve")
    def get(self, *args: Any, **kwargs: Any) -> Any:
        """One certificate."""
        return super().get(*args, **kwargs)


class CertificatePem(Guarded):
    scopes = {"GET": CERTIFICATES_READ}

    @extend_schema(
        operation_id="certificates_pem",
        responses={(200, "application/x-pem-file"): OpenApiTypes.STR},
    )
    def get(self, request: Request, pk: int) -> HttpResponse:
        """The certificate itself, as PEM."""
        certificate = get_object_or_404(Certificate, pk=pk)
        pem = load_der_x509_certificate(bytes(certificate.der)).public_bytes(Encoding.PEM)
        return HttpResponse(
            pem,
            content_type="application/x-pem-file",
            headers={"Content-Disposition": f'attachment; filename="{certificate.serial_number}.pem"'},
        )


class CertificateRevoke(Guarded):
    scopes = {"POST": CERTIFICATES_REVOKE}

    @extend_schema(
        operation_id="certificates_revoke", request=RevokeSerializer, responses={200: CertificateSerializer}
    )
    def post(self, request: Request, pk: int) -> Response:
        """Revoke the certificate: refused here at once, and on the next CRL."""
        certificate = get_object_or_404(certificates(), pk=pk)
        wanted = RevokeSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        try:
            certificate = revocation.revoke(
                certificate,
                reason=RevocationReason(wanted.validated_data["reason"]),
                actor=actor_of(request),
                now=timezone.now(),
            )
        except revocation.RevocationRefused as refused:
            raise serializers.ValidationError({"detail": refused.reason}) from None
        return Response(CertificateSerializer(certificate).data)


def certificates() -> QuerySet[Certificate]:
    """Certificates with what their answers need at hand."""
    return Certificate.objects.select_related("issuer_key__issuer", "identity__enrollment").defer(
        "issuer_key__private_key_sealed"
    )
