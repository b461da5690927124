"""The pool of connections to PostgreSQL, as the settings make it."""

from __future__ import annotations

import pytest
from psycopg_pool import ConnectionPool, PoolTimeout

from mdm_project import environment
from tests.support.processes import wait_until
from tests.support.services import Missing, Postgres


def test_after_an_outage_the_next_request_finds_the_database_however_long_it_was() -> None:
    try:
        postgres = Postgres()  # made, not started
    except Missing as reason:
        pytest.skip(str(reason))
    options = environment.database(postgres.url())["OPTIONS"]["pool"]
    with ConnectionPool(postgres.url(), open=True, **options) as pool:

        def tried_some_times() -> bool:
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout=0.2)
            return pool.get_stats()["connections_errors"] >= 8

        wait_until("it tried some times", tried_some_times)
        with postgres, pool.connection() as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
