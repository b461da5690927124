"""Statements prepared on one connection to PostgreSQL, and run by libpq's own calls (``psycopg.pq``).

psycopg's cursor asks in many small steps whether an answer has come; here the thread waits in libpq, without
the interpreter's lock. Values and rows are converted by psycopg's adapters, rows in binary form.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import psycopg
from psycopg.adapt import AdaptersMap, Loader, PyFormat, Transformer
from psycopg.pq import ConnStatus, ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.types.net import InetBinaryLoader
from psycopg.types.numeric import Int8BinaryDumper

Row = tuple[Any, ...]
Connection: TypeAlias = psycopg.Connection[Any]

AT_MOST = 256
"""Statements that are prepared on one connection: they take the database's memory. Others are only bound."""

_GONE = frozenset({"26000", "0A000"})
"""SQLSTATE where the database has lost a statement (DISCARD ALL, a pooler), or where it gives other columns
since a table was changed. Both are told before anything is carried out."""
_WELL = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)
_IDLE = TransactionStatus.IDLE


class Statements:
    """The statements of one connection, which one thread uses at a time.

    ``%s`` stands for a parameter. Errors are psycopg's. Where the connection is not in autocommit, its
    transaction begins with the first statement, as psycopg has it.
    """

    def __init__(self, adapters: AdaptersMap, *, prepares: bool) -> None:
        self._values = Transformer(adapters)
        self._prepares = prepares
        self._names: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._numbers = itertools.count(1)

    def row(self, connection: Connection, sql: str, parameters: Sequence[Any]) -> Row | None:
        """The first row that the statement gives."""
        result = self._run(connection, sql, parameters)
        if not result.ntuples:
            return None
        values = self._values
        values.set_pgresult(result)
        found = values.load_row(0, tuple)
        values.set_pgresult(None)
        return found

    def rows(self, connection: Connection, sql: str, parameters: Sequence[Any]) -> list[Row]:
        """All rows that the statement gives."""
        result = self._run(connection, sql, parameters)
        values = self._values
        values.set_pgresult(result)
        found = values.load_rows(0, result.ntuples, tuple)
        values.set_pgresult(None)
        return found

    def changes(self, connection: Connection, sql: str, parameters: Sequence[Any]) -> int:
        """How many rows the statement changed."""
        return self._run(connection, sql, parameters).command_tuples or 0

    def forget(self) -> None:
        """Prepare anew whatever runs next: the database no longer has what was prepared."""
        self._names.clear()

    def _run(self, connection: Connection, sql: str, parameters: Sequence[Any]) -> PGresult:
        pgconn = connection.pgconn
        autocommit = connection.autocommit
        if not autocommit and pgconn.transaction_status == _IDLE:
            _verify(pgconn, pgconn.exec_(b"BEGIN"))
        try:
            return self._execute(pgconn, sql, parameters)
        except psycopg.Error as error:
            if error.sqlstate not in _GONE or not self._names:
                raise
            self.forget()
            if not autocommit:
                raise
        return self._execute(pgconn, sql, parameters)

    def _execute(self, pgconn: PGconn, sql: str, parameters: Sequence[Any]) -> PGresult:
        values = self._values
        dumped: Any = values.dump_sequence(parameters, [PyFormat.AUTO] * len(parameters))
        types = values.types or ()
        if name := self._names.get((sql, types)) or self._prepare(pgconn, sql, types):
            result = pgconn.exec_prepared(name, dumped, values.formats, Format.BINARY)
        else:
            result = pgconn.exec_params(_numbered(sql), dumped, types, values.formats, Format.BINARY)
        return _verify(pgconn, result)

    def _prepare(self, pgconn: PGconn, sql: str, types: tuple[int, ...]) -> bytes:
        """The name of the statement; empty where it is not to be prepared."""
        if not self._prepares or len(self._names) >= AT_MOST:
            return b""
        name = b"bramley_%d" % next(self._numbers)
        _verify(pgconn, pgconn.prepare(name, _numbered(sql), types))
        self._names[sql, types] = name
        return name


_of_connections: WeakKeyDictionary[Connection, Statements] = WeakKeyDictionary()


def of_connection(connection: Connection) -> Statements:
    """What is prepared on this connection, by whatever thread."""
    found = _of_connections.get(connection)
    if found is None:
        prepares = connection.prepare_threshold is not None
        found = _of_connections[connection] = Statements(_adapters(connection.adapters), prepares=prepares)
    return found


def _verify(pgconn: PGconn, result: PGresult) -> PGresult:
    if result.status in _WELL:
        return result
    if pgconn.status == ConnStatus.BAD:
        raise psycopg.OperationalError(pgconn.get_error_message())
    raise psycopg.errors.error_from_result(result)


@lru_cache(maxsize=512)
def _numbered(sql: str) -> bytes:
    """``%s`` as ``$1``, ``$2`` and so on."""
    numbers = itertools.count(1)
    return re.sub("%[s%]", lambda found: "%" if found[0] == "%%" else f"${next(numbers)}", sql).encode()


class _JsonbAsText(Loader):
    """As Django has it loaded, in the binary form: one byte that tells its version, and the text."""

    format = Format.BINARY

    def load(self, data: Any) -> str:
        return bytes(data)[1:].decode()


class _InetAsText(InetBinaryLoader):
    """As Django has it loaded."""

    def load(self, data: Any) -> Any:
        return str(super().load(data))


def _adapters(of_django: AdaptersMap) -> AdaptersMap:
    """Values as Django's cursors take and give them, rows in binary form.

    Every connection has adapters of its own: these end with it too.
    """
    adapters = AdaptersMap(of_django)
    # One width for every integer: else 1 and 100000 are parameters of two different statements.
    adapters.register_dumper(int, Int8BinaryDumper)
    adapters.register_loader("jsonb", _JsonbAsText)
    adapters.register_loader("inet", _InetAsText)
    return adapters
