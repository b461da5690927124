"""Sending what is due."""

from __future__ import annotations


def run() -> None:
    """Send everything that is due."""
