"""What a token may do. A view says which scope each method needs; what it doesn't say is denied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from api.scopes import SCOPES

if TYPE_CHECKING:  # the framework's views import this module by its name in the settings
    from rest_framework.views import APIView

    from api.models import ApiToken


class HasScope(BasePermission):
    """The token holds the view's scope for this method, and the token's user the permissions behind it."""

    message = "Not allowed."

    def has_permission(self, request: Request, view: APIView) -> bool:
        if request.auth is None:
            return False
        token = cast("ApiToken", request.auth)
        method = str(request.method)
        if not hasattr(view, method.lower()):
            return True  # nothing there to protect: it is answered with 405
        scopes: Mapping[str, str] = getattr(view, "scopes", {})
        scope = SCOPES.get(scopes.get("GET" if method == "HEAD" else method, ""))
        if scope is None:
            return False
        if scope.name not in token.scopes:
            self.message = f"The token lacks the scope {scope.name}."
            return False
        if not token.user.has_perms(scope.permissions):
            self.message = f"The user of the token may not do this (scope {scope.name})."
            return False
        return True
