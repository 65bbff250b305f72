"""What hosted Supabase has in a new database; then migrations and demo data, as the Supabase CLI would apply them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from local import ROOT, StackError
from local.postgres import SUPERUSER, Cluster

HERE = Path(__file__).parent
MIGRATIONS = ROOT / "supabase" / "migrations"
SEED = ROOT / "supabase" / "seed.sql"
Connection = psycopg.Connection[Any]


def create_roles(cluster: Cluster) -> None:
    with cluster.connect(SUPERUSER) as connection, connection.transaction():
        statements = sql.SQL(_own("roles.sql")).format(password=sql.Literal(cluster.password))
        connection.execute(statements)


def create_schemas(connection: Connection) -> None:
    """Make a new, empty database look like that of a hosted project; `connection` is the superuser's."""
    with connection.transaction():
        connection.execute(_own("schemas.sql"))
        connection.execute(_own("realtime.sql"))
        for service in ("auth", "storage"):
            connection.execute(sql.SQL("set local role {}").format(sql.Identifier(f"supabase_{service}_admin")))
            connection.execute(_own(f"{service}.sql"))
        connection.execute("reset role")


def migrate(connection: Connection, applied: Callable[[str], None] = lambda _name: None) -> None:
    """Apply what is missing, one transaction a file, recorded where the Supabase CLI records it."""
    connection.execute("create schema if not exists supabase_migrations")
    connection.execute(
        "create table if not exists supabase_migrations.schema_migrations"
        " (version text primary key, statements text[], name text)"
    )
    known = {version for (version,) in connection.execute("select version from supabase_migrations.schema_migrations")}
    for version, name, path in migrations():
        if version in known:
            continue
        text = path.read_text()
        try:
            with connection.transaction():
                connection.execute(text)
                connection.execute(
                    "insert into supabase_migrations.schema_migrations (version, statements, name) values (%s, %s, %s)",
                    [version, [text], name],
                )
        except psycopg.Error as error:
            raise StackError(f"Migration {path.name} failed: {_explain(error, text)}") from error
        applied(path.name)


def set_functions_password(connection: Connection, password: str) -> None:
    """The migration creates the functions' login without a password. Hosted, an operator sets it."""
    connection.execute(sql.SQL("alter role strive_functions password {}").format(sql.Literal(password)))


def pending(connection: Connection) -> list[str]:
    """The files that have not been applied yet."""
    known = {version for (version,) in connection.execute("select version from supabase_migrations.schema_migrations")}
    return [path.name for version, _, path in migrations() if version not in known]


def edited(connection: Connection) -> list[str]:
    """Applied migrations whose file was changed or deleted afterwards."""
    files = {version: path.read_text() for version, _, path in migrations()}
    rows = connection.execute("select version, name, statements from supabase_migrations.schema_migrations order by 1")
    return [f"{version}_{name}.sql" for version, name, statements in rows if "".join(statements) != files.get(version)]


def migrations() -> Iterator[tuple[str, str, Path]]:
    for path in sorted(MIGRATIONS.glob("*.sql")):
        version, _, name = path.stem.partition("_")
        yield version, name, path


def seed(connection: Connection) -> None:
    text = SEED.read_text()
    try:
        with connection.transaction():
            connection.execute(text)
    except psycopg.Error as error:
        raise StackError(f"supabase/seed.sql failed: {_explain(error, text)}") from error


def _own(file: str) -> str:
    return (HERE / file).read_text()


def _explain(error: psycopg.Error, text: str) -> str:
    diagnostics = error.diag
    parts = [str(diagnostics.message_primary or error)]
    if diagnostics.statement_position:
        parts.append(f"line {text.count(chr(10), 0, int(diagnostics.statement_position)) + 1}")
    parts += [part for part in (diagnostics.message_detail, diagnostics.message_hint, diagnostics.context) if part]
    return "\n  ".join(parts)
