"""The OpenAPI document, and the page that shows it."""

from __future__ import annotations

from typing import Any, Literal

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework import serializers


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """``Authorization: Bearer …`` in the document."""

    target_class = "api.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "bramley_<prefix>_<secret>",
            "description": "An API token, made in the console under Access. It has scopes, and can expire.",
        }


class Problem(serializers.Serializer[Any]):
    """Why the request was not carried out."""

    detail = serializers.CharField(help_text="For people; may change.")


class FieldProblems(serializers.Serializer[Any]):
    """What is wrong, by field; ``detail`` where it is no field's fault."""

    detail = serializers.CharField(required=False)


class ApiSchema(AutoSchema):
    """Adds what every operation can also answer, and the scope that it needs."""

    def get_summary(self) -> str:
        """The first sentence of what the method does."""
        description: str = super().get_description()
        return description.partition(". ")[0].partition(": ")[0].rstrip(".")

    def get_description(self) -> str:  # type: ignore[override]  # it has no arguments in the parent either
        description: str = super().get_description()
        scope = getattr(self.view, "scopes", {}).get(self.method)
        return f"{description}\n\nScope: `{scope}`".strip()

    def _get_response_bodies(self, direction: Literal["request", "response"] = "response") -> dict[str, Any]:
        bodies: dict[str, Any] = super()._get_response_bodies(direction)
        for code in self._other_codes():
            serializer = FieldProblems if code == "400" else Problem
            body = self._get_response_for_code(serializer, code, ["application/json"])  # type: ignore[no-untyped-call]
            bodies.setdefault(code, body)
        return bodies

    def _other_codes(self) -> list[str]:
        codes = ["401", "403"]
        if self.method == "POST" or self._is_list_view():
            codes.append("400")
        if self.method == "POST":
            codes.append("413")
        if "{" in self.path or self._is_list_view():
            codes.append("404")
        return sorted(codes)


class Schema(SpectacularAPIView):
    """The document holds nothing that the source doesn't: it is open, so that tools can read it."""

    authentication_classes: list[Any] = []
    permission_classes: list[Any] = []
    schema = None


class Docs(SpectacularSwaggerSplitView):
    """Swagger UI from our own static files; its settings come as a script of our own address."""

    authentication_classes: list[Any] = []
    permission_classes: list[Any] = []
    template_name = "api/docs.html"
    title = "Bramley API"
    schema = None
