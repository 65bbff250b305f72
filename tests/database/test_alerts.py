"""Alerts reach their audience, stay dismissed, and count each viewer once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support.acting import Cursor, now_as, server, value
from tests.support.world import ACME, GLOBEX, PEOPLE, Database

EVERYBODY = ("member", "viewer", "globex_member", "outsider", "suspended", "platform_admin")


@pytest.fixture
def cursor(database: Database) -> Iterator[Cursor]:
    """A platform admin's."""
    with server(database) as cursor:
        yield now_as(cursor, "platform_admin")


def announce(cursor: Cursor, **columns: Any) -> UUID:
    columns = {"title": "Maintenance", "message": "Tonight", "category": "MAINTENANCE", **columns}
    return UUID(
        str(
            value(
                cursor,
                f"insert into public.system_alerts ({', '.join(columns)})"
                f" values ({', '.join(['%s'] * len(columns))}) returning id",
                [*columns.values()],
            )
        )
    )


def shown(cursor: Cursor, person: str, **request: Any) -> list[UUID]:
    now_as(cursor, person, **request)
    return [row["id"] for row in cursor.execute("select id from public.active_alerts()")]


def seeing(cursor: Cursor) -> set[str]:
    """Who is shown anything."""
    return {person for person in EVERYBODY if shown(cursor, person)}


# For whom


@pytest.mark.parametrize(
    ("target", "audience"),
    [
        ({"is_global": True}, {"member", "viewer", "globex_member", "outsider", "platform_admin"}),
        ({"target_users": [PEOPLE["outsider"]]}, {"outsider"}),
        ({"target_roles": "{ADMIN}"}, {"platform_admin"}),
        ({"target_roles": "{USER}"}, {"member", "viewer", "globex_member", "outsider"}),
        ({"target_orgs": [GLOBEX]}, {"globex_member"}),
        ({"target_tiers": "{GROWTH}"}, {"member", "viewer", "globex_member"}),
        ({"target_tiers": "{ELITE}"}, set()),
        ({"target_orgs": [ACME], "target_users": [PEOPLE["outsider"]]}, {"member", "viewer", "outsider"}),
        ({}, set()),
    ],
)
def test_alert_is_visible_to_its_audience(cursor: Cursor, target: dict[str, Any], audience: set[str]) -> None:
    announce(cursor, **target)
    assert seeing(cursor) == audience


def test_attack_read_the_audience_of_an_alert(cursor: Cursor) -> None:
    alert = announce(
        cursor, target_orgs=[ACME, GLOBEX], target_users=[PEOPLE["globex_member"]], target_roles="{USER}", title="Both"
    )
    assert now_as(cursor, "platform_admin").execute("select from public.system_alerts").rowcount == 1
    for person in set(EVERYBODY) - {"platform_admin"}:
        assert now_as(cursor, person).execute("select from public.system_alerts").rowcount == 0, person
    (row,) = now_as(cursor, "member").execute("select * from public.active_alerts()").fetchall()
    assert row["id"] == alert
    assert row.keys() == {
        *("id", "title", "message", "level", "category", "is_dismissible", "auto_hide_after", "starts_at", "ends_at"),
        *("created_at", "is_viewed"),
    }
    for secret in (GLOBEX, PEOPLE["globex_member"], PEOPLE["platform_admin"]):
        assert str(secret) not in str(row)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute("select from private.alerts_for_me()")


def test_platform_admin_reads_all_alerts_and_sees_own(cursor: Cursor) -> None:
    hidden = announce(cursor, target_orgs=[GLOBEX], is_archived=True)
    assert value(cursor, "select id from public.system_alerts") == hidden
    others = announce(cursor, target_orgs=[GLOBEX])
    assert shown(cursor, "platform_admin") == []
    with pytest.raises(psycopg.Error, match="no such alert for you"):
        view(cursor, others)


@pytest.mark.parametrize(
    "columns",
    [
        {"is_active": False},
        {"is_archived": True},
        {"starts_at": "tomorrow"},
        {"starts_at": "2026-01-01", "ends_at": "2026-01-02"},
    ],
)
def test_expired_or_archived_alert_is_hidden(cursor: Cursor, columns: dict[str, Any]) -> None:
    alert = announce(cursor, is_global=True, **columns)
    assert seeing(cursor) == set()
    now_as(cursor, "member")
    for operation in (dismiss, view):
        with pytest.raises(psycopg.Error, match="no such alert for you"), cursor.connection.transaction():
            operation(cursor, alert)


def test_alert_is_visible_from_start_until_end(cursor: Cursor) -> None:
    announce(cursor, is_global=True, starts_at="yesterday", ends_at="tomorrow", title="Now")
    # now() is the moment at which this transaction began.
    for title, starts_at, ends_at in (
        ("Begins", "now()", "now() + interval '1 microsecond'"),
        ("Over", "now() - interval '1 microsecond'", "now()"),
        ("To come", "now() + interval '1 microsecond'", "null"),
    ):
        now_as(cursor, "platform_admin").execute(
            "insert into public.system_alerts (title, message, category, is_global, starts_at, ends_at)"
            f" values ('{title}', 'm', 'SYSTEM', true, {starts_at}, {ends_at})"
        )
    now_as(cursor, "member")
    titles = [row["title"] for row in cursor.execute("select title from public.active_alerts()")]
    assert titles == ["Begins", "Now"]


def test_a_new_tier_counts_at_the_next_request(cursor: Cursor) -> None:
    alert = announce(cursor, target_tiers="{ELITE}")
    now_as(cursor, None).execute("update public.organizations set subscription_tier = 'ELITE' where id = %s", [ACME])
    assert (shown(cursor, "member"), shown(cursor, "globex_member")) == ([alert], [])


def test_attack_name_another_organization_to_read_its_alerts(cursor: Cursor) -> None:
    announce(cursor, target_orgs=[GLOBEX])
    assert shown(cursor, "member", org=GLOBEX) == []


def test_anonymous_callers_read_no_alerts(database: Database) -> None:
    for statement in ("select from public.system_alerts", "select from public.active_alerts()"):
        with database.acting_as(None) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
            cursor.execute(statement)


@pytest.mark.parametrize("person", ["owner", "member", "outsider"])
def test_attack_a_customer_writes_alerts(cursor: Cursor, person: str) -> None:
    announce(cursor, is_global=True)
    now_as(cursor, person)
    assert cursor.execute("update public.system_alerts set title = 'x'").rowcount == 0
    assert cursor.execute("delete from public.system_alerts").rowcount == 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        announce(cursor, is_global=True)


@pytest.mark.parametrize("column", ["view_count", "dismiss_count", "created_by"])
def test_attack_an_admin_writes_counters_or_signs_for_another(cursor: Cursor, column: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute(f"update public.system_alerts set {column} = {column}")


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"starts_at": "2026-01-02", "ends_at": "2026-01-01"}, "ends_at is after starts_at"),
        ({"auto_hide_after": 0}, "more than 0 seconds"),
        ({"title": ""}, "1 to 255"),
        ({"target_orgs": [None]}, "target_orgs has no null"),
    ],
)
def test_values_out_of_range_are_refused(cursor: Cursor, columns: dict[str, Any], sentence: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=sentence):
        announce(cursor, **columns)


def test_changes_are_logged_but_counting_is_not(cursor: Cursor) -> None:
    alert = announce(cursor, is_global=True)
    cursor.execute("update public.system_alerts set level = 'ERROR'")
    view(now_as(cursor, "member"), alert)
    logged = now_as(cursor, "platform_admin").execute(
        "select description, metadata #>> '{before,level}' as before from public.admin_action_logs"
        " where action = 'SYSTEM_CONFIG_UPDATE' and target_id = %s and admin_id = %s",
        [str(alert), PEOPLE["platform_admin"]],
    )
    assert {(row["description"], row["before"]) for row in logged} == {
        ("System Alert Maintenance created", None),
        ("System Alert Maintenance changed: level", "INFO"),
    }


def test_caller_is_looked_up_once_not_per_alert(fresh_database: Database) -> None:
    with fresh_database.connect("supabase_admin") as connection:
        connection.execute(f"alter database {fresh_database.name} set track_functions = 'all'")
    with server(fresh_database) as cursor:
        now_as(cursor, "platform_admin")
        for _ in range(50):
            announce(cursor, target_orgs=[ACME])
        calls = "select pg_stat_get_xact_function_calls('private.current_user_org'::regproc)"
        now_as(cursor, "member")
        before = value(cursor, calls) or 0
        assert len(shown(cursor, "member")) == 50
        assert 1 <= int(str(value(cursor, calls))) - int(str(before)) < 5


# Dismissing


def dismiss(cursor: Cursor, alert: UUID) -> object:
    return value(cursor, "select public.dismiss_alert(%s)", [alert])


def view(cursor: Cursor, alert: UUID) -> object:
    return value(cursor, "select public.mark_alert_viewed(%s)", [alert])


def test_newest_first(cursor: Cursor) -> None:
    old = announce(cursor, is_global=True, starts_at="2026-01-01")
    new = announce(cursor, is_global=True, starts_at="2026-01-02")
    assert shown(cursor, "member") == [new, old]


def test_dismissed_alert_is_hidden_for_that_user(cursor: Cursor) -> None:
    alert = announce(cursor, is_global=True)
    assert [dismiss(now_as(cursor, "member"), alert) for _ in range(2)] == [True, False]
    assert (shown(cursor, "member"), shown(cursor, "viewer")) == ([], [alert])
    assert value(now_as(cursor, None), "select dismiss_count from public.system_alerts") == 1


def test_alert_made_permanent_reappears(cursor: Cursor) -> None:
    alert = announce(cursor, is_global=True)
    dismiss(now_as(cursor, "member"), alert)
    now_as(cursor, "platform_admin").execute("update public.system_alerts set is_dismissible = false")
    assert shown(cursor, "member") == [alert]


def test_an_alert_that_must_stay_cannot_be_dismissed(cursor: Cursor) -> None:
    alert = announce(cursor, is_global=True, is_dismissible=False)
    now_as(cursor, "member")
    with pytest.raises(psycopg.Error, match="cannot be dismissed") as caught, cursor.connection.transaction():
        dismiss(cursor, alert)
    assert caught.value.sqlstate == "PT422"
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        cursor.execute("insert into public.system_alert_dismissals (alert_id) values (%s)", [alert])


@pytest.mark.parametrize("operation", ["dismiss_alert", "mark_alert_viewed"])
def test_attack_probe_alerts_for_others(cursor: Cursor, operation: str) -> None:
    hidden = announce(cursor, target_orgs=[GLOBEX])
    now_as(cursor, "member")
    refusals = set()
    for alert in (hidden, PEOPLE["member"]):
        with pytest.raises(psycopg.Error) as caught, cursor.connection.transaction():
            cursor.execute(f"select public.{operation}(%s)", [alert])
        refusals.add((caught.value.sqlstate, str(caught.value.diag.message_primary)))
    assert refusals == {("PT404", "There is no such alert for you")}


@pytest.mark.parametrize("table", ["system_alert_dismissals", "system_alert_views"])
def test_attack_dismiss_or_see_in_anothers_name(cursor: Cursor, table: str) -> None:
    alert = announce(cursor, is_global=True)
    now_as(cursor, "member")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute(
            f"insert into public.{table} (alert_id, user_id) values (%s, %s)",
            [alert, PEOPLE["viewer"]],
        )


def test_dismissals_and_views_are_private(cursor: Cursor) -> None:
    alert = announce(cursor, is_global=True)
    dismiss(now_as(cursor, "member"), alert)
    view(cursor, alert)
    for person, seen in (("member", 1), ("viewer", 0), ("platform_admin", 0)):
        for table in ("system_alert_dismissals", "system_alert_views"):
            assert now_as(cursor, person).execute(f"select from public.{table}").rowcount == seen, (person, table)


# Counting


def test_a_view_counts_once_per_user(cursor: Cursor) -> None:
    alert = announce(cursor, is_global=True)
    assert [view(now_as(cursor, person), alert) for person in ("member", "member", "viewer")] == [True, False, True]
    assert value(now_as(cursor, None), "select view_count from public.system_alerts") == 2
    is_viewed = "select is_viewed from public.active_alerts()"
    assert [value(now_as(cursor, person), is_viewed) for person in ("member", "outsider")] == [True, False]


def test_counting_a_view_does_not_wait_for_others(fresh_database: Database) -> None:
    with fresh_database.acting_as("platform_admin", commit=True) as admin:
        alert = announce(admin, is_global=True)
    with fresh_database.acting_as("member") as slow, fresh_database.acting_as("viewer", commit=True) as quick:
        view(slow, alert)
        quick.execute("set local lock_timeout = '1s'")
        view(quick, alert)
        slow.connection.commit()
        quick.connection.commit()
    with server(fresh_database) as cursor:
        # The appended view is not lost: the next viewer adds it.
        assert view(now_as(cursor, "owner"), alert) is True
        assert value(now_as(cursor, None), "select view_count from public.system_alerts") == 3


def test_counters_are_exact_after_a_rush(fresh_database: Database) -> None:
    people = [name for name in PEOPLE if name != "suspended"]
    with fresh_database.acting_as("platform_admin", commit=True) as admin:
        alerts = [announce(admin, is_global=True) for _ in range(2)]

    def look(name: str) -> None:
        with fresh_database.acting_as(name, commit=True) as cursor:
            # In opposite orders, within one transaction.
            for alert in alerts if name < "n" else alerts[::-1]:
                view(cursor, alert)
                dismiss(cursor, alert)

    def roll_up(_: int) -> object:
        with fresh_database.connect() as connection:
            return connection.execute("select private.roll_up_alert_counts()").fetchone()

    with ThreadPoolExecutor(6) as pool:
        looking = pool.map(look, people * 2)
        rolling = pool.map(roll_up, range(6))
        list(looking)
        list(rolling)
    roll_up(0)
    with fresh_database.connect() as connection:
        counts = connection.execute("select view_count, dismiss_count from system_alerts").fetchall()
        touched = connection.execute("select from system_alerts where updated_at <> created_at").rowcount
        left = connection.execute("select from private.system_alert_tallies").rowcount
    assert counts == [(len(people), len(people))] * 2
    assert left == 0
    assert touched == 0, "counting is no change of the alert"


def test_rollup_skips_deleted_alerts(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        connection.execute(
            "insert into private.system_alert_tallies (alert_id, views, dismissals) values (gen_random_uuid(), 1, 0)"
        )
        assert connection.execute("select private.roll_up_alert_counts()").fetchone() == (1,)
        assert connection.execute("select private.roll_up_alert_counts()").fetchone() == (0,)
