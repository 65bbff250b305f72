"""Plans on sale, subscriptions of organizations, and stored Stripe events."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest

from tests.support.acting import Cursor, now_as, server, value, wait_until_blocked
from tests.support.world import ACME, GLOBEX, PEOPLE, Database

LIMITS = ("members", "orders_per_month", "templates", "blueprints")
UNLIMITED = None


def subscribe(cursor: Cursor, status: str, tier: str = "ELITE", *, org: UUID = ACME) -> UUID:
    row = cursor.execute(
        "insert into public.subscriptions"
        " (organization_id, status, tier, billing_cycle, amount_cents, current_period_end, cancelled_at)"
        " values (%s, %s, %s, 'MONTHLY', 199900, now() + interval '1 month',"
        " case when %s = 'CANCELLED' then now() end) returning id",
        [org, status, tier, status],
    ).fetchone()
    assert row
    return UUID(str(row["id"]))


def standing(cursor: Cursor, org: UUID = ACME) -> tuple[str, str]:
    row = cursor.execute(
        "select subscription_tier as tier, subscription_status as status from public.organizations where id = %s", [org]
    ).fetchone()
    assert row
    return row["tier"], row["status"]


# Plans


@pytest.mark.parametrize(
    ("tier", "monthly", "yearly", "limits"),
    [
        ("FREE", 0, 0, (1, 0, 0, 0)),
        ("STARTER", 299, 2990, (5, 0, 0, 0)),
        ("GROWTH", 699, 6990, (25, 3, 10, 5)),
        ("ELITE", 1999, 19990, (100, UNLIMITED, UNLIMITED, UNLIMITED)),
        ("ENTERPRISE", 0, 0, (UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED)),
    ],
)
def test_the_price_list(
    database: Database, tier: str, monthly: int, yearly: int, limits: tuple[int | None, ...]
) -> None:
    with server(database) as cursor:
        rows = cursor.execute(
            "select billing_cycle, amount_cents, currency, limits, is_active from public.plans where tier = %s", [tier]
        ).fetchall()
    assert {row["billing_cycle"]: row["amount_cents"] for row in rows} == {
        "MONTHLY": monthly * 100,
        "YEARLY": yearly * 100,
    }
    for row in rows:
        assert tuple(row["limits"][name] for name in LIMITS) == limits
        assert row["currency"] == "usd"
        assert row["is_active"] == (tier != "ENTERPRISE"), "what is by agreement has no price to be sold at"


def test_clients_read_plans_on_sale_only(database: Database) -> None:
    with database.acting_as("outsider") as cursor:
        tiers = {row["tier"] for row in cursor.execute("select tier from public.plans")}
        assert tiers == {"FREE", "STARTER", "GROWTH", "ELITE"}
    for person in ("owner", "platform_admin"):
        with database.acting_as(person) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
            cursor.execute("update public.plans set amount_cents = 1")


def test_an_enterprise_member_sees_the_plan_they_have(database: Database) -> None:
    with server(database) as cursor:
        cursor.execute("update public.organizations set subscription_tier = 'ENTERPRISE' where id = %s", [ACME])
        for person, seen in (("member", 2), ("globex_member", 0), ("platform_admin", 2)):
            now_as(cursor, person).execute("select from public.plans where tier = 'ENTERPRISE'")
            assert cursor.rowcount == seen, person


def test_attack_put_a_free_enterprise_plan_on_sale(database: Database) -> None:
    with server(database) as cursor, pytest.raises(psycopg.errors.CheckViolation, match="costs nothing"):
        cursor.execute("update public.plans set is_active = true where tier = 'ENTERPRISE'")


@pytest.mark.parametrize(
    "change",
    [
        "limits - 'members'",
        "limits || '{\"member\": 5}'",
        "limits || '{\"members\": -1}'",
        "limits || '{\"members\": 1.5}'",
        'limits || \'{"members": "5"}\'',
        '\'["members", "storage_bytes", "api_calls", "ai_tokens", "orders_per_month", "templates", "blueprints"]\'',
        "'null'",
    ],
)
def test_limits_that_could_be_misread_are_refused(database: Database, change: str) -> None:
    with server(database) as cursor, pytest.raises(psycopg.errors.CheckViolation, match="limits has every limit"):
        cursor.execute(f"update public.plans set limits = {change}")


def test_one_plan_of_a_tier_and_cycle_is_on_sale(database: Database) -> None:
    with server(database) as cursor, pytest.raises(psycopg.errors.UniqueViolation):
        cursor.execute(
            "insert into public.plans (tier, billing_cycle, amount_cents, limits)"
            " select tier, billing_cycle, 1, limits from public.plans where tier = 'GROWTH'"
        )


def limit(cursor: Cursor, what: str | None, org: UUID | None = ACME) -> object:
    return value(cursor, "select private.plan_limit(%s, %s)", [org, what])


def test_limit_follows_the_current_tier(database: Database) -> None:
    with server(database) as cursor:
        assert (limit(cursor, "members"), limit(cursor, "orders_per_month")) == (25, 3)
        subscribe(cursor, "ACTIVE", "ELITE")
        assert (limit(cursor, "members"), limit(cursor, "orders_per_month")) == (100, UNLIMITED)


def test_no_organization_or_plan_means_no_quota(database: Database) -> None:
    with server(database) as cursor:
        assert limit(cursor, "members", None) == 0
        assert limit(cursor, "members", PEOPLE["owner"]) == 0
        cursor.execute("delete from public.plans where tier = 'GROWTH'")
        assert limit(cursor, "members") == 0


@pytest.mark.parametrize("what", ["seats", None])
def test_unknown_limit_is_an_error_not_unlimited(database: Database, what: str | None) -> None:
    with server(database) as cursor, pytest.raises(psycopg.Error, match="no such limit") as caught:
        limit(cursor, what)
    assert "orders_per_month" in str(caught.value.diag.message_hint)


def test_limit_follows_billing_cycle_and_plan_on_sale(database: Database) -> None:
    with server(database) as cursor:
        cursor.execute(
            "update public.plans set limits = limits || '{\"members\": 30}'"
            " where tier = 'GROWTH' and billing_cycle = 'YEARLY'"
        )
        cursor.execute(
            "insert into public.plans (tier, billing_cycle, amount_cents, limits, is_active, created_at)"
            " select tier, billing_cycle, 1, limits || '{\"members\": 7}', false, now() + interval '1 day'"
            " from public.plans where tier = 'GROWTH'"
        )
        assert limit(cursor, "members") == 25
        subscribe(cursor, "ACTIVE", "GROWTH")
        cursor.execute("update public.subscriptions set billing_cycle = 'YEARLY'")
        assert limit(cursor, "members") == 30


# Subscriptions


@pytest.mark.parametrize("status", ["TRIAL", "ACTIVE", "PAST_DUE"])
def test_a_live_subscription_gives_its_tier(database: Database, status: str) -> None:
    with server(database) as cursor:
        subscribe(cursor, status, "ELITE")
        assert standing(cursor) == ("ELITE", status)
        assert standing(cursor, GLOBEX) == ("GROWTH", "ACTIVE")


@pytest.mark.parametrize("ended", ["CANCELLED", "INACTIVE"])
def test_ended_subscription_leaves_the_free_tier(database: Database, ended: str) -> None:
    with server(database) as cursor:
        this = subscribe(cursor, "ACTIVE")
        cursor.execute("update public.subscriptions set status = %s, cancelled_at = now() where id = %s", [ended, this])
        assert standing(cursor) == ("FREE", ended)
        assert limit(cursor, "orders_per_month") == 0


def test_deleted_subscription_leaves_the_free_tier(database: Database) -> None:
    with server(database) as cursor:
        subscribe(cursor, "ACTIVE")
        cursor.execute("delete from public.subscriptions")
        assert standing(cursor) == ("FREE", "INACTIVE")


def test_end_of_old_subscription_keeps_its_successor(database: Database) -> None:
    with server(database) as cursor:
        old = subscribe(cursor, "INACTIVE", "STARTER")
        subscribe(cursor, "ACTIVE", "ELITE")
        cursor.execute(
            "update public.subscriptions set status = 'CANCELLED', cancelled_at = now() where id = %s", [old]
        )
        assert standing(cursor) == ("ELITE", "ACTIVE")


def test_an_upgrade_changes_the_tier_at_once(database: Database) -> None:
    with server(database) as cursor:
        this = subscribe(cursor, "ACTIVE", "STARTER")
        cursor.execute("update public.subscriptions set tier = 'ELITE' where id = %s", [this])
        assert standing(cursor) == ("ELITE", "ACTIVE")


@pytest.mark.parametrize("status", ["TRIAL", "ACTIVE", "PAST_DUE"])
def test_attack_a_second_live_subscription(database: Database, status: str) -> None:
    with server(database) as cursor:
        subscribe(cursor, "ACTIVE")
        with pytest.raises(psycopg.errors.UniqueViolation, match="subscriptions_live_idx"):
            subscribe(cursor, status)


def test_attack_two_live_subscriptions(fresh_database: Database) -> None:
    def attempt(_: int) -> bool:
        with server(fresh_database) as cursor:
            try:
                subscribe(cursor, "ACTIVE", "ELITE")
            except psycopg.errors.UniqueViolation:
                return False
            cursor.connection.commit()
            return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1
    with server(fresh_database) as cursor:
        assert standing(cursor) == ("ELITE", "ACTIVE")


def test_the_later_of_two_simultaneous_changes_sees_both(fresh_database: Database) -> None:
    with server(fresh_database) as cursor:
        ended = subscribe(cursor, "CANCELLED", "STARTER")
        paid = subscribe(cursor, "INACTIVE", "ELITE")
        cursor.connection.commit()
    with fresh_database.connect() as paying, fresh_database.connect() as forgetting, ThreadPoolExecutor(1) as pool:
        paying.autocommit = False
        paying.execute("update subscriptions set status = 'ACTIVE' where id = %s", [paid])
        forgotten = pool.submit(forgetting.execute, "delete from subscriptions where id = %s", [ended])
        wait_until_blocked(fresh_database)
        paying.commit()
        forgotten.result(10)
    with server(fresh_database) as cursor:
        assert standing(cursor) == ("ELITE", "ACTIVE")


def test_members_read_only_their_own_subscription(database: Database) -> None:
    seen = {}
    with server(database) as cursor:
        subscribe(cursor, "ACTIVE", "GROWTH")
        for person in ("owner", "viewer", "globex_owner", "removed", "suspended", "outsider"):
            seen[person] = now_as(cursor, person).execute("select from public.subscriptions").rowcount
    assert seen == {"owner": 1, "viewer": 1, "globex_owner": 0, "removed": 0, "suspended": 0, "outsider": 0}


@pytest.mark.parametrize("table", ["subscriptions", "stripe_events"])
def test_attack_owner_writes_billing_columns(database: Database, table: str) -> None:
    for statement in (f"update public.{table} set status = status", f"delete from public.{table}"):
        with database.acting_as("owner") as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
            cursor.execute(statement)


# Stripe's inbox


def deliver(cursor: Cursor, event: str = "evt_1", **columns: Any) -> int:
    columns = {
        "id": event,
        "type": "invoice.paid",
        "created": "2026-11-20T00:00:00Z",
        "livemode": False,
        "payload": "{}",
        **columns,
    }
    names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
    return cursor.execute(
        f"insert into public.stripe_events ({names}) values ({marks}) on conflict (id) do nothing", [*columns.values()]
    ).rowcount


def test_repeated_event_is_stored_once(database: Database) -> None:
    with server(database) as cursor:
        assert [deliver(cursor), deliver(cursor), deliver(cursor, "evt_2")] == [1, 0, 1]
        row = cursor.execute("select status, attempts from public.stripe_events where id = 'evt_1'").fetchone()
        assert row == {"status": "RECEIVED", "attempts": 0}


@pytest.mark.parametrize(
    "columns",
    [{"id": "in_1"}, {"payload": None}, {"payload": "[]"}, {"status": "APPLIED"}, {"redacted_at": "now"}],
)
def test_an_event_that_contradicts_itself_is_refused(database: Database, columns: dict[str, Any]) -> None:
    with server(database) as cursor, pytest.raises(psycopg.errors.CheckViolation):
        deliver(cursor, **columns)


def test_the_inbox_is_read_by_platform_admins_only(database: Database) -> None:
    with server(database) as cursor:
        deliver(cursor)
        for person, seen in (("platform_admin", 1), ("super_admin", 1), ("owner", 0)):
            assert now_as(cursor, person).execute("select from public.stripe_events").rowcount == seen, person
    with database.acting_as(None) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute("select from public.stripe_events")


# Prices and money


def test_price_set_by_hand_keeps_the_old_one_known(database: Database) -> None:
    with database.connect() as connection, connection.transaction(force_rollback=True):
        plan = "tier = 'GROWTH' and billing_cycle = 'MONTHLY' and is_active"
        connection.execute(f"update public.plans set stripe_price_id = 'price_old' where {plan}")
        connection.execute(
            "insert into public.plans (tier, billing_cycle, stripe_price_id, amount_cents, limits, is_active)"
            f" select tier, billing_cycle, 'price_heard_of', 1, limits, false from public.plans where {plan}"
        )
        connection.execute(f"update public.plans set stripe_price_id = 'price_heard_of' where {plan}")
        known = connection.execute("select count(*) from private.plan_prices where tier = 'GROWTH'").fetchone()
        assert known == (2,)


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [(29_900, "usd", "299.00 USD"), (500, "jpy", "500 JPY"), (19_990, "kwd", "19.990 KWD"), (-5, "eur", "-0.05 EUR")],
)
def test_an_amount_is_shown_with_the_decimals_of_its_currency(
    database: Database, amount: int, currency: str, shown: str
) -> None:
    with server(database) as cursor:
        assert value(cursor, "select private.format_money(%s, %s)", [amount, currency]) == shown
