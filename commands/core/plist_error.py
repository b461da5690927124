"""The one error of property lists."""

from __future__ import annotations


class PlistError(Exception):
    """The input is not a property list that is accepted here. The text says why, without its content."""
