"""Attacks on other tenants: insert, move, reference, write and detect their rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from tests.database.isolation.catalog import ForeignKey, Table, keys_across_tenants
from tests.database.isolation.expected import Expected
from tests.database.isolation.matrix import Matrix
from tests.database.isolation.specimens import OWNERS
from tests.support.world import ACME, GLOBEX, Connection, Database, become, claims_of

EXPECTED = Expected.read()
TENANT_TABLES = [name for name in EXPECTED.lines if "." not in name and "ours select" in EXPECTED.lines[name]]
OURS = [
    "leads",
    "customers",
    "custom_agent_orders",
    "activity_feeds",
    "content",
    "dashboard_widgets",
    "tool_blueprints",
]


@pytest.fixture
def owner(matrix: Matrix, database: Database) -> Iterator[Connection]:
    """A connection of Acme's owner to the database of the matrix, where every table has rows of both tenants."""
    assert matrix.specimens.rows
    with acting(database, "owner") as connection:
        yield connection


@contextmanager
def acting(database: Database, person: str) -> Iterator[Connection]:
    with database.connect("authenticator") as connection:
        connection.autocommit = False
        become(connection, "authenticated", claims_of(person), {})
        yield connection
        connection.rollback()


@pytest.mark.parametrize("table", OURS)
def test_attack_plant_a_row_in_another_tenant(matrix: Matrix, owner: Connection, table: str) -> None:
    planned = matrix.specimens.planned[table]["theirs"]
    columns = [name for name in planned if matrix.catalog[table].columns[name].insertable and name != "user_id"]
    statement = sql.SQL("insert into {} ({}) values ({})").format(
        sql.Identifier("public", table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", ").join(sql.Placeholder() for _ in columns),
    )
    values = [uuid4() if name == "id" else planned[name] for name in columns]
    with pytest.raises(InsufficientPrivilege, match="row-level security"):
        owner.execute(statement, values)


@pytest.mark.parametrize("table", OURS)
def test_attack_move_a_row_to_another_tenant(owner: Connection, table: str) -> None:
    with pytest.raises(InsufficientPrivilege):
        owner.execute(f"update public.{table} set organization_id = %s where organization_id = %s", [GLOBEX, ACME])


@pytest.mark.parametrize("table", OURS)
def test_attack_pull_a_row_of_another_tenant_over(owner: Connection, table: str) -> None:
    try:
        pulled = owner.execute(
            f"update public.{table} set organization_id = %s where organization_id = %s", [ACME, GLOBEX]
        )
    except InsufficientPrivilege:
        return
    assert pulled.rowcount == 0


# Pointing at a row of another tenant ---------------------------------------------------------------------------------


def refusal(connection: Connection, statement: sql.SQL | sql.Composed, ids: list[object]) -> str:
    """The error the client receives, without the id it sent itself; empty if nothing was refused."""
    try:
        with connection.transaction(force_rollback=True):
            return "" if connection.execute(statement).rowcount else "no row"
    except psycopg.Error as error:
        error_text = (
            f"{error.sqlstate} {error.diag.message_primary} {error.diag.message_detail} {error.diag.message_hint}"
        )
        for each in ids:
            error_text = error_text.replace(str(each), "<id>")
        return error_text


def pointing(table: Table, key: ForeignKey, matrix: Matrix, target: UUID) -> Iterator[sql.Composed]:
    """Statements by which a client could make a row of its own point at `target`."""
    column = next(name for name in key.columns if name != "organization_id")
    kind = next(kind for kind in matrix.specimens.rows[table.name] if kind.startswith("ours"))
    row = {**matrix.specimens.planned[table.name][kind], column: target}
    if table.columns[column].insertable:
        row = {name: value for name, value in row.items() if table.columns[name].insertable and name != "id"}
        yield sql.SQL("insert into {} ({}) values ({})").format(
            sql.SQL(table.sql),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.Literal(value) for value in row.values()),
        )
    if table.columns[column].updatable:
        yield sql.SQL("update {} set {} = {} where {} = {}").format(
            sql.SQL(table.sql),
            sql.Identifier(column),
            sql.Literal(target),
            sql.SQL(table.key_text),
            sql.Literal(matrix.specimens.keys[table.name][kind]),
        )


@pytest.mark.parametrize("name", TENANT_TABLES)
def test_attack_probe_rows_of_another_tenant_by_reference(matrix: Matrix, owner: Connection, name: str) -> None:
    table = matrix.catalog[name]
    for key in table.foreign_keys:
        parent = key.parent.removeprefix("public.")
        if parent in {"organizations", "auth.users"}:
            continue
        theirs = hidden_target(matrix, key, parent)
        nothing = uuid4()
        pairs = zip(pointing(table, key, matrix, theirs), pointing(table, key, matrix, nothing), strict=True)
        for real, imagined in pairs:
            error_text = refusal(owner, real, [theirs, nothing])
            assert error_text, f"{key.name} lets a row point into another tenant"
            assert error_text == refusal(owner, imagined, [theirs, nothing])


# Rows that a tenant cannot read directly, but gets from an operation.
SHOWN_OTHERWISE = {"system_alerts": {"system", "system for Acme", "system for GROWTH", "system lasting"}}


def hidden_target(matrix: Matrix, key: ForeignKey, parent: str) -> UUID:
    """A row or person to reference that Acme's owner cannot see."""
    if parent in {"users", "organization_members"}:
        return OWNERS["theirs"][1]
    column = next(name for name in key.parent_columns if name != "organization_id")
    kind = next(
        kind
        for kind in matrix.specimens.rows[parent]
        if EXPECTED.lines[parent][f"{kind} select"]["ownr"] == "." and kind not in SHOWN_OTHERWISE.get(parent, ())
    )
    return UUID(matrix.specimens.rows[parent][kind][column])


# Learning of rows of another tenant ----------------------------------------------------------------------------------


@pytest.mark.parametrize("person", ["outsider", "globex_owner"])
@pytest.mark.parametrize("name", [name for name in EXPECTED.lines if "." not in name])
def test_attack_read_hidden_rows_through_errors(matrix: Matrix, database: Database, name: str, person: str) -> None:
    """A failing cast reveals the text; it must never be evaluated on a row that the policies hide."""
    table = matrix.catalog[name]
    column = {"outsider": "outs", "globex_owner": "othr"}[person]
    hidden = [kind for kind in matrix.specimens.rows[name] if EXPECTED.lines[name][f"{kind} select"][column] == "."]
    keys = [key for kind in hidden for key in matrix.specimens.keys[name][kind].split(",")]
    with acting(database, person) as connection:
        for condition in ("t::text::integer = 0", "1 / (length(t::text) - length(t::text)) = 0"):
            error_text = refusal(connection, sql.SQL(f"select count(*) from {table.sql} t where {condition}"), [])
            assert not any(key in error_text for key in keys)


def test_attack_detect_a_row_by_a_unique_key(matrix: Matrix) -> None:
    """Only these client-writable keys span tenants: a conflict reveals that another tenant has the value."""
    assert keys_across_tenants(matrix.connection) == EXPECTED.keys_across_tenants


def test_attack_copy_rows_out(matrix: Matrix, database: Database) -> None:
    assert matrix.specimens.rows
    with acting(database, "outsider") as connection, connection.cursor() as cursor:
        for table in ("leads", "organizations", "activity_logs", "subscriptions"):
            with cursor.copy(f"copy (select * from public.{table}) to stdout") as copied:
                assert b"".join(bytes(block) for block in copied) == b""


def test_attack_copy_rows_in(owner: Connection) -> None:
    with (
        pytest.raises(psycopg.errors.FeatureNotSupported),
        owner.cursor().copy("copy public.leads (organization_id, name) from stdin") as copied,
    ):
        copied.write_row([GLOBEX, "planted"])


# Writing what is public ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["agent_templates", "tool_blueprints", "project_showcases", "content"])
def test_attack_write_public_rows_of_another_tenant(matrix: Matrix, owner: Connection, table: str) -> None:
    key = matrix.specimens.keys[table]["theirs public"]
    before = f"select to_jsonb(t) from public.{table} t where id = %s"
    seen = owner.execute(before, [key]).fetchone()
    assert seen
    assert (
        owner.execute(
            f"update public.{table} set description = 'mine' where id = %s"
            if table != "content"
            else f"update public.{table} set excerpt = 'mine' where id = %s",
            [key],
        ).rowcount
        == 0
    )
    assert owner.execute(f"delete from public.{table} where id = %s", [key]).rowcount == 0
    assert owner.execute(before, [key]).fetchone() == seen


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("users", "global_role = 'SUPER_ADMIN'"),
        ("organizations", "subscription_tier = 'ENTERPRISE'"),
        ("organizations", "subscription_status = 'ACTIVE'"),
        ("organizations", "stripe_customer_id = 'cus_other'"),
        ("subscriptions", "tier = 'ENTERPRISE'"),
        ("onboarding_sessions", "payment_status = 'SUCCEEDED'"),
        ("onboarding_sessions", "is_completed = true"),
        ("custom_agent_orders", "status = 'DELIVERED'"),
        ("custom_agent_orders", "estimated_cost = 0"),
        ("custom_agent_orders", "created_by_id = auth.uid()"),
        ("custom_agent_orders", "assigned_to_id = auth.uid()"),
        ("agent_templates", "is_system = true"),
        ("agent_templates", "rating = 5"),
        ("agent_templates", "usage_count = 1000"),
        ("project_showcases", "is_featured = true"),
        ("project_showcases", "likes = 1000"),
        ("project_showcases", "views = 1000"),
        ("tool_blueprints", "usage_count = 1000"),
        ("template_reviews", "reviewer_id = auth.uid()"),
        ("activities", "created_by_id = auth.uid()"),
        ("activity_feeds", "user_id = auth.uid()"),
        ("activity_feeds", "title = 'rewritten'"),
        ("build_logs", "message = 'rewritten'"),
        ("activity_logs", "action = 'rewritten'"),
        ("tasks", "created_by = auth.uid()"),
        ("content", "author_id = auth.uid()"),
        ("content", "published_at = 'epoch'"),
        ("attachments", "uploaded_by_id = auth.uid()"),
        ("attachments", "file_path = 'elsewhere'"),
        ("notifications", "message = 'rewritten'"),
        ("ai_conversations", "usage_tokens = 0"),
        ("usage_tracking", "usage_amount = 0"),
        ("quick_actions", "usage_count = 1000"),
        ("dashboard_metrics", "cached_value = 1"),
        ("dashboard_widgets", "created_by = auth.uid()"),
        ("leads", "converted_contact_id = null"),
        ("organization_invitations", "accepted_at = null"),
        ("organization_members", "joined_at = 'epoch'"),
    ],
)
def test_attack_forge_claims_of_the_server(owner: Connection, table: str, change: str) -> None:
    with pytest.raises(InsufficientPrivilege, match="permission denied"):
        owner.execute(f"update public.{table} set {change}")


def test_attack_make_a_system_template(matrix: Matrix, owner: Connection) -> None:
    planned = matrix.specimens.planned["agent_templates"]["system"]
    columns = [name for name in planned if matrix.catalog["agent_templates"].columns[name].insertable]
    statement = sql.SQL("insert into public.agent_templates ({}) values ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(sql.Placeholder() for _ in columns)
    )
    with pytest.raises(InsufficientPrivilege, match="row-level security"):
        owner.execute(statement, [planned[name] for name in columns])


def test_attack_read_or_guess_onboarding_sessions(matrix: Matrix, owner: Connection) -> None:
    assert matrix.specimens.rows["onboarding_sessions"]
    assert owner.execute("select * from public.onboarding_sessions").fetchall() == []
    guess = "select * from public.onboarding_sessions where token_hash = repeat(%s, 64)"
    assert [owner.execute(guess, [digit]).fetchall() for digit in "123"] == [[], [], []]
