"""Stripe events beside subscriptions: customers, checkouts, cards, refunds and payments."""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.responses import refused
from tests.support.serving import Serving
from tests.support.stripe_events import NOW, event, subscription
from tests.support.stripe_listener import acme, created, deleted, deliver, forget, listening, plan_of, status, updated
from tests.support.world import ACME, GLOBEX, PEOPLE, Connection, Database, Row, fixed_id


@pytest.fixture(scope="module")
def stripe(tmp_path_factory: pytest.TempPathFactory, database: Database, database_url: str) -> Iterator[Serving]:
    with listening(tmp_path_factory.mktemp("stripe"), database, database_url) as running:
        yield running


@pytest.fixture(autouse=True)
def forgotten(database: Database) -> Iterator[None]:
    yield
    forget(database)


@pytest.fixture
def stored(database: Database) -> Iterator[Connection]:
    with database.connect() as connection:
        yield connection
        connection.execute("delete from public.refunds_due")


def customer_of(connection: Connection, org: object = ACME) -> Any:
    row = connection.execute("select stripe_customer_id from public.organizations where id = %s", [org]).fetchone()
    assert row
    return row[0]


def notices(connection: Connection) -> list[tuple[Any, ...]]:
    """All notifications."""
    return connection.execute(
        "select user_id, type::text, title from public.notifications order by created_at, title"
    ).fetchall()


def everything(connection: Connection) -> list[tuple[Any, ...]]:
    """Everything that an event of Stripe may change."""
    found: list[tuple[Any, ...]] = []
    for table in ("organizations", "subscriptions", "plans", "notifications", "onboarding_sessions", "refunds_due"):
        found += connection.execute(
            f"select %s, (to_jsonb(t) - 'updated_at')::text from public.{table} t order by 2", [table]
        ).fetchall()
    return found


# Customers

GONE = {"id": "cus_acme", "object": "customer"}


def test_customer_deleted_at_stripe_ends_the_plan(stripe: Serving, stored: Connection) -> None:
    deliver(stripe, created(acme()))
    assert deliver(stripe, event("customer.deleted", GONE, created=NOW + 9)) == ["APPLIED"]
    assert plan_of(stored) == ("FREE", "CANCELLED")
    assert customer_of(stored) is None
    assert notices(stored)[-1] == (PEOPLE["owner"], "WARNING", "Your Growth plan has ended")
    with stripe.client("owner") as client:
        refusal = refused(client.post("/functions/v1/create-billing-portal-session", json={}), 409, "PT409")
    assert refusal.json()["message"] == "This organization was deleted at Stripe"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_a_deleted_customers_events_end_the_same_in_any_order(
    stripe: Serving, stored: Connection, order: tuple[int, ...]
) -> None:
    sent = [
        created(acme()),
        event("customer.deleted", GONE, created=NOW + 9),
        event("customer.updated", GONE | {"name": "Acme"}, created=NOW + 5),
    ]
    deliver(stripe, *(sent[n] for n in order))
    assert plan_of(stored) == ("FREE", "CANCELLED")
    assert customer_of(stored) is None


def test_subscription_of_a_deleted_customer_is_fetched(stripe: Serving, stored: Connection) -> None:
    doubted = "select in_doubt_since is not null from public.stripe_objects where id = 'sub_acme'"
    deliver(stripe, created(acme()), event("customer.deleted", GONE, created=NOW + 9))
    assert stored.execute(doubted).fetchone() == (True,)
    deliver(stripe, deleted(acme("canceled", ended_at=NOW + 9), created=NOW + 9))
    assert stored.execute(doubted).fetchone() == (False,)
    assert plan_of(stored) == ("FREE", "CANCELLED")


def test_later_subscription_event_outranks_the_customer_deletion(stripe: Serving, stored: Connection) -> None:
    sent = [created(acme()), event("customer.deleted", GONE, created=NOW + 9)]
    deliver(stripe, *sent, updated(acme(), acme(cancel_at_period_end=True), created=NOW + 10))
    assert plan_of(stored) == ("GROWTH", "ACTIVE")


def test_organization_can_link_a_new_customer_after_deletion(stripe: Serving, stored: Connection) -> None:
    deliver(stripe, created(acme()), event("customer.deleted", GONE, created=NOW + 9))
    deliver(stripe, created(subscription("sub_again", "cus_again", price="price_elite")))
    stored.execute("update public.organizations set stripe_customer_id = 'cus_again' where id = %s", [ACME])
    assert plan_of(stored) == ("ELITE", "ACTIVE")
    assert stored.execute("select kind from public.billing_attention where kind = 'PAID_TWICE'").fetchall() == []


def test_deleted_customer_is_not_linked(stripe: Serving, stored: Connection) -> None:
    sent = event("customer.deleted", {"id": "cus_new", "object": "customer"})
    assert deliver(stripe, sent) == ["PARKED"]
    stored.execute("update public.organizations set stripe_customer_id = 'cus_new' where id = %s", [GLOBEX])
    assert status(stored, sent) == "APPLIED"
    assert customer_of(stored, GLOBEX) is None


def test_how_a_customer_is_called_stays_at_stripe(stripe: Serving, stored: Connection) -> None:
    before = everything(stored)
    named = {"id": "cus_acme", "object": "customer", "email": "jo@private.test", "name": "Jo", "delinquent": True}
    assert deliver(stripe, event("customer.created", named), event("customer.updated", named, created=NOW + 1)) == [
        "APPLIED",
        "APPLIED",
    ]
    assert everything(stored) == before
    kept = stored.execute("select state::text from public.stripe_objects").fetchall()
    assert kept == [('{"deleted": false, "payment_method": null}',)]


# Checkouts


def checkout(**fields: Any) -> Row:
    return {
        "id": "cs_1", "object": "checkout.session", "mode": "subscription", "status": "complete", "customer": "cus_new",
        "payment_status": "paid", "subscription": "sub_new", "payment_link": None, "metadata": {},
        "client_reference_id": str(GLOBEX), **fields,
    }  # fmt: skip


@pytest.fixture
def unsold(stored: Connection) -> Connection:
    """Globex has no plan and no customer."""
    stored.execute("update public.organizations set stripe_customer_id = null where id = %s", [GLOBEX])
    return stored


BOUGHT = created(subscription("sub_new", "cus_new"))


@pytest.mark.parametrize("first", ["checkout", "subscription"])
@pytest.mark.parametrize(
    "named",
    [
        {},
        {"client_reference_id": str(GLOBEX).upper()},
        {"client_reference_id": None, "metadata": {"organization_id": str(GLOBEX)}},
        {"client_reference_id": str(ACME), "payment_link": "plink_1", "metadata": {"organization_id": str(GLOBEX)}},
    ],
    ids=["reference", "upper case", "metadata", "payment link"],
)
def test_checkout_for_an_organization_links_its_customer(
    stripe: Serving, unsold: Connection, first: str, named: Row
) -> None:
    sent = [event("checkout.session.completed", checkout(**named)), BOUGHT]
    deliver(stripe, *(sent if first == "checkout" else reversed(sent)))
    assert customer_of(unsold, GLOBEX) == "cus_new"
    assert plan_of(unsold, GLOBEX) == ("GROWTH", "ACTIVE")
    assert [status(unsold, each) for each in sent] == ["APPLIED", "APPLIED"]


def test_delayed_checkout_payment_links_the_customer_when_paid(stripe: Serving, unsold: Connection) -> None:
    deliver(stripe, BOUGHT, event("checkout.session.completed", checkout(payment_status="unpaid")))
    assert customer_of(unsold, GLOBEX) is None
    deliver(stripe, event("checkout.session.async_payment_succeeded", checkout(), created=NOW + 99))
    assert plan_of(unsold, GLOBEX) == ("GROWTH", "ACTIVE")


@pytest.mark.parametrize(
    "fields",
    [
        {"payment_link": "plink_1"},
        {"client_reference_id": str(ACME)},
        {"client_reference_id": str(fixed_id("nobody"))},
        {"client_reference_id": "globex"},
        {"client_reference_id": {"id": str(GLOBEX)}},
        {"status": "open"},
        {"status": "expired"},
        {"payment_status": "unpaid"},
        {"mode": "payment"},
        {"mode": "setup", "payment_status": "no_payment_required"},
    ],
    ids=lambda fields: "-".join(map(str, fields.values()))[:30],
)
def test_attack_checkout_links_a_foreign_customer(stripe: Serving, unsold: Connection, fields: Row) -> None:
    """Through a payment link, for an organization with a customer, or without a purchase."""
    sent = event("checkout.session.completed", checkout(**fields))
    assert deliver(stripe, sent) == ["PARKED"]
    assert (customer_of(unsold), customer_of(unsold, GLOBEX)) == ("cus_acme", None)
    (shown,) = unsold.execute("select reason from public.billing_attention").fetchall()
    assert shown == ("No organization or onboarding has the customer cus_new.",)


def test_attack_a_checkout_moves_a_customer_to_another_organization(stripe: Serving, unsold: Connection) -> None:
    assert deliver(stripe, event("checkout.session.completed", checkout(customer="cus_acme"))) == ["APPLIED"]
    assert (customer_of(unsold), customer_of(unsold, GLOBEX)) == ("cus_acme", None)


@pytest.mark.parametrize("kind", ["expired", "async_payment_failed", "completed"])
def test_any_other_checkout_of_a_customer_changes_nothing(stripe: Serving, stored: Connection, kind: str) -> None:
    before = everything(stored)
    state = {"status": "expired" if kind == "expired" else "complete", "payment_status": "unpaid"}
    assert deliver(stripe, event(f"checkout.session.{kind}", checkout(customer="cus_acme", **state))) == ["APPLIED"]
    assert everything(stored) == before


@pytest.mark.parametrize("state", ["open", "expired", "complete"])
def test_only_finished_checkouts_are_parked(stripe: Serving, unsold: Connection, state: str) -> None:
    assert unsold
    sent = checkout(customer=None, client_reference_id=None, status=state, payment_status="unpaid")
    expected = "PARKED" if state == "complete" else "APPLIED"
    assert deliver(stripe, event("checkout.session.expired", sent)) == [expected]


# Cards for later


def card(status: str, error: Row | None = None, customer: str | None = "cus_acme") -> Row:
    return {"id": "seti_1", "object": "setup_intent", "status": status, "last_setup_error": error, "customer": customer}


REFUSED = card("requires_payment_method", {"code": "card_declined"})


def test_owners_are_notified_once_of_a_failed_card(stripe: Serving, stored: Connection) -> None:
    failed = event("setup_intent.setup_failed", REFUSED, created=NOW + 1)
    sent = [event("setup_intent.created", card("requires_payment_method")), failed, failed]
    assert deliver(stripe, *sent) == ["APPLIED"] * 3
    assert notices(stored) == [(PEOPLE["owner"], "ERROR", "A card could not be saved")]


def test_card_saved_after_a_failure_sends_no_notice(stripe: Serving, stored: Connection) -> None:
    sent = [event("setup_intent.setup_failed", REFUSED), event("setup_intent.succeeded", card("succeeded"))]
    deliver(stripe, *reversed(sent))
    deliver(stripe, event("setup_intent.requires_action", card("requires_action") | {"id": "seti_2"}))
    deliver(stripe, event("setup_intent.canceled", card("canceled") | {"id": "seti_3"}))
    assert notices(stored) == []


def test_card_without_customer_is_not_parked(stripe: Serving, stored: Connection) -> None:
    assert deliver(stripe, event("setup_intent.setup_failed", REFUSED | {"customer": None})) == ["APPLIED"]
    assert notices(stored) == []


def test_card_of_an_unknown_customer_sends_no_notice(stripe: Serving, stored: Connection) -> None:
    assert deliver(stripe, event("setup_intent.setup_failed", REFUSED | {"customer": "cus_new"})) == ["PARKED"]
    assert notices(stored) == []


# Refunds


def charge(**fields: Any) -> Row:
    return {"id": "ch_1", "object": "charge", "customer": "cus_acme", "payment_intent": "pi_1", "amount": 69_900,
            "amount_refunded": 69_900, "refunded": True, "currency": "usd", **fields}  # fmt: skip


def refund(status: str, **fields: Any) -> Row:
    return {"id": "re_1", "object": "refund", "charge": "ch_1", "payment_intent": "pi_1", "status": status,
            "amount": 69_900, "currency": "usd", **fields}  # fmt: skip


@pytest.fixture
def given_back(stored: Connection) -> Connection:
    """A refund issued by the job."""
    stored.execute(
        "insert into public.refunds_due (object_id, stripe_payment_intent_id, stripe_refund_id, amount_cents, currency,"
        " reason, status, refunded_at) values ('sub_old', 'pi_1', 're_1', 69900, 'usd', 'REPLACED', 'REFUNDED', now())"
    )
    return stored


def entry(connection: Connection) -> tuple[Any, ...]:
    row = connection.execute("select status::text, error, refunded_at is null from public.refunds_due").fetchone()
    assert row
    return tuple(row)


PAID = {"id": "pi_1", "object": "payment_intent", "status": "succeeded", "customer": "cus_acme"}
ISSUED = event("charge.refunded", charge(), created=NOW)


@pytest.mark.parametrize("kind", ["refund.failed", "charge.refund.updated", "refund.updated"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "reversed"])
def test_refund_failing_later_is_due_again(
    stripe: Serving, given_back: Connection, kind: str, order: tuple[int, ...]
) -> None:
    failed = event(kind, refund("failed"), created=NOW + 3 * 86_400)
    deliver(stripe, event("payment_intent.succeeded", PAID))
    assert deliver(stripe, *([ISSUED, failed][n] for n in order)) == ["APPLIED", "APPLIED"]
    assert entry(given_back) == ("FAILED", "Stripe says: failed.", True)
    shown = given_back.execute("select kind, what_to_do from public.billing_attention").fetchall()
    assert [kind for kind, _ in shown] == ["REFUND_FAILED"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_manual_refund_settles_a_failed_refund(stripe: Serving, given_back: Connection, order: tuple[int, ...]) -> None:
    sent = [
        ISSUED,
        event("refund.failed", refund("failed"), created=NOW + 9),
        event("charge.refunded", charge(), created=NOW + 99),
    ]
    deliver(stripe, event("payment_intent.succeeded", PAID), *(sent[n] for n in order))
    assert entry(given_back) == ("REFUNDED", None, False)


def test_pending_refund_changes_nothing(stripe: Serving, given_back: Connection) -> None:
    deliver(stripe, event("payment_intent.succeeded", PAID))
    before = everything(given_back)
    sent = [event("refund.created", refund("pending")), event("refund.updated", refund("succeeded"), created=NOW + 1)]
    assert deliver(stripe, *sent) == ["APPLIED", "APPLIED"]
    assert [row for row in everything(given_back) if row[0] != "notifications"] == before
    assert [title for *_, title in notices(given_back)] == ["You are refunded 699.00 USD"]


def test_refund_of_a_large_amount_is_applied(stripe: Serving) -> None:
    dear = charge(amount=10**12, amount_refunded=10**12, currency="idr")
    assert deliver(stripe, event("charge.refunded", dear)) == ["APPLIED"]


def test_thin_event_is_stored_only(stripe: Serving, stored: Connection) -> None:
    """A thin event names the changed object without its content; the list of events has the full event."""
    thin = event("v1.customer.subscription.updated", None) | {
        "object": "v2.core.event",
        "created": "2026-11-20T10:00:00.123Z",
    }
    thin |= {
        "data": {},
        "related_object": {"id": "sub_acme", "type": "subscription", "url": "/v1/subscriptions/sub_acme"},
    }
    assert deliver(stripe, thin, thin) == ["IGNORED", "IGNORED"]
    assert stored.execute("select count(*) from public.stripe_events").fetchone() == (1,)


# Payments of one second, late payments


def intent(status: str, *, failed: bool = False, kind: str = "payment_intent") -> Row:
    error = {"code": "card_declined"} if failed else None
    return {"id": "pi_1", "object": kind, "status": status, "customer": "cus_acme", "last_payment_error": error,
            "last_setup_error": error}  # fmt: skip


@pytest.mark.parametrize(
    ("second", "is_doubted"),
    [
        ([intent("requires_payment_method"), intent("requires_payment_method", failed=True)], False),
        ([intent("requires_payment_method"), intent("requires_action")], False),
        ([intent("requires_action"), intent("succeeded")], False),
        ([intent("requires_payment_method", failed=True), intent("succeeded")], False),
        ([intent("requires_payment_method", failed=True), intent("canceled")], False),
        ([intent("requires_payment_method", failed=True), intent("requires_action")], True),
        ([intent("requires_payment_method", failed=True), intent("processing")], True),
    ],
    ids=lambda second: "-".join(each["status"] for each in second) if isinstance(second, list) else "",
)
@pytest.mark.parametrize("kind", ["payment_intent", "setup_intent"])
def test_payment_with_ambiguous_second_is_marked_for_fetching(
    stripe: Serving, stored: Connection, kind: str, second: list[Row], *, is_doubted: bool
) -> None:
    deliver(stripe, *(event(f"{kind}.{each['status']}", each) for each in second))
    doubted = "select in_doubt_since is not null from public.stripe_objects"
    assert stored.execute(doubted).fetchone() == (is_doubted,)
    deliver(stripe, event(f"{kind}.processing", intent("processing"), created=NOW + 1))
    assert stored.execute(doubted).fetchone() == (False,)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_same_second_invoice_events_keep_the_furthest_status(
    stripe: Serving, stored: Connection, order: tuple[int, ...]
) -> None:
    kinds = ("created", "finalized", "payment_failed", "payment_action_required")
    sent = [
        event(f"invoice.{kind}", {"id": "in_1", "status": "draft" if kind == "created" else "open",
                                  "customer": "cus_acme"})
        for kind in kinds
    ]  # fmt: skip
    deliver(stripe, *(sent[n] for n in order))
    assert stored.execute("select state ->> 'outcome' from public.stripe_objects").fetchone() == (kinds[-1],)


def test_grace_period_starts_when_the_late_payment_is_known(stripe: Serving, stored: Connection) -> None:
    """Stripe delivers for three days: a later event was lost by Strive, not by the customer."""
    long_ago = int(time.time()) - 40 * 86_400
    on_time = acme(created=long_ago)
    deliver(stripe, created(on_time, created=long_ago))
    deliver(stripe, updated(on_time, on_time | {"status": "past_due"}, created=long_ago + 5))
    assert plan_of(stored) == ("GROWTH", "PAST_DUE")
    since = "select now() - past_due_since between '3 days' and '3 days 1 minute' from public.subscriptions"
    assert stored.execute(since).fetchone() == (True,)
