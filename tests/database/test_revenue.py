"""MRR, churn and other changes, compared with a count in Python from the moves of each customer."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from random import Random
from typing import Any

import pytest
from psycopg.rows import dict_row

from tests.support.world import ACME, Connection, Database

MONTH = timedelta(days=30)
TODAY = datetime.combine(date(2026, 11, 1), time(), UTC)
CURRENCIES = ("usd", "eur", "jpy", "kwd")
PAYING = {"ACTIVE", "PAST_DUE"}


@pytest.fixture
def committing(fresh_database: Database) -> Iterator[Connection]:
    """Each statement has its own time."""
    with fresh_database.connect("supabase_admin") as connection:
        yield connection


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    with database.connect("supabase_admin") as connection, connection.transaction(force_rollback=True):
        yield connection


class Ledger:
    """What each organization paid since when, kept beside the database: (organization, subscription) → moves."""

    def __init__(self, connection: Connection, seed: int) -> None:
        self.connection, self.random = connection, Random(seed)  # noqa: S311 - nothing secret
        self.moves: dict[tuple[Any, Any], list[tuple[datetime, str, Decimal]]] = defaultdict(list)

    def organization(self) -> Any:
        name = f"{self.random.getrandbits(40):x}"
        query = "insert into public.organizations (name, slug) values (%s, %s) returning id"
        row = self.connection.execute(query, [name, name]).fetchone()
        assert row
        return row[0]

    def play(self, org: Any) -> None:
        """Up to three subscriptions one after the other: begin, change, pause, revive, end."""
        at = TODAY - timedelta(days=self.random.randrange(20, 160))
        for _ in range(self.random.randrange(1, 4)):
            currency, status = self.random.choice(CURRENCIES), self.random.choice(["ACTIVE", "TRIAL"])
            yearly, net = self.random.random() < 0.3, Decimal(self.random.randrange(0, 40_000)) / 4
            row = self.connection.execute(
                "insert into public.subscriptions (organization_id, stripe_subscription_id, status, tier,"
                " billing_cycle, currency, amount_cents, net_monthly_amount, current_period_end, started_at,"
                " changed_at)"
                " values (%s, gen_random_uuid()::text, %s, 'GROWTH', %s, %s, 99, %s, '2099-01-01', %s, %s)"
                " returning id",
                [org, status, "YEARLY" if yearly else "MONTHLY", currency, net, at, at],
            ).fetchone()
            assert row
            key = (org, row[0])
            self.note(key, at, status, currency, net)
            for _ in range(self.random.randrange(5)):
                at += timedelta(days=self.random.randrange(1, 25), seconds=self.random.randrange(86_400))
                status = self.random.choice(["ACTIVE", "ACTIVE", "PAST_DUE", "INACTIVE"])
                net = self.random.choice([net, Decimal(self.random.randrange(0, 40_000)) / 4])
                self.change(key, at, status, currency, net)
            at += timedelta(days=self.random.randrange(1, 40))
            if self.random.random() < 0.7:
                self.change(key, at, "CANCELLED", currency, net)
                at += timedelta(days=self.random.randrange(1, 40))
            else:
                return

    def change(self, key: tuple[Any, Any], at: datetime, status: str, currency: str, net: Decimal) -> None:
        self.connection.execute(
            "update public.subscriptions set status = %s, net_monthly_amount = %s, changed_at = %s,"
            " cancelled_at = case when %s = 'CANCELLED' then %s::timestamptz end where id = %s",
            [status, net, at, status, at, key[1]],
        )
        self.note(key, at, status, currency, net)

    def note(self, key: tuple[Any, Any], at: datetime, status: str, currency: str, net: Decimal) -> None:
        self.moves[key].append((at, currency, net if status in PAYING else Decimal()))

    def paying(self, moment: datetime) -> dict[Any, dict[str, Decimal]]:
        found: dict[Any, dict[str, Decimal]] = {}
        for (org, _), moves in self.moves.items():
            before = [move for move in moves if move[0] < moment]
            if before and before[-1][2]:
                sums = found.setdefault(org, {})
                sums[before[-1][1]] = sums.get(before[-1][1], Decimal()) + before[-1][2]
        return found

    def ever_paid(self, org: Any, moment: datetime) -> bool:
        return any(
            at < moment and amount
            for (owner, _), moves in self.moves.items()
            if owner == org
            for at, _, amount in moves
        )


def rounded(amount: Decimal) -> int:
    return int(amount.quantize(Decimal(1), ROUND_HALF_UP))


def slowly(ledger: Ledger, moment: datetime, currency: str) -> dict[str, Any]:
    start, end = ledger.paying(moment - MONTH), ledger.paying(moment)
    figures: dict[str, Decimal] = defaultdict(Decimal)
    counts: dict[str, int] = defaultdict(int)
    for org in start.keys() | end.keys():
        was, now = start.get(org, {}).get(currency), end.get(org, {}).get(currency)
        if was is None and now is None:
            continue
        counts["start_customers"] += was is not None
        counts["customers"] += now is not None
        figures["start_mrr_cents"] += was or 0
        figures["mrr_cents"] += now or 0
        if org not in end:
            counts["churned_customers"] += 1
            figures["churned_mrr_cents"] += was or 0
        elif org not in start:
            kind = "reactivated" if ledger.ever_paid(org, moment - MONTH) else "new"
            counts[f"{kind}_customers"] += 1
            figures[f"{kind}_mrr_cents"] += now or 0
        else:
            change = (now or Decimal()) - (was or Decimal())
            figures["expansion_mrr_cents" if change > 0 else "contraction_mrr_cents"] += abs(change)
    cohort, lost = figures["start_mrr_cents"], figures["churned_mrr_cents"]
    names = "mrr start_mrr churned_mrr contraction_mrr expansion_mrr new_mrr reactivated_mrr".split()  # noqa: SIM905 - words read better
    people = "customers start_customers churned_customers new_customers reactivated_customers".split()  # noqa: SIM905 - as above
    return {
        **{f"{name}_cents": rounded(figures[f"{name}_cents"]) for name in names},
        **{name: counts[name] for name in people},
        "arr_cents": 12 * rounded(figures["mrr_cents"]),
        "logo_churn_rate": pytest.approx(counts["churned_customers"] / counts["start_customers"])
        if counts["start_customers"]
        else None,
        "revenue_churn_rate": pytest.approx(float(lost / cohort)) if cohort else None,
    }


@pytest.mark.parametrize("seed", range(3))
def test_revenue_equals_an_independent_count(connection: Connection, seed: int) -> None:
    ledger = Ledger(connection, seed)
    for org in [ledger.organization() for _ in range(60)]:
        ledger.play(org)
    for days in (0, 3, 17, 45, 80):
        moment = TODAY - timedelta(days=days)
        with connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute("select * from private.measure_revenue(%s)", [moment]).fetchall()
        found = {row["currency"]: row for row in rows}
        for currency in CURRENCIES:
            expected = slowly(ledger, moment, currency)
            if expected["customers"] or expected["start_customers"]:
                assert {name: found[currency][name] for name in expected} == expected, (days, currency)


def metrics(connection: Connection) -> dict[str, Any]:
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute("select private.record_platform_metrics((now() at time zone 'UTC')::date)")
        row = cursor.execute("select mrr_cents, mrr_currency, churn_rate from public.platform_metrics").fetchone()
    assert row
    return row


def subscribe(connection: Connection, currency: str, amount: int, org: Any = ACME) -> Any:
    row = connection.execute(
        "insert into public.subscriptions (organization_id, status, tier, billing_cycle, currency, amount_cents,"
        " current_period_end, created_at) values (%s, 'ACTIVE', 'GROWTH', 'MONTHLY', %s, %s, '2099-01-01',"
        " now() - interval '40 days') returning id",
        [org, currency, amount],
    ).fetchone()
    assert row
    return row[0]


def test_currencies_are_added_up_only_with_configured_rates(connection: Connection) -> None:
    subscribe(connection, "jpy", 10_000)
    assert metrics(connection)["mrr_cents"] is None
    connection.execute("insert into private.reporting_rates (currency, rate) values ('jpy', 0.65)")
    assert metrics(connection)["mrr_cents"] == 6500


def test_a_deleted_organization_counts_as_churn(committing: Connection) -> None:
    subscribe(committing, "usd", 69_900)
    assert metrics(committing)["churn_rate"] == 0
    committing.execute("delete from public.organizations where id = %s", [ACME])
    assert metrics(committing)["churn_rate"] == 1


def test_an_upgrade_by_a_new_subscription_is_no_churn(connection: Connection) -> None:
    old = subscribe(connection, "usd", 29_900)
    connection.execute(
        "update public.subscriptions set status = 'CANCELLED', cancelled_at = now() - interval '1 day' where id = %s",
        [old],
    )
    subscribe(connection, "usd", 69_900)
    assert metrics(connection) == {"mrr_cents": 69_900, "mrr_currency": "usd", "churn_rate": 0}


def test_an_unpaid_subscription_counts_as_churn(committing: Connection) -> None:
    unpaid = subscribe(committing, "usd", 29_900)
    committing.execute("update public.subscriptions set status = 'INACTIVE' where id = %s", [unpaid])
    assert metrics(committing)["churn_rate"] == 1
