"""Fixtures that several apps' tests share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from django.db import connection
from hypothesis import settings as hypothesis_settings

from tests.support.server import RunningServer
from tests.support.services import Missing, Postgres, Redis

# A busy machine is not a failure.
hypothesis_settings.register_profile("bramley", deadline=None)
hypothesis_settings.load_profile("bramley")


SQLITE = "bramley.sqlite3"
THE_TEST_DATABASE = {"db", "transactional_db", "live_server", "django_db_setup"}
THE_PRODUCT = {"start_server", "running_server"}
"""These start it on PostgreSQL and Redis where the suite runs on them."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What does not touch the test database is not run a second time on PostgreSQL (tools/run_tests.py)."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if not item.get_closest_marker("django_db") and not fixtures & (THE_TEST_DATABASE | THE_PRODUCT):
            item.add_marker("once")


S = TypeVar("S", Postgres, Redis)


class StartServer(Protocol):
    """Start the product; the arguments are those of :class:`RunningServer`, ``home`` is made where absent."""

    def __call__(self, home: Path | None = None, **options: Any) -> RunningServer: ...


@pytest.fixture(scope="module")
def start_server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[StartServer]:
    """A function that starts the product; all that it started ends with the module.

    In the suite's run on PostgreSQL it starts there, with Redis, and with several processes of each kind. The
    tables are there already: what makes them at a first start is tested in tests/project/test_start.py.
    """
    with ExitStack() as stack:

        def start(home: Path | None = None, **options: Any) -> RunningServer:
            home = home or tmp_path_factory.mktemp("home")
            if "database_url" not in options:
                if connection.vendor == "postgresql":
                    options |= _services(request)
                elif not (database := home / SQLITE).exists():
                    home.mkdir(parents=True, exist_ok=True, mode=0o700)
                    shutil.copy2(request.getfixturevalue("sqlite_with_tables"), database)
            return stack.enter_context(RunningServer(home, **options))

        yield start


_started = count()


def _services(request: pytest.FixtureRequest) -> dict[str, str]:
    """A database of its own, and one of the sixteen of Redis, so that none works off another's messages."""
    number = next(_started)
    postgres, redis = request.getfixturevalue("postgres"), request.getfixturevalue("redis_server")
    template = request.getfixturevalue("postgres_with_tables")
    return {
        "database_url": postgres.create_database(f"product_{number}", template=template),
        "redis_url": redis.url.removesuffix("/0") + f"/{1 + number % 15}",
    }


@pytest.fixture(scope="session")
def sqlite_with_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to copy: making the tables takes as long as all else that a server does at its start."""
    home = tmp_path_factory.mktemp("tables")
    RunningServer(home).manage("migrate", "--verbosity", "0")
    return home / SQLITE


@pytest.fixture(scope="session")
def postgres_with_tables(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> str:
    """The name of a database to copy, as above."""
    name = "product_template"
    server = RunningServer(tmp_path_factory.mktemp("tables"), database_url=postgres.create_database(name))
    server.manage("migrate", "--verbosity", "0")
    return name


@pytest.fixture(scope="module")
def running_server(start_server: StartServer) -> RunningServer:
    """The product, one for the module."""
    return start_server()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL for the session; ``postgres.create_database(name)`` gives a ``DATABASE_URL``."""
    yield from _run(Postgres)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A real Redis for the session; ``redis_server.url`` is a ``REDIS_URL``."""
    yield from _run(Redis)


def _run(make: Callable[[], S]) -> Iterator[S]:
    try:
        service = make()
    except Missing as reason:
        pytest.skip(str(reason))
    with service:
        yield service
