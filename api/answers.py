"""What devices answered, for programs: the queue's own rule says what is a secret, data stays data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commands.core.masking import MASK, masked


def without_secrets(report: Mapping[str, Any]) -> dict[str, Any]:
    """The answer with its secrets masked. Other data is kept, where pages for people only count its bytes."""
    return {key: _merged(value, masked(value, str(key))) for key, value in report.items()}


def _merged(original: Any, shown: Any) -> Any:
    if isinstance(original, bytes):
        return shown if shown == MASK else original
    if isinstance(original, Mapping):
        return {key: _merged(value, shown[key]) for key, value in original.items()}
    if isinstance(original, list | tuple):
        return [_merged(value, seen) for value, seen in zip(original, shown, strict=True)]
    return shown
