"""The embedded broker: a folder of messages, for one machine, without a server.

kombu's own ``filesystem`` transport is not used because it shows a message before it is written: a worker
that looks at that moment reads half of it. Two workers that share a temporary folder on another file system
can take the same one. Here a message is written aside and renamed into place, and taken by renaming it
away; both are atomic within one folder.

A worker that is killed loses what it had taken. That is a lost wake-up, never lost work: commands and due
pushes are rows, and the sweeps of Celery beat find them (design, decision 2).
"""

from __future__ import annotations

import itertools
import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.utils.json import dumps, loads

SCHEME = "folder"
TRANSPORT_ALIASES[SCHEME] = "mdm_project.embedded_broker:Transport"

_sequence = itertools.count()


class Channel(virtual.Channel):
    """Queues as files ``<time>-<sequence>-<unique>.<queue>.msg`` in the folder of the transport options."""

    supports_fanout = False

    @property
    def folder(self) -> Path:
        client = self.connection.client
        if client is None or not client.transport_options:
            raise RuntimeError("the embedded broker is closed or has no folder")
        return Path(client.transport_options["folder"])

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        name = f"{time.time_ns():020d}-{next(_sequence):08d}-{uuid.uuid4().hex}.{queue}.msg"
        aside = self.folder / f".{name}"
        aside.write_text(dumps(message))
        aside.rename(self.folder / name)

    def _get(self, queue: str, timeout: float | None = None) -> dict[str, Any]:
        for name in self._messages(queue):
            taken = self.folder / f".taken-{name}"
            try:
                (self.folder / name).rename(taken)
            except FileNotFoundError:
                continue  # another worker was faster
            text = taken.read_text()
            taken.unlink()
            message: dict[str, Any] = loads(text)
            return message
        raise Empty

    def _messages(self, queue: str) -> list[str]:
        """Names of the waiting messages of ``queue``, oldest first."""
        suffix = f".{queue}.msg"
        names = (path.name for path in self.folder.iterdir())
        return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))

    def _size(self, queue: str) -> int:
        return len(self._messages(queue))

    def _purge(self, queue: str) -> int:
        names = self._messages(queue)
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
        return len(names)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left half written or taken. Call it while no worker runs."""
    for path in folder.glob(".*.msg"):
        path.unlink(missing_ok=True)


class Transport(virtual.Transport):
    """Transport options: ``folder`` (exists, mode 0700), ``polling_interval`` in seconds."""

    Channel = Channel
    default_port = 0
    driver_type = "folder"
    driver_name = "folder"
    implements = virtual.Transport.implements.extend(
        asynchronous=False, exchange_type=frozenset(["direct", "topic"])
    )
    # Exchanges and bindings of this process: whoever publishes or consumes declares the one queue.
    bindings = virtual.BrokerState()

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.state = self.bindings

    def driver_version(self) -> str:
        return "1"
