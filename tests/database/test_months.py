"""The activity log is stored by month; old months are archived and stay part of history, exports and erasure."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.support.world import ACME, PEOPLE, Database, become, claims_of

Connection = psycopg.Connection[Any]
LOG, ARCHIVE = "public.activity_logs", "private.archived_activity_logs"


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        yield connection


def add(connection: Connection, months_ago: int, record: UUID | None = None) -> UUID:
    row = connection.execute(
        f"insert into {LOG} (organization_id, user_id, action, resource_type, resource_id, ip_address, created_at)"
        " values (%s, %s, 'updated', 'leads', %s, '192.0.2.1', now() - make_interval(months => %s)) returning id",
        [ACME, PEOPLE["member"], record or uuid4(), months_ago],
    ).fetchone()
    assert row
    return UUID(str(row[0]))


def place(connection: Connection, entry: UUID) -> str:
    query = f"select tableoid::regclass::text from {LOG} where id = %s union all"
    row = connection.execute(f"{query} select tableoid::regclass::text from {ARCHIVE} where id = %s", [entry] * 2)
    ((found,),) = row.fetchall()
    return str(found)


def archive(connection: Connection, kept: int) -> int:
    return int(value(connection, "select private.archive_months(%s::regclass, %s::regclass, %s)", LOG, ARCHIVE, kept))


def value(connection: Connection, query: str, *values: Any) -> Any:
    row = connection.execute(query, values).fetchone()
    assert row
    return row[0]


def test_old_months_are_archived_and_stay_in_the_history_of_a_record(connection: Connection) -> None:
    record = uuid4()
    entries = [add(connection, months_ago, record) for months_ago in (0, 1, 5, 9)]
    assert archive(connection, 3) == 9
    assert archive(connection, 3) == 0
    assert [place(connection, entry).startswith("partitions.activity_logs_20") for entry in entries] == [True] * 4
    archived = [row[0] for row in connection.execute(f"select id from {ARCHIVE} order by created_at desc")]
    assert archived == entries[2:]
    become(connection, "authenticated", claims_of("owner"), {})
    pages = "select entry_id from public.record_history('leads', %s, page_size => %s)"
    assert [row[0] for row in connection.execute(pages, [record, 50])] == entries
    assert [row[0] for row in connection.execute(pages, [record, 3])] == entries[:3]


def test_archived_entries_are_part_of_an_export(connection: Connection) -> None:
    add(connection, 9)
    archive(connection, 3)
    query = value(connection, "select private.export_query(%s, 'ndjson', true)", ARCHIVE)
    lines = connection.execute(query.replace("$1", "%s"), [ACME]).fetchall()
    assert len(lines) == 1


def test_attack_change_or_read_archived_entries(connection: Connection) -> None:
    entry = add(connection, 9)
    archive(connection, 3)
    for statement in (f"update {ARCHIVE} set action = 'x' where id = %s", f"delete from {ARCHIVE} where id = %s"):
        with pytest.raises(psycopg.Error, match="append-only"), connection.transaction():
            connection.execute(statement, [entry])
    for role in ("authenticated", "service_role", "anon"):
        for table in (ARCHIVE, place(connection, entry), "partitions.activity_logs_future"):
            query = f"select set_config('role', '{role}', true); select from {table}"
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(query)


def test_archived_entries_go_with_their_organization(connection: Connection) -> None:
    add(connection, 9)
    archive(connection, 3)
    connection.execute("delete from public.organizations where id = %s", [ACME])
    assert value(connection, f"select count(*) from {ARCHIVE}") == 0


def test_addresses_of_a_deleted_account_are_cleared_in_the_archive(connection: Connection) -> None:
    add(connection, 9)
    archive(connection, 3)
    connection.execute(
        "update public.users set deleted_at = now(), is_active = false where id = %s", [PEOPLE["member"]]
    )
    connection.execute("select private.erase_user(%s)", [PEOPLE["member"]])
    assert value(connection, f"select ip_address from {ARCHIVE}") is None


def test_entries_before_the_first_month_are_accepted(connection: Connection) -> None:
    archive(connection, 3)
    for months_ago in (4, 9, 900):
        assert place(connection, add(connection, months_ago)) == "partitions.activity_logs_past"


def test_entries_of_a_late_job_move_to_their_month(connection: Connection) -> None:
    entry = add(connection, -5)
    assert place(connection, entry) == "partitions.activity_logs_future"
    assert value(connection, "select private.add_months(%s::regclass, 6)", LOG) == 3
    month = value(connection, f"select created_at from {LOG} where id = %s", entry)
    assert isinstance(month, datetime)
    assert place(connection, entry) == f"partitions.activity_logs_{month:%Y_%m}"


def test_months_get_a_validated_check_of_their_range_once_they_are_over(connection: Connection) -> None:
    checked = (
        "select m.starts + interval '1 month' <= now(), k.convalidated from private.months_of(%s::regclass) m"
        " left join pg_constraint k on k.conrelid = m.partition and k.contype = 'c'"
    )
    value(connection, "select private.keep_months()")
    value(connection, "select private.keep_months()")
    found = set(connection.execute(checked, [LOG]).fetchall())
    assert found == {(True, True), (False, None)}  # a month that is written has no check
    assert value(connection, "select private.check_months(%s::regclass)", LOG) == 0


def test_job_without_anything_to_do_changes_nothing(connection: Connection) -> None:
    assert value(connection, "select private.keep_months()") == {"added": 0, "archived": 0}
