"""JSON bodies: bounded, strict, and never a fault of the server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import BaseParser
from rest_framework.renderers import JSONRenderer

MAX_BODY = 6 * 1024 * 1024
"""Base64 of the largest payload that a command may have, with room for the rest."""


class TooLarge(APIException):
    status_code = 413
    default_detail = f"The body is larger than {MAX_BODY // 1024 // 1024} MiB."
    default_code = "too_large"


class StrictJSONParser(BaseParser):
    """UTF-8 JSON of one object: no NaN, no key twice, no half characters."""

    media_type = "application/json"
    renderer_class = JSONRenderer

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        data = _read(stream)
        try:
            text = data.decode("utf-8")
            value = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise ParseError("The body is not valid JSON.") from None
        if not isinstance(value, dict):
            raise ParseError("The body is not a JSON object.")
        if "\\u" in text:
            _verify_characters(value)
        return value


def _read(stream: IO[Any]) -> bytes:
    try:
        announced = int(getattr(stream, "META", {}).get("CONTENT_LENGTH") or 0)
    except ValueError:
        announced = 0
    if announced > MAX_BODY:
        raise TooLarge
    data: bytes = stream.read(MAX_BODY + 1)
    if len(data) > MAX_BODY:
        raise TooLarge
    return data


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _verify_characters(value: dict[str, Any]) -> None:
    """``\\ud800`` alone is JSON, but no text: no database and no encoder takes it."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ParseError("A text holds half of a surrogate pair.") from None
