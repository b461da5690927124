"""Who calls: ``Authorization: Bearer bramley_…``. Sessions and cookies count for nothing."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from api import tokens
from api.models import ApiToken
from audit import recording

CHALLENGE = 'Bearer realm="Bramley"'


class TokenAuthentication(BaseAuthentication):
    """``request.user`` becomes the token's user, ``request.auth`` the token."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _space, presented = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        try:
            token = tokens.identify(presented.decode("ascii", "replace").strip(), timezone.now())
        except tokens.TokenRefused as refused:
            recording.refuse("api", refused.reason, remote_addr=remote_address(request), target=refused.token)
            # One answer for all: whether the token was ever good is nobody's business.
            raise AuthenticationFailed("Invalid token.") from None
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return CHALLENGE


def remote_address(request: Request) -> str:
    """The address of the connection."""
    return str(request.META.get("REMOTE_ADDR", ""))
