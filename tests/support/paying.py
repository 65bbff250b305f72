"""Functions with a Stripe double of their own, with prices for all plans."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psycopg.rows import dict_row

from local.stripe.server import Double
from shared.billing.prices import put_on_sale
from tests.support.onboarding import Customer
from tests.support.serving import SECRET_KEY, Serving, environment, serving
from tests.support.world import Database, Row

SECRET = "whsec_of_the_tests"
ANOTHER_CARD = "4000000000000002"  # declined
AUTHENTICATED = "4000002760003184"  # requires authentication by the bank


@dataclass
class Shop:
    """`functions` may be a process that a test kills; `serve` starts another."""

    functions: Serving
    database: Database
    double: Double
    folder: Path
    variables: Mapping[str, str]

    @contextmanager
    def serve(self, function: str) -> Iterator["Shop"]:
        with serving(self.folder, {**self.variables, "FUNCTION_TARGET": function}) as functions:
            yield Shop(functions, self.database, self.double, self.folder, self.variables)

    def customer(self, person: str | None = "outsider", tier: str | None = None, cycle: str = "MONTHLY") -> Customer:
        return Customer(self.functions, person).start(tier, cycle)

    def paid(self, customer: Customer, card: str = "4242424242424242") -> Any:
        """Start the payment and pay it as the browser would; return the response of start-onboarding-payment."""
        started = customer.done("pay")
        self.double.pay(started["client_secret"], card)
        return started

    def look(self, query: str, *values: Any) -> list[Row]:
        with self.database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, values).fetchall()

    def write(self, query: str, *values: Any) -> None:
        with self.database.connect() as connection:
            connection.execute(query, values)

    def expire(self) -> None:
        self.write("update public.onboarding_sessions set expires_at = now() where not is_completed")

    def job(self) -> Any:
        with self.functions.client(None, apikey=SECRET_KEY) as client:
            done = client.post("/functions/v1/settle-onboarding-payments", json={})
        assert done.is_success, done.text
        return done.json()["result"]

    def at_stripe(self, kind: str) -> list[dict[str, Any]]:
        return list(self.double.store.all(kind))

    def made(self) -> Row:
        """Counts of organizations, owners and subscriptions, for all sessions together."""
        (row,) = self.look(
            "select (select count(*) from public.organizations where slug not in ('acme', 'globex')) as organizations,"
            " (select count(*) from public.organization_members m join public.organizations o"
            " on o.id = m.organization_id where o.slug not in ('acme', 'globex') and m.role = 'OWNER') as owners,"
            " (select count(*) from public.subscriptions where status = 'ACTIVE') as subscriptions"
        )
        return row

    def forget(self) -> None:
        """Delete everything at Stripe except products and prices."""
        with self.double.store.change():
            self.double.store._db.execute(
                "delete from objects where kind not in ('product', 'price', 'webhook_endpoint')"
            )
            self.double.store._db.execute("delete from responses")

    def refunds(self) -> list[Row]:
        return self.look("select * from public.refunds_due order by created_at")


@contextmanager
def shop(folder: Path, database: Database, database_url: str, **more: str) -> Iterator[Shop]:
    double = Double().start()
    try:
        with database.connect() as connection:
            put_on_sale(connection, double.url, double.key)
        variables = environment(database_url, **double.environment(SECRET), **more)
        with serving(folder, variables) as functions:
            yield Shop(functions, database, double, folder, variables)
    finally:
        double.stop()


def sweep(database: Database) -> None:
    """Delete everything that onboarding created."""
    with database.connect() as connection:
        for statement in (
            "delete from public.refunds_due",
            "delete from private.onboarding_payments",
            "delete from public.onboarding_sessions",
            "delete from private.onboarding_counts",
            "delete from public.organizations where slug not in ('acme', 'globex')",
            "delete from public.stripe_tasks",
            "delete from private.closed_customers",
            "delete from private.published_events",
        ):
            connection.execute(statement)


ONE: Row = {"organizations": 1, "owners": 1, "subscriptions": 1}
NONE: Row = {"organizations": 0, "owners": 0, "subscriptions": 0}
