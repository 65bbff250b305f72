"""Metering in the database: roll-ups move and never change what was counted; limits, notices, the report."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.rows import one, refused, scene, turn
from tests.support.world import ACME, GLOBEX, PEOPLE, Connection, Database, become

KEY = "00000000-0000-4000-8000-0000000000aa"
ENTER = (
    "insert into private.usage_entries"
    " (organization_id, user_id, api_key_id, resource_type, resource_name, usage_amount, used_at)"
    " select %(org)s, %(user)s, %(key)s, %(resource)s, 'record-activity', %(amount)s,"
    " date_trunc('minute', now()) - interval '1 second' from generate_series(1, %(times)s)"
)
TOTAL = (
    "select coalesce(sum(usage_amount), 0)::int from private.metered"
    " where organization_id = %s and resource_type = 'API_CALLS'"
)

MEASURED = "select usage_amount from public.usage_tracking where organization_id = %s and resource_type ="


def enter(connection: Connection, times: int = 1, amount: int = 1, **entry: Any) -> None:
    """Entries from before the current minute."""
    usual = {"org": ACME, "user": PEOPLE["member"], "key": None, "resource": "API_CALLS"}
    connection.execute(ENTER, usual | {"amount": amount, "times": times} | entry)


def add_key(connection: Connection) -> None:
    connection.execute(
        "insert into public.api_keys (id, organization_id, name, prefix, key_hash, scopes, created_by)"
        " values (%s, %s, 'Zapier', 'strive_test_0000000', %s, '{CRM_READ}', %s)",
        [KEY, ACME, "0" * 64, PEOPLE["admin"]],
    )


def enter_calls_of_a_key(connection: Connection, times: int) -> None:
    enter(connection, times, user=None, key=KEY)


def limit(connection: Connection, **limits: int | None) -> None:
    connection.execute("update public.plans set limits = limits || %s where tier = 'GROWTH'", [Jsonb(limits)])


def notices(connection: Connection) -> list[tuple[str, str]]:
    """Kind and message of what each person was notified of, for the owner of Acme alone."""
    rows = connection.execute(
        "select kind, title || ': ' || message, user_id from public.notifications"
        " where kind like 'billing.usage.%' order by created_at, kind desc"
    ).fetchall()
    assert {user for *_, user in rows} <= {PEOPLE["owner"]}
    return [(kind, text) for kind, text, _ in rows]


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        yield connection


# Rolling up ----------------------------------------------------------------------------------------------------------


def test_roll_up_adds_to_the_day_of_a_caller(connection: Connection) -> None:
    for _ in range(2):
        enter(connection, 3)
        enter(connection, 2, user=PEOPLE["owner"])
        enter_calls_of_a_key(connection, 4)
        assert connection.execute("select private.roll_up_usage()").fetchone() == (9,)
    rows = connection.execute(
        "select user_id, api_key_id::text, usage_amount from public.usage_tracking"
        " where organization_id = %s order by 3",
        [ACME],
    ).fetchall()
    assert rows == [(PEOPLE["owner"], None, 4), (PEOPLE["member"], None, 6), (None, KEY, 8)]


def test_roll_up_leaves_the_current_minute(connection: Connection) -> None:
    connection.execute("select private.count_usage(%s, null, %s, 'API_CALLS', 'token', 1)", [ACME, KEY])
    assert connection.execute("select private.roll_up_usage()").fetchone() == (0,)
    assert connection.execute(TOTAL, [ACME]).fetchone() == (1,)


def test_roll_up_forgets_erased_organizations_and_people(connection: Connection) -> None:
    enter(connection, org=KEY)
    enter(connection, user=KEY)
    assert connection.execute("select private.roll_up_usage()").fetchone() == (1,)
    rows = connection.execute("select organization_id, user_id from public.usage_tracking").fetchall()
    assert rows == [(ACME, None)]


def test_no_call_is_lost_or_doubled_by_roll_ups(fresh_database: Database) -> None:
    """Calls arrive while two roll-ups run, again and again, and some are ended in the middle."""
    done = threading.Event()

    def call() -> int:
        made = 0
        with fresh_database.connect() as connection:
            while not done.is_set():
                enter(connection, 3, user=PEOPLE["member" if made % 2 else "owner"])
                made += 3
        return made

    def roll_up() -> int:
        ended = 0
        while not done.is_set():
            try:
                with fresh_database.connect() as connection:
                    while not done.is_set():
                        connection.execute("select private.roll_up_usage()")
            except psycopg.OperationalError:
                ended += 1
        return ended

    with ThreadPoolExecutor(5) as pool, fresh_database.connect("supabase_admin") as killer:
        calling = [pool.submit(call) for _ in range(3)]
        rolling = [pool.submit(roll_up) for _ in range(2)]
        try:
            for _ in range(60):
                killer.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
                    " and query = 'select private.roll_up_usage()' and state = 'active' limit 1"
                )
                killer.execute("select pg_sleep(0.03)")
        finally:
            done.set()
        made, ended = sum(each.result() for each in calling), sum(each.result() for each in rolling)
    with fresh_database.connect() as connection:
        assert connection.execute(TOTAL, [ACME]).fetchone() == (made,)
        connection.execute("select private.roll_up_usage()")
        assert connection.execute(TOTAL, [ACME]).fetchone() == (made,)
        rows = connection.execute("select count(*), sum(usage_amount)::int from public.usage_tracking").fetchone()
    assert rows == (2, made)
    assert ended > 5


# Reads of the data API -----------------------------------------------------------------------------------------------


def test_reads_with_a_key_are_counted_once(fresh_database: Database) -> None:
    """They write no row, but a message; a roll-up that is rolled back leaves the messages to the next."""
    with fresh_database.connect() as connection, fresh_database.connect("authenticator") as reader:
        add_key(connection)
        connection.execute("select private.meter_reads()")
        connection.execute("set synchronous_commit = on")
        reader.autocommit = False
        reader.read_only = True
        claims = {"role": "strive_api_key", "sub": str(PEOPLE["admin"]), "api_key_id": KEY, "scopes": ["CRM_READ"]}

        def read(times: int) -> None:
            for _ in range(times):
                become(reader, "strive_api_key", claims, {})
                reader.execute("select private.check_request()")
                reader.rollback()
            # Where commits wait for it, each flushes the log.
            connection.execute("update public.organizations set name = name where id = %s", [ACME])

        used = "select private.used_calls(%s)"
        read(3)
        with connection.transaction(force_rollback=True):
            connection.execute("select private.roll_up_usage()")
            assert connection.execute(used, [ACME]).fetchone() == (3,)
        assert connection.execute(used, [ACME]).fetchone() == (0,)
        for more, expected in ((0, 3), (0, 3), (2, 5), (0, 5), (0, 5)):
            read(more)
            connection.execute("select private.roll_up_usage()")
            assert connection.execute(used, [ACME]).fetchone() == (expected,)
        last_used = "select last_used_at >= created_at - interval '1 minute' from public.api_keys where id = %s"
        assert connection.execute(last_used, [KEY]).fetchone() == (True,)
        limit(connection, api_calls=5)
        with pytest.raises(psycopg.Error, match="no more api calls"):
            read(1)


def test_reads_with_a_key_have_a_rate(fresh_database: Database) -> None:
    """Each connection of the data API counts, since a transaction that only reads writes no row."""
    claims = {"role": "strive_api_key", "sub": str(PEOPLE["admin"]), "api_key_id": KEY, "scopes": ["CRM_READ"]}
    setting = f"strive.reads_{UUID(KEY).hex}"
    with fresh_database.connect() as connection, fresh_database.connect("authenticator") as reader:
        add_key(connection)
        reader.read_only = True
        with reader.transaction(force_rollback=True):
            counted = "select set_config(%s, to_char(now() - %s::interval, 'HH24:MI ') || 600, false)"
            reader.execute(counted, [setting, "1 minute"])
            become(reader, "strive_api_key", claims, {})
            for reads in (1, 2):
                reader.execute("select private.check_request()")
                shown = reader.execute("select substr(current_setting(%s), 7)", [setting]).fetchone()
                assert shown == (str(reads),)
            reader.execute(counted, [setting, "0 minutes"])
            with pytest.raises(psycopg.Error, match="too many requests") as caught:
                reader.execute("select private.check_request()")
            assert caught.value.sqlstate == "PT429"


# Limits --------------------------------------------------------------------------------------------------------------


def test_last_calls_of_a_month_go_to_the_first(fresh_database: Database) -> None:
    """Eight at once for the last three calls: three pass."""
    with fresh_database.connect() as connection:
        add_key(connection)
        limit(connection, api_calls=13)
        enter_calls_of_a_key(connection, 10)

    start = threading.Barrier(8)

    def call() -> str:
        with fresh_database.connect("strive_functions") as connection:
            start.wait()
            try:
                connection.execute("select private.use_api_key(%s, '{}', 'token')", ["0" * 64])
            except psycopg.Error as error:
                return f"{error.sqlstate} {error.diag.message_detail}"[:57]
            return "done"

    with ThreadPoolExecutor(8) as pool:
        outcomes = sorted(each.result() for each in [pool.submit(call) for _ in range(8)])
    assert outcomes == ["PT402 GROWTH allows 13, and 13 are used. They renew at 20"] * 5 + ["done"] * 3


def test_calls_of_people_use_up_no_limit(connection: Connection) -> None:
    limit(connection, api_calls=5)
    enter(connection, 100)
    enter_calls_of_a_key(connection, 4)
    connection.execute("select private.require_calls(%s)", [ACME])
    enter_calls_of_a_key(connection, 1)
    with pytest.raises(psycopg.Error, match="no more api calls this month") as caught:
        connection.execute("select private.require_calls(%s)", [ACME])
    assert caught.value.diag.message_hint == "ELITE allows 1000000. An owner can choose it."


@pytest.mark.parametrize("resource", ["api_calls", "ai_tokens"])
def test_usage_of_another_month_does_not_count(connection: Connection, resource: str) -> None:
    enter(connection, 4, key=KEY, resource=resource.upper())
    connection.execute("select private.roll_up_usage()")
    used = "select private.used_room(%s, %s)"
    assert connection.execute(used, [ACME, resource]).fetchone() == (4,)
    connection.execute("update public.usage_tracking set day = (day - interval '1 month')::date")
    assert connection.execute(used, [ACME, resource]).fetchone() == (0,)


def test_attack_lower_usage_by_deleting_the_key_and_its_creator(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        add_key(connection)
        enter_calls_of_a_key(connection, 5)
        connection.execute("select private.roll_up_usage()")
        enter_calls_of_a_key(connection, 2)
        connection.execute("delete from auth.users where id = %s", [PEOPLE["admin"]])
        assert connection.execute("select count(*) from public.api_keys").fetchone() == (0,)
        assert connection.execute("select private.used_calls(%s)", [ACME]).fetchone() == (7,)
        connection.execute("select private.roll_up_usage()")
        assert connection.execute("select private.used_calls(%s)", [ACME]).fetchone() == (7,)


# Notices -------------------------------------------------------------------------------------------------------------


def test_owners_are_notified_at_80_and_100_percent_once(fresh_database: Database) -> None:
    near, full = "billing.usage.near_limit", "billing.usage.at_limit"
    with fresh_database.connect() as connection:
        limit(connection, api_calls=10)
        for made, expected in ((7, []), (1, [near]), (1, [near]), (1, [near, full]), (5, [near, full])):
            enter_calls_of_a_key(connection, made)
            with ThreadPoolExecutor(3) as pool:
                for each in [pool.submit(roll_up_once, fresh_database) for _ in range(3)]:
                    each.result()
            assert [kind for kind, _ in notices(connection)] == expected
        texts = [text for _, text in notices(connection)]
        assert texts[0].startswith("80 % of your calls with API keys are used: 8 of 10 are used. They renew on 20")
        assert texts[1].startswith("Your plan allows no more calls with API keys: 10 of 10 are used.")
        mails = connection.execute("select kind, user_id from private.emails where kind ~ 'usage'").fetchall()
        assert sorted(mails) == [(full, PEOPLE["owner"]), (near, PEOPLE["owner"])]
        # A larger plan has limits of its own.
        limit(connection, api_calls=16)
        enter_calls_of_a_key(connection, 1)
        roll_up_once(fresh_database)
        assert [kind for kind, _ in notices(connection)] == [near, full, full]


def roll_up_once(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("select private.roll_up_usage()")


def test_a_jump_to_the_limit_is_one_notice(connection: Connection) -> None:
    limit(connection, ai_tokens=1000)
    enter(connection, amount=1200, resource="AI_TOKENS")
    connection.execute("select private.roll_up_usage()")
    assert [kind for kind, _ in notices(connection)] == ["billing.usage.at_limit"]


def test_full_seats_are_one_notice_until_the_limit_changes(connection: Connection) -> None:
    limit(connection, members=5)  # Acme has five members
    for _ in range(2):
        connection.execute("select private.measure_usage((now() at time zone 'UTC')::date)")
    assert notices(connection) == [
        ("billing.usage.at_limit", "Your plan allows no more seats: 5 of 5 are used. You can choose a larger plan.")
    ]


# What there is -------------------------------------------------------------------------------------------------------


def test_a_day_is_measured_until_it_is_over(connection: Connection) -> None:
    seats = f"{MEASURED} 'SEATS' and day = %s"
    today, before = connection.execute(
        "select (now() at time zone 'UTC')::date, (now() at time zone 'UTC')::date - 1"
    ).fetchone() or (None, None)
    connection.execute("update public.organization_members set joined_at = now() - interval '9 days'")
    for day in (today, before):
        connection.execute("select private.measure_usage(%s)", [day])
        assert connection.execute(seats, [ACME, day]).fetchone() == (5,)
    connection.execute("delete from public.organization_members where user_id = %s", [PEOPLE["viewer"]])
    for day, expected in ((today, 4), (before, 5)):
        connection.execute("select private.measure_usage(%s)", [day])
        assert connection.execute(seats, [ACME, day]).fetchone() == (expected,)


def test_storage_that_was_freed_is_measured_as_nothing(connection: Connection) -> None:
    storage = f"{MEASURED} 'STORAGE'"
    connection.execute(
        "insert into public.attachments"
        " (organization_id, entity_type, entity_id, file_name, file_size, mime_type, file_path)"
        " select id, 'leads', id, 'a.pdf', 700, 'application/pdf', id || '/leads/' || id || '/a.pdf'"
        " from public.organizations where id = %s",
        [GLOBEX],
    )
    measure = "select private.measure_usage((now() at time zone 'UTC')::date)"
    connection.execute(measure)
    assert connection.execute(storage, [GLOBEX]).fetchone() == (700,)
    connection.execute("delete from public.attachments")
    connection.execute(measure)
    assert connection.execute(storage, [GLOBEX]).fetchone() == (0,)


# The report ----------------------------------------------------------------------------------------------------------

REPORT = (
    "select grouped_by, resource_type, day::text, name, amount, used, allowed, renews_at from public.usage_report()"
)


def test_report_has_totals_days_and_callers(database: Database) -> None:
    with scene(database) as cursor:
        enter(cursor.connection, 3)
        cursor.execute("select private.roll_up_usage()")
        cursor.execute("update public.usage_tracking set day = date_trunc('month', now() at time zone 'UTC')")
        cursor.execute(
            "insert into private.usage_entries"
            " (organization_id, user_id, api_key_id, resource_type, resource_name, usage_amount, used_at)"
            " select %s, null, %s, 'API_CALLS', 'token', 1, now() from generate_series(1, 2)",
            [ACME, KEY],
        )
        turn(cursor, "admin")
        lines = [row for row in cursor.execute(REPORT).fetchall() if row["resource_type"] == "API_CALLS"]
        month = one(cursor.execute("select to_char(now() at time zone 'UTC', 'YYYY-MM') as it"))["it"]
        by = [(row["grouped_by"], row["amount"]) for row in lines]
        assert by[0] == ("TOTAL", 5)
        assert sum(amount for kind, amount in by if kind == "DAY") == 5
        assert sorted(
            (row["name"], row["amount"]) for row in lines if row["grouped_by"] == "CALLER" and row["name"]
        ) == [("member@strive.test", 3)]
        assert (lines[0]["used"], lines[0]["allowed"]) == (2, 100_000)
        assert lines[0]["renews_at"].isoformat()[:7] > month
        earlier = cursor.execute("select * from public.usage_report('2020-01')").fetchall()
        assert {row["grouped_by"] for row in earlier} == {"TOTAL"}
        assert {row["amount"] for row in earlier} == {0}


def test_report_counts_an_order_at_once(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute(
            "insert into public.custom_agent_orders (organization_id, created_by_id, title, description, requirements,"
            " use_case, complexity, agent_config, tools_config, status, submitted_at)"
            " values (%s, %s, 'Bot', 'd', '{}', 'u', 'SIMPLE', '{}', '{}', 'SUBMITTED', now())",
            [ACME, PEOPLE["member"]],
        )
        turn(cursor, "admin")
        (line,) = [row for row in cursor.execute(REPORT).fetchall() if row["resource_type"] == "ORDERS"]
        assert (line["amount"], line["used"]) == (1, 1)


def test_report_says_what_a_period_is(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "owner")
        with refused(cursor, "PT400", "a month like 2026-11"):
            cursor.execute("select public.usage_report('November')")


def test_platform_admins_see_all_usage(database: Database) -> None:
    with scene(database) as cursor:
        enter(cursor.connection, 3)
        enter(cursor.connection, 4, org=GLOBEX, user=PEOPLE["globex_member"])
        total = (
            "select amount from public.usage_report(organization_id => %s)"
            " where grouped_by = 'TOTAL' and resource_type = 'API_CALLS'"
        )
        turn(cursor, "platform_admin")
        assert [one(cursor.execute(total, [org]))["amount"] for org in (ACME, GLOBEX, None)] == [3, 4, 7]
        with refused(cursor, "PT404", "no such organization"):
            cursor.execute(total, [KEY])


@pytest.mark.parametrize("person", ["member", "viewer", "suspended", "removed", "outsider", "globex_owner"])
def test_attack_read_the_meter_of_an_organization(database: Database, person: str) -> None:
    with scene(database) as cursor:
        enter(cursor.connection, 3)
        cursor.execute("select private.roll_up_usage()")
        turn(cursor, person)
        for statement in (
            "select public.usage_report(organization_id => %s)",
            "select private.usage_report('2026-11', %s)",
        ):
            cursor.execute("savepoint tried")
            with pytest.raises(psycopg.Error) as caught:
                cursor.execute(statement, [ACME])
            assert caught.value.sqlstate in {"42501", "PT403"}
            cursor.execute("rollback to tried")
        if person not in {"member", "viewer"}:
            turn(cursor, person, ACME)
            assert cursor.execute("select * from public.usage_tracking").fetchall() == []


@pytest.mark.parametrize(
    "statement",
    [
        "select private.count_request('record-activity', auth.uid(), '{org}')",
        "select private.count_usage('{org}', null, null, 'API_CALLS', 'x', -5)",
        "select private.count_api_call(null, 'x')",
        "select private.use_api_key('', '', '')",
        "select private.roll_up_usage()",
        "select private.measure_usage('2026-11-01')",
        "select private.notify_usage(null, '{{SEATS}}')",
        "select private.used_calls('{org}')",
        "select private.require_calls('{org}')",
        "select * from private.metered",
        "select * from private.usage_entries",
        "insert into private.usage_entries (organization_id, usage_amount) values ('{org}', 1000000)",
        "delete from private.usage_entries",
        "insert into public.usage_tracking (resource_type, resource_name, usage_amount) values ('SEATS', 'x', 0)",
        "update public.usage_tracking set usage_amount = 0",
        "delete from public.usage_tracking",
    ],
)
def test_attack_write_a_meter(database: Database, statement: str) -> None:
    for person in ("owner", "globex_owner"):
        with database.acting_as(person) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
            cursor.execute(statement.format(org=ACME))
