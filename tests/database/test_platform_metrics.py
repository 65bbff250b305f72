"""The platform metrics, compared with a slow count in Python."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from random import Random
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from tests.support.world import ACME, PEOPLE, Connection, Database

FIRST, LAST = date(2026, 1, 25), date(2026, 3, 5)  # over the ends of two months, one of 28 days
TICK = timedelta(microseconds=1)
MONTH = timedelta(days=30)
TIERS = ("FREE", "STARTER", "GROWTH", "ELITE", "ENTERPRISE")
LIVE = ("TRIAL", "ACTIVE", "PAST_DUE")
Rows = list[dict[str, Any]]


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.connect("supabase_admin") as connection, connection.transaction(force_rollback=True):
        yield connection


# Another hand --------------------------------------------------------------------------------------------------------


def paying(connection: Connection, moment: datetime) -> dict[Any, Decimal]:
    """The customers just before a moment, and what each pays per month, by the dates of their subscriptions."""
    found: dict[Any, Decimal] = {}
    with connection.cursor(row_factory=dict_row) as cursor:
        for s in cursor.execute("select * from public.subscriptions").fetchall():
            is_over = s["status"] == "CANCELLED" and s["cancelled_at"] < moment
            if s["created_at"] < moment and s["status"] in ("ACTIVE", "PAST_DUE", "CANCELLED") and not is_over:
                monthly = Decimal(s["amount_cents"]) / (12 if s["billing_cycle"] == "YEARLY" else 1)
                if monthly:
                    found[s["organization_id"]] = found.get(s["organization_id"], Decimal()) + monthly
    return found


def slowly(connection: Connection, day: date) -> dict[str, Any]:
    begins = datetime.combine(day, time(), UTC)
    ends = begins + timedelta(days=1)
    month_before = ends - MONTH

    def rows(statement: str) -> Rows:
        with connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement.encode()).fetchall()

    users = [u for u in rows("select * from public.users") if u["created_at"] < ends]
    organizations = {o["id"]: o for o in rows("select * from public.organizations") if o["created_at"] < ends}
    active = {
        s["user_id"]
        for s in rows("select * from private.sign_in_days")
        if any(month_before <= at < ends for at in (s["first_at"], s["last_at"]))
    }
    members = [
        m
        for m in rows("select user_id, organization_id, joined_at from public.organization_members")
        if m["joined_at"] < ends
    ]
    tiers = Counter(o["subscription_tier"] for o in organizations.values())
    at_end, at_start = paying(connection, ends), paying(connection, month_before)
    mrr = int(sum(at_end.values(), Decimal()).quantize(Decimal(1), ROUND_HALF_UP))
    stayed, left = at_start.keys(), at_start.keys() - at_end.keys()
    attachments = rows("select created_at, file_size from public.attachments")
    usage = rows("select * from private.metered where resource_type = 'API_CALLS'")
    return {
        "total_users": len(users),
        "active_users": len(active),
        "new_users": sum(u["created_at"] >= begins for u in users),
        "total_orgs": len(organizations),
        "active_orgs": len({m["organization_id"] for m in members if m["user_id"] in active} & organizations.keys()),
        "new_orgs": sum(o["created_at"] >= begins for o in organizations.values()),
        "mrr_cents": mrr,
        "arr_cents": 12 * mrr,
        "churn_rate": len(left) / len(stayed) if stayed else 0.0,
        **{f"{tier.lower()}_count": tiers[tier] for tier in TIERS},
        "total_storage": sum(a["file_size"] for a in attachments if a["created_at"] < ends),
        "api_calls": sum(u["usage_amount"] for u in usage if u["day"] == day),
    }


# A platform that never was -------------------------------------------------------------------------------------------


class Platform:
    """Rows at random moments, many of them at the very border of a day."""

    def __init__(self, connection: Connection, seed: int) -> None:
        self.connection, self.random = connection, Random(seed)  # noqa: S311 - nothing secret
        self.users = [self.uuid() for _ in range(60)]
        self.organizations = [self.uuid() for _ in range(40)]
        connection.execute("set local session_replication_role = replica")
        for id_ in self.users:
            self.add("users", id=id_, email=f"{id_}@x.test", created_at=self.moment())
            for at in sorted({self.moment().date(): self.moment() for _ in range(self.random.randrange(4))}.values()):
                self.sign_in(id_, at)
        for id_ in self.organizations:
            tier = self.random.choice(TIERS)
            self.add("organizations", id=id_, name="One", slug=id_, subscription_tier=tier, created_at=self.moment())
            for user in self.random.sample(self.users, self.random.randrange(4)):
                self.add("organization_members", user_id=user, organization_id=id_, joined_at=self.moment())
            for status in (self.random.choice(LIVE), "CANCELLED", "INACTIVE"):
                self.subscribe(id_, status)
            self.add(
                "usage_tracking",
                organization_id=id_,
                resource_type=self.random.choice(("API_CALLS", "API_CALLS", "AI_TOKENS")),
                resource_name="x",
                usage_amount=self.random.randrange(2**33),
                day=self.moment().date(),
            )
            self.add(
                "attachments",
                organization_id=id_,
                entity_type="leads",
                entity_id=id_,
                file_name="a.pdf",
                file_size=self.random.randrange(50 << 20),
                mime_type="application/pdf",
                file_path=f"{UUID(id_)}/leads/{id_}/a.pdf",
                created_at=self.moment(),
            )
        connection.execute("set local session_replication_role = origin")

    def uuid(self) -> str:
        return f"{self.random.getrandbits(128):032x}"

    def moment(self) -> datetime:
        day = datetime.combine(FIRST - MONTH, time(), UTC) + timedelta(days=self.random.randrange(75))
        return day + self.random.choice((-TICK, timedelta(), TICK, timedelta(hours=self.random.random() * 24)))

    def add(self, table: str, **values: Any) -> None:
        statement = sql.SQL("insert into public.{} ({}) values ({})").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, values)),
            sql.SQL(", ").join(sql.Placeholder() * len(values)),
        )
        self.connection.execute(statement, [*values.values()])

    def sign_in(self, user: str, at: datetime) -> None:
        later = min(
            at + self.random.choice((0, self.random.random())) * timedelta(hours=1),
            datetime.combine(at.date(), time.max, UTC),
        )
        self.connection.execute(
            "insert into private.sign_in_days values (%s, %s, %s, %s) on conflict do nothing",
            [user, at.date(), at, later],
        )

    def subscribe(self, organization: str, status: str) -> None:
        cancelled = self.moment() if status == "CANCELLED" or self.random.random() < 0.2 else None
        self.add(
            "subscriptions",
            organization_id=organization,
            status=status,
            tier="ELITE",
            billing_cycle=self.random.choice(("MONTHLY", "YEARLY")),
            amount_cents=self.random.choice((0, 29900, 299000, 29999, 1)),
            current_period_end="2100-01-01",
            created_at=self.moment() if cancelled is None else cancelled - self.random.random() * 2 * MONTH,
            cancelled_at=cancelled,
        )


@pytest.mark.parametrize("seed", range(2))
def test_every_day_equals_the_count_in_python(connection: Connection, seed: int) -> None:
    platform = Platform(connection, seed)
    deleted = platform.random.sample(platform.organizations, 5)
    connection.execute("delete from public.organizations where id = any (%s::uuid[])", [deleted])
    connection.execute("delete from public.users where id = %s", [platform.users[0]])
    for zone in ("UTC", "America/New_York"):  # the time zone of the session does not matter
        connection.execute(f"set local timezone = '{zone}'")
        days = [FIRST + timedelta(n) for n in range((LAST - FIRST).days)]
        for day in platform.random.sample(days, 12):
            with connection.cursor(row_factory=dict_row) as cursor:
                cursor.execute("select private.record_platform_metrics(%s)", [day])
                (row,) = cursor.execute("select * from public.platform_metrics where date = %s", [day]).fetchall()
            expected = slowly(connection, day)
            assert {name: row[name] for name in expected} == pytest.approx(expected), day
            assert row["is_estimated"]


def test_day_has_one_row_with_the_last_count(connection: Connection) -> None:
    def today() -> tuple[Any, ...]:
        row: tuple[Any, ...]
        (row,) = connection.execute(
            "select new_users, total_users, is_estimated from public.platform_metrics"
        ).fetchall()
        return row

    connection.execute("select private.refresh_platform_metrics()")
    users = len(PEOPLE)
    assert today() == (users, users, False)
    connection.execute("delete from auth.users where id = %s", [PEOPLE["viewer"]])
    for _ in range(2):
        assert connection.execute("select private.refresh_platform_metrics()").fetchone() == (1,)
        assert today() == (users - 1, users - 1, False)


def test_day_counted_late_is_an_estimate(connection: Connection) -> None:
    days = "select date, total_users, is_estimated from public.platform_metrics order by date"
    connection.execute(
        "insert into public.platform_metrics (date, total_users, measured_at) values"
        " ('2026-02-27', 7, '2026-02-28 00:01+00'), ('2026-02-28', 8, '2026-02-28 23:59+00'),"
        " ('2026-03-01', 9, '2026-03-02 01:00:01+00')"
    )
    for day in ("2026-02-27", "2026-02-28", "2026-03-01"):
        connection.execute("select private.record_platform_metrics(%s)", [day])
    assert connection.execute(days).fetchall() == [
        (date(2026, 2, 27), 7, False),
        (date(2026, 2, 28), 0, True),
        (date(2026, 3, 1), 0, True),
    ]


def test_missed_days_are_counted_later(connection: Connection) -> None:
    connection.execute(
        "insert into public.platform_metrics (date, measured_at)"
        " values ((now() at time zone 'UTC')::date - 5, now() - interval '5 days')"
    )
    assert connection.execute("select private.refresh_platform_metrics()").fetchone() == (6,)
    estimated = connection.execute("select is_estimated from public.platform_metrics order by date").fetchall()
    # Yesterday may have ended less than an hour ago.
    assert [late for (late,) in estimated[:4] + estimated[-1:]] == [True] * 4 + [False]


def test_signing_in_is_remembered_by_the_day(connection: Connection) -> None:
    connection.execute("set local timezone = 'Asia/Tokyo'")
    for at in ("2026-02-01 09:00+00", "2026-02-01 23:59:59+00", "2026-02-01 08:00+00", "2026-02-02 00:00+00"):
        connection.execute("update auth.users set last_sign_in_at = %s where id = %s", [at, PEOPLE["member"]])
    kept = connection.execute(
        "select day, first_at, last_at from private.sign_in_days where user_id = %s and day < '2026-03-01'"
        " order by day",
        [PEOPLE["member"]],
    ).fetchall()
    assert kept == [
        (date(2026, 2, 1), datetime(2026, 2, 1, 8, tzinfo=UTC), datetime(2026, 2, 1, 23, 59, 59, tzinfo=UTC)),
        (date(2026, 2, 2), datetime(2026, 2, 2, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC)),
    ]


def test_cancellation_counts_only_at_period_end(connection: Connection) -> None:
    def rates() -> tuple[Any, ...]:
        day = datetime.now(UTC).date()
        connection.execute("select private.record_platform_metrics(%s)", [day])
        row: tuple[Any, ...]
        (row,) = connection.execute("select mrr_cents, arr_cents, churn_rate from public.platform_metrics").fetchall()
        return row

    connection.execute(
        "insert into public.subscriptions (organization_id, status, tier, billing_cycle, amount_cents, created_at,"
        " current_period_start, current_period_end, cancel_at_period_end, cancelled_at) values"
        " (%s, 'ACTIVE', 'ELITE', 'YEARLY', 1999000, now() - interval '40 days', now(), now() + interval '1 year',"
        " true, now() - interval '1 day')",
        [ACME],
    )
    assert rates() == (166583, 1998996, 0)
    connection.execute("update public.subscriptions set status = 'CANCELLED'")
    assert rates() == (0, 0, 1)


def test_a_day_that_has_not_begun_is_refused(connection: Connection) -> None:
    with pytest.raises(psycopg.Error, match="not begun") as caught:
        connection.execute("select private.record_platform_metrics((now() at time zone 'UTC')::date + 1)")
    assert caught.value.sqlstate == "PT422"


def test_attack_count_or_measure_as_a_user(database: Database) -> None:
    for call in (
        "record_platform_metrics(current_date)",
        "refresh_platform_metrics()",
        "measure_platform(now()::date, now())",
    ):
        with database.acting_as("super_admin") as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
            cursor.execute(f"select private.{call}")
