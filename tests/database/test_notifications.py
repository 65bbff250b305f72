"""Notifications: pages without gaps, exact counts under concurrency, all-or-nothing updates."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.support.world import ACME, GLOBEX, PEOPLE, Connection, Database, Row

MANY = 10_000


def notify(connection: Connection, person: str, count: int, org: UUID = ACME) -> list[UUID]:
    """Several at each moment, so that time alone does not order them."""
    rows = connection.execute(
        "insert into public.notifications (organization_id, user_id, title, message, created_at)"
        " select %s, %s, 'Hello', 'World', timestamptz '2026-01-01' + n / 7 * interval '1 second'"
        " from generate_series(1, %s) n returning id",
        [org, PEOPLE[person], count],
    ).fetchall()
    return [id_ for (id_,) in rows]


@pytest.fixture
def notified(fresh_database: Database) -> tuple[Database, list[UUID]]:
    with fresh_database.connect() as connection:
        ids = notify(connection, "member", 50)
        notify(connection, "admin", 5)
        connection.execute(
            "insert into public.organization_members (user_id, organization_id) values (%s, %s)",
            [PEOPLE["member"], GLOBEX],
        )
        notify(connection, "member", 3, GLOBEX)
    return fresh_database, ids


def value(cursor: psycopg.Cursor[Row], call: str, *arguments: Any) -> Any:
    row = cursor.execute(f"select public.{call} as it", arguments).fetchone()
    assert row
    return row["it"]


def pages(cursor: psycopg.Cursor[Row], size: int, *, unread: bool) -> Iterator[list[Row]]:
    before: list[Any] = ["infinity", UUID(int=2**128 - 1)]
    page = "select * from public.notifications_page(%s, %s, %s, %s)"
    while rows := cursor.execute(page, [unread, *before, size]).fetchall():
        yield rows
        before = [rows[-1]["created_at"], rows[-1]["id"]]


@pytest.mark.parametrize("size", [1, 7, 50, 100])
def test_pages_show_everything_once_newest_first(notified: tuple[Database, list[UUID]], size: int) -> None:
    database, ids = notified
    with database.acting_as("member") as cursor:
        value(cursor, "mark_notifications_read(%s)", ids[10:20])
        for unread in (False, True):
            rows = [row for page in pages(cursor, size, unread=unread) for row in page]
            assert {row["id"] for row in rows} == set(ids[:10] + ids[20:] if unread else ids)
            assert len({row["id"] for row in rows}) == len(rows)
            assert rows == sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=True)


@pytest.mark.parametrize("size", [0, -1, 101, None])
def test_a_page_has_1_to_100(notified: tuple[Database, list[UUID]], size: int | None) -> None:
    with notified[0].acting_as("member") as cursor, pytest.raises(psycopg.Error, match="1 to 100") as caught:
        value(cursor, "notifications_page(page_size => %s)", size)
    assert caught.value.sqlstate == "PT400"


def test_each_organization_has_its_own_notifications(notified: tuple[Database, list[UUID]]) -> None:
    for org, count in ((ACME, 50), (GLOBEX, 3)):
        with notified[0].acting_as("member", org=org) as cursor:
            assert value(cursor, "unread_notification_count()") == count
            assert len(next(pages(cursor, 100, unread=False))) == count
            assert value(cursor, "mark_all_notifications_read()") == count
            assert value(cursor, "unread_notification_count()") == 0


@pytest.mark.parametrize("operation", ["mark_notifications_read", "delete_notifications"])
def test_attack_change_a_foreign_notification_in_a_batch(notified: tuple[Database, list[UUID]], operation: str) -> None:
    database, ids = notified
    with database.acting_as("admin") as cursor:
        (alien, *_) = next(pages(cursor, 1, unread=False))
    with database.acting_as("member", org=GLOBEX) as cursor:
        (elsewhere, *_) = next(pages(cursor, 1, unread=False))
    for foreign in (alien["id"], elsewhere["id"], uuid4(), None):
        with database.acting_as("member", org=ACME) as cursor:
            with pytest.raises(psycopg.Error) as caught, cursor.connection.transaction():
                value(cursor, f"{operation}(%s::uuid[])", [ids[0], foreign])
            assert caught.value.sqlstate == "PT404"
            assert caught.value.diag.message_detail == "Found 1 of 2; none was changed."
            assert value(cursor, "unread_notification_count()") == 50


@pytest.mark.parametrize("ids", [[], None, [UUID(int=0)] * 101])
def test_one_to_a_hundred_notifications_are_deleted_at_a_time(database: Database, ids: list[UUID] | None) -> None:
    with database.acting_as("member") as cursor, pytest.raises(psycopg.Error, match="1 to 100"):
        value(cursor, "delete_notifications(%s::uuid[])", ids)


def test_marking_returns_the_number_of_unread_rows(notified: tuple[Database, list[UUID]]) -> None:
    database, ids = notified
    with database.acting_as("member") as cursor:
        assert value(cursor, "mark_notifications_read(%s)", ids[:3]) == 3
        assert value(cursor, "mark_notifications_read(%s)", ids[:5]) == 2
        assert value(cursor, "delete_notifications(%s)", [*ids[:10], ids[0]]) == 10
        assert value(cursor, "unread_notification_count()") == 40
        assert value(cursor, "mark_all_notifications_read()") == 40


def test_attack_mark_notifications_of_all_as_the_server(notified: tuple[Database, list[UUID]]) -> None:
    with notified[0].acting_as(None, claims={"role": "service_role"}) as cursor:
        assert value(cursor, "mark_all_notifications_read()") == 0
        assert value(cursor, "unread_notification_count()") == 0


@pytest.mark.parametrize("person", ["owner", "super_admin", None])
def test_attack_notify_as_a_user(database: Database, person: str | None) -> None:
    with database.acting_as(person) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        value(cursor, "notify_members(%s, 'INFO', 'Pay', 'now')", ACME)


def test_unread_counts_stay_exact_under_concurrency(notified: tuple[Database, list[UUID]]) -> None:
    """Callers that name rows in any order do not deadlock, and the sums agree for every reader and at the end."""
    database, ids = notified
    random = Random(7)  # noqa: S311 - nothing secret
    plans = [
        (random.choice(["mark_notifications_read", "delete_notifications", "all", "notify"]), random.sample(ids, 12))
        for _ in range(60)
    ]

    def act(plan: tuple[str, list[UUID]]) -> int:
        operation, names = plan
        if operation == "notify":
            with database.acting_as(None, claims={"role": "service_role"}, commit=True) as cursor:
                return int(value(cursor, "notify_members(%s, 'INFO', 'Hello', 'All')", ACME) > 0)
        try:
            with database.acting_as("member", commit=True) as cursor:
                if operation == "all":
                    return -int(value(cursor, "mark_all_notifications_read()"))
                if operation == "delete_notifications":
                    cursor.execute(
                        "select from public.notifications where id = any (%s) order by id for update", [names]
                    )
                    unread = cursor.execute(
                        "select from public.notifications where id = any (%s) and not read", [names]
                    ).rowcount
                    value(cursor, "delete_notifications(%s)", names)
                    return -unread
                return -int(value(cursor, "mark_notifications_read(%s)", names))
        except psycopg.Error as error:  # some were deleted meanwhile: then no row was changed
            if error.sqlstate != "PT404":
                raise
            return 0

    with ThreadPoolExecutor(8) as pool:
        changes = list(pool.map(act, plans))
    with database.acting_as("member") as cursor:
        assert value(cursor, "unread_notification_count()") == 50 + sum(changes)
        rows = [row for page in pages(cursor, 100, unread=True) for row in page]
        assert len(rows) == 50 + sum(changes)


def test_notifying_all_members_waits_for_no_reader(fresh_database: Database) -> None:
    with fresh_database.connect("supabase_admin") as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(
            "with people as (insert into public.users (id, email)"
            " select gen_random_uuid(), n || '@crowd.test' from generate_series(1, %s) n returning id)"
            " insert into public.organization_members (user_id, organization_id) select id, %s from people",
            [MANY, ACME],
        )
    with fresh_database.acting_as("member", commit=False) as reader:
        value(reader, "mark_all_notifications_read()")
        with fresh_database.acting_as(None, claims={"role": "service_role"}, commit=True) as server:
            server.execute("set local lock_timeout = '1s'")
            assert value(server, "notify_members(%s, 'INFO', 'Hello', 'All')", ACME) == MANY + 5
    with fresh_database.acting_as("viewer") as cursor:
        assert value(cursor, "unread_notification_count()") == 1
