"""What a device gets: ``{CommandUUID, Command}`` (apple-mdm 2.1)."""

from __future__ import annotations

from uuid import UUID

from commands.core.plist import FOOTER, HEADER, PlistError

_OPEN = HEADER + b"<dict>\n<key>Command</key>\n"
_MIDDLE = b"\n<key>CommandUUID</key>\n<string>"
_CLOSE = b"</string>\n</dict>" + FOOTER


def encode_envelope(command: bytes, command_uuid: UUID) -> bytes:
    """Put a stored Command dictionary into its envelope.

    ``command`` is what :func:`commands.core.plist.write` made of the dictionary; it is taken over as it is.
    Raises :class:`PlistError` where it is anything else.
    """
    if not command.startswith(HEADER) or not command.endswith(FOOTER):
        raise PlistError("not a property list that was written here")
    return b"".join((_OPEN, command[len(HEADER) : -len(FOOTER)], _MIDDLE, str(command_uuid).encode(), _CLOSE))
