"""Postgres for as long as it is wanted, with the migrations applied: for tests, measurements and what is generated."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local import database
from local.postgres import SUPERUSER, Cluster
from local.stack import free_port


@contextmanager
def migrated(home: Path, *, durable: bool = False) -> Iterator[Cluster]:
    """In `home`, on a port of its own; the functions' login has the password of all logins here."""
    cluster = Cluster(home, free_port(), secrets.token_urlsafe(12), home / "postgres.log", durable=durable)
    cluster.initialise()
    cluster.start()
    try:
        database.create_roles(cluster)
        with cluster.connect(SUPERUSER) as connection:
            database.create_schemas(connection)
        with cluster.connect() as connection:
            database.migrate(connection)
            database.set_functions_password(connection, cluster.password)
        yield cluster
    finally:
        cluster.stop()
