"""A temporary Postgres with all migrations, for tests, measurements and generators."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local import database
from local.postgres import SUPERUSER, Cluster
from local.stack import free_port


@contextmanager
def migrated(home: Path, *, durable: bool = False) -> Iterator[Cluster]:
    """Run it in `home` on a free port; all logins have the same password."""
    cluster = Cluster(home, free_port(), secrets.token_urlsafe(12), home / "postgres.log", durable=durable)
    cluster.initialize()
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
