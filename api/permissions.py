"""What a token may do."""

from __future__ import annotations

from rest_framework.permissions import IsAuthenticated


class HasScope(IsAuthenticated):
    pass
