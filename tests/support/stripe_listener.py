"""Functions with the Stripe webhook, for two organizations that are customers without a plan."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.serving import Serving, environment, serving
from tests.support.stripe_events import OLD_SECRET, SECRET, differences, event, sell, send, subscription
from tests.support.world import ACME, GLOBEX, Connection, Database, Row

KEY = "sk_test_of_the_tests"
CUSTOMERS = ((ACME, "cus_acme"), (GLOBEX, "cus_globex"))


@contextmanager
def listening(folder: Path, database: Database, database_url: str) -> Iterator[Serving]:
    """The functions of an account in test mode; Acme is cus_acme, Globex cus_globex."""
    with database.connect() as connection:
        sell(connection)
        connection.execute(
            "update public.organizations set subscription_tier = 'FREE', subscription_status = 'INACTIVE'"
        )
    admit(database)
    variables = environment(database_url, STRIPE_WEBHOOK_SECRETS=f"{OLD_SECRET},{SECRET}", STRIPE_SECRET_KEY=KEY)
    with serving(folder, variables) as running:
        yield running


def admit(database: Database) -> None:
    with database.connect() as connection:
        for org, customer in CUSTOMERS:
            connection.execute("update public.organizations set stripe_customer_id = %s where id = %s", [customer, org])


def forget(database: Database) -> None:
    """Delete everything that came from Stripe."""
    with database.connect() as connection:
        connection.execute(
            "delete from public.stripe_events; delete from public.stripe_objects; delete from public.notifications;"
            "delete from public.subscriptions; delete from public.onboarding_sessions;"
            "delete from private.former_customers; delete from public.plans where stripe_price_id = 'price_new';"
            "delete from private.plan_prices where stripe_price_id = 'price_new'; delete from public.refunds_due;"
            "delete from public.stripe_tasks; delete from private.foreign_stripe_keys;"
            "delete from private.published_events; delete from private.closed_customers"
        )
        sell(connection)
    admit(database)


def status(connection: Connection, sent: Row) -> str:
    row = connection.execute("select status::text from public.stripe_events where id = %s", [sent["id"]]).fetchone()
    assert row, "the event is not stored"
    return str(row[0])


def plan_of(connection: Connection, org: object = ACME) -> tuple[str, str]:
    row = connection.execute(
        "select subscription_tier::text, subscription_status::text from public.organizations where id = %s", [org]
    ).fetchone()
    assert row
    return row[0], row[1]


def acme(status: str = "active", **more: Any) -> Row:
    return subscription("sub_acme", "cus_acme", status=status, **more)


def created(of: Row, **more: Any) -> Row:
    return event("customer.subscription.created", of, **more)


def updated(before: Row, after: Row, **more: Any) -> Row:
    return event("customer.subscription.updated", after, before=differences(before, after), **more)


def deleted(of: Row, **more: Any) -> Row:
    return event("customer.subscription.deleted", of, **more)


def deliver(functions: Serving, *sent: Row) -> list[str]:
    with functions.client(None) as client:
        answers = [send(functions, each, client) for each in sent]
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    return [answer.json()["status"] for answer in answers]
