"""One-time SCEP challenges, made for scripted enrolment."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from api.scopes import CHALLENGES_WRITE
from api.views import Guarded, actor_of
from pki import issuers
from pki.models import Issuer, Purpose
from scep import challenges

MAX_AT_ONCE = 1000
PURPOSES = (Purpose.MDM_IDENTITY, Purpose.SERVER_TLS)


class ChallengeRequest(serializers.Serializer[Any]):
    count = serializers.IntegerField(default=1, min_value=1, max_value=MAX_AT_ONCE)
    cn = serializers.CharField(
        default="",
        max_length=64,
        allow_blank=True,
        help_text="Common name of the certificate. {n} stands for 1, 2, …; empty: a random name each.",
    )
    ttl = serializers.IntegerField(
        default=60, min_value=1, max_value=24 * 60, help_text="Minutes until they expire."
    )
    issuer = serializers.SlugField(default="", allow_blank=True, help_text="Empty: the default issuer.")
    purpose = serializers.ChoiceField(choices=[(p.value, p.label) for p in PURPOSES], default=PURPOSES[0])
    dns_name = serializers.CharField(default="", max_length=253, allow_blank=True)


class MintedChallenge(serializers.Serializer[Any]):
    challenge = serializers.CharField(help_text="The value. It is shown here and never again.")
    subject = serializers.CharField()
    expires_at = serializers.DateTimeField()


class ChallengeCreate(Guarded):
    scopes = {"POST": CHALLENGES_WRITE}

    @extend_schema(
        operation_id="challenges_create",
        request=ChallengeRequest,
        responses={201: MintedChallenge(many=True)},
    )
    def post(self, request: Request) -> Response:
        """Make one-time challenges. What the certificates will hold is decided here, not by the device."""
        wanted = ChallengeRequest(data=request.data)
        wanted.is_valid(raise_exception=True)
        asked = wanted.validated_data
        try:
            minted = challenges.create_challenges(
                challenges.numbered(asked["cn"], asked["count"]),
                issuer=_issuer(asked["issuer"]),
                purpose=Purpose(asked["purpose"]),
                san=[("DNS", asked["dns_name"])] if asked["dns_name"] else [],
                ttl=timedelta(minutes=asked["ttl"]),
                actor=actor_of(request),
                now=timezone.now(),
            )
        except challenges.ChallengeError as error:
            raise serializers.ValidationError({"detail": error.reason}) from None
        rows = [
            {"challenge": value, "subject": str(challenge), "expires_at": challenge.expires_at}
            for challenge, value in minted
        ]
        return Response(MintedChallenge(rows, many=True).data, status=status.HTTP_201_CREATED)


def _issuer(slug: str) -> Issuer:
    try:
        return Issuer.objects.get(slug=slug) if slug else issuers.default_issuer()
    except (Issuer.DoesNotExist, issuers.IssuerMissing):
        raise serializers.ValidationError({"issuer": ["There is no such issuer."]}) from None
