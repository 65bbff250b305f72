"""The Stripe webhook over HTTP: signatures, stored events and their effects."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.support.acting import wait_until_blocked
from tests.support.responses import refused
from tests.support.serving import Serving, environment, serving
from tests.support.stripe_events import (
    MONTH,
    NOW,
    OLD_SECRET,
    SECRET,
    SHAPES,
    WEBHOOK,
    event,
    send,
    signed,
    subscription,
)
from tests.support.stripe_listener import (
    KEY,
    acme,
    created,
    deleted,
    deliver,
    forget,
    listening,
    plan_of,
    status,
    updated,
)
from tests.support.world import ACME, GLOBEX, PEOPLE, Connection, Database, Row


@pytest.fixture(scope="module")
def stripe(tmp_path_factory: pytest.TempPathFactory, database: Database, database_url: str) -> Iterator[Serving]:
    with listening(tmp_path_factory.mktemp("stripe"), database, database_url) as running:
        yield running


@pytest.fixture(autouse=True)
def forgotten(database: Database) -> Iterator[None]:
    """Each test begins with organizations without a plan."""
    yield
    forget(database)


@pytest.fixture
def stored(database: Database) -> Iterator[Connection]:
    with database.connect() as connection:
        yield connection


# Who is let in


def test_signed_event_is_applied_once_and_its_status_returned(stripe: Serving, stored: Connection) -> None:
    sent = created(acme())
    assert send(stripe, sent).json() == {"id": sent["id"], "status": "APPLIED", "duplicate": False}
    assert send(stripe, sent).json() == {"id": sent["id"], "status": "APPLIED", "duplicate": True}
    assert plan_of(stored) == ("GROWTH", "ACTIVE")
    assert stored.execute("select payload from public.stripe_events").fetchall() == [(sent,)]


def test_every_secret_counts_while_one_is_rotated(stripe: Serving) -> None:
    for secret, expected in ((SECRET, 200), (OLD_SECRET, 200), ("whsec_guess", 400)):
        body = json.dumps(event("balance.available", {"object": "balance"})).encode()
        with stripe.client(None) as client:
            assert client.post(WEBHOOK, content=body, headers=signed(body, secret=secret)).status_code == expected


def test_several_signatures_of_which_one_is_ours(stripe: Serving) -> None:
    body = json.dumps(event("balance.available", {"object": "balance"})).encode()
    headers = signed(body)
    time_, _, ours = headers["stripe-signature"].partition(",")
    headers["stripe-signature"] = f"{time_},v1={'0' * 64},v0={'1' * 64},{ours},v1=ab"
    with stripe.client(None) as client:
        assert client.post(WEBHOOK, content=body, headers=headers).status_code == 200


BODY = b'{"id": "evt_forged"}'
RIGHT = signed(BODY)["stripe-signature"]


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "t=,v1=",
        "v1=" + "0" * 64,
        RIGHT.partition(",")[0],
        RIGHT.replace("t=", "t=x"),
        RIGHT.replace("t=", "t=-"),
        RIGHT.replace("t=", "t=1,t="),
        RIGHT.replace("v1=", "v0="),
        RIGHT[:-1],
        RIGHT.upper(),
        "t=" + "9" * 5000 + ",v1=" + "0" * 64,
        "=,=,=",
        "t=1" + ",v1=" + ",v1=".join(["0" * 64] * 60),
    ],
    ids=lambda _: "",  # signatures name the moment
)
def test_attack_a_malformed_or_forged_signature_is_400(stripe: Serving, signature: str) -> None:
    headers = {"content-type": "application/json", "stripe-signature": signature}
    with stripe.client(None) as client:
        answer = client.post(WEBHOOK, content=b'{"id": "evt_other"}', headers=headers)
    refused(answer, 400, answer.json()["code"])
    assert answer.json()["code"] in {"malformed_signature", "invalid_signature"}


@pytest.mark.parametrize("value", ["t=1,v1=é".encode(), b"t=1,v1=\xc5\xbf" * 20, b"t=\xff,v1=\xfe", b"\xc3\x28"])
def test_attack_a_signature_that_is_not_ascii_is_400(stripe: Serving, value: bytes) -> None:
    with stripe.client(None) as client:
        headers = [(b"content-type", b"application/json"), (b"stripe-signature", value)]
        refused(client.post(WEBHOOK, content=BODY, headers=headers), 400, "malformed_signature")


def test_request_without_signature_is_rejected_despite_keys(stripe: Serving) -> None:
    with stripe.client("super_admin") as client:
        refused(client.post(WEBHOOK, json={}), 400, "malformed_signature")


@pytest.mark.parametrize(("seconds", "expected"), [(-290, 200), (-310, 400), (290, 200), (310, 400)])
def test_attack_replay_old_or_future_deliveries(stripe: Serving, seconds: int, expected: int) -> None:
    body = json.dumps(event("balance.available", {"object": "balance"})).encode()
    with stripe.client(None) as client:
        answer = client.post(WEBHOOK, content=body, headers=signed(body, at=time.time() + seconds))
    assert answer.status_code == expected, answer.text
    assert expected == 200 or answer.json()["code"] == "stale_signature"


def test_attack_one_byte_is_changed(stripe: Serving) -> None:
    body = json.dumps(created(acme())).encode()
    with stripe.client(None) as client:
        answer = client.post(WEBHOOK, content=body.replace(b"price_growth", b"price_elite_"), headers=signed(body))
    refused(answer, 400, "invalid_signature")


def nested(depth: int) -> bytes:
    return b'{"id": "evt_1", "type": "a", "created": 1, "data": ' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"evt_1"',
        b"1",
        b"{}",
        nested(1000),
        nested(100_000),
        b'{"id": "evt_1", "type": "a", "created": ' + b"9" * 5000 + b"}",
        b'{"id": "evt_1", "type": "a", "created": 1, "livemode": false, "data": {"n": ' + b"9" * 200_000 + b"}}",
        b'{"id": "evt_1", "type": "a", "created": 1, "data": {"n": 1e999999}}',
        b'{"id": "evt_1", "type": "a", "created": 1, "data": {"n": NaN}}',
        b'{"id": "evt_1", "type": "a", "created": 99999999999999}',
        b'{"id": "evt_1", "type": "a", "created": -1}',
        b'{"id": "evt_1", "type": "a", "created": 1.5}',
        b'{"id": "evt_1", "type": "a", "created": true}',
        b'{"id": "evt_1", "type": "a"}',
        b'{"id": "evt_1", "type": null, "created": 1}',
        b'{"id": "evt_1", "type": "", "created": 1}',
        b'{"id": "evt_1", "type": "two words", "created": 1}',
        b'{"id": "evt_ 1", "type": "a", "created": 1}',
        b'{"id": "evt_1", "type": {}, "created": 1}',
        b'{"id": "in_1", "type": "a", "created": 1}',
        b'{"id": ["evt_1"], "type": "a", "created": 1}',
        b'{"id": "evt_1", "type": "a", "created": 1, "data": {"name": "a\\u0000b"}}',
        b'{"id": "evt_1", "type": "a", "created": 1, "api_version": "\\u0000"}',
        b'{"id": "evt_1", "type": "a", "created": 1, "data": {"name": "\\ud800"}}',
        b'{"id": "evt_1", "type": "a", "created": 1, "data": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"id": "evt_1", "type": "a", "created": 1} {}',
    ],
    ids=lambda body: body[:60].decode("latin-1"),
)
def test_attack_signed_body_that_is_no_event(stripe: Serving, stored: Connection, body: bytes) -> None:
    answer = send(stripe, body)
    refused(answer, 400, answer.json()["code"])
    assert stored.execute("select count(*) from public.stripe_events").fetchone() == (0,)


def test_body_over_the_limit_is_413(stripe: Serving) -> None:
    sent = event("balance.available", {"object": "balance"})
    for mebibytes in (1, 9, 20):
        sent["data"]["object"]["filler"] = "x" * (mebibytes << 20)
        refused(send(stripe, sent), 413, "body_too_large")
    sent["data"]["object"]["filler"] = "x" * 500_000
    assert send(stripe, sent).json()["status"] == "IGNORED"


def test_other_content_type_is_415_and_method_405(stripe: Serving) -> None:
    body = json.dumps(created(acme())).encode()
    with stripe.client(None) as client:
        refused(client.get(WEBHOOK), 405, "method_not_allowed")
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            headers = signed(body) | {"content-type": kind}
            refused(client.post(WEBHOOK, content=body, headers=headers), 415, "unsupported_media_type")


def test_without_secrets_deliveries_are_put_off_not_refused(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, environment(database_url)) as functions:
        refused(send(functions, created(acme())), 503, "billing_off")


def test_nothing_personal_is_in_the_log(stripe: Serving) -> None:
    customer = {"id": "cus_acme", "object": "customer", "email": "jo@private.test", "name": "Jo Private"}
    for sent in (event("customer.updated", customer), event("customer.updated", customer | {"id": "cus_unknown"})):
        send(stripe, sent)
    send(stripe, json.dumps(event("customer.updated", customer)).encode()[:-1])
    assert "rivate" not in stripe.log.read_text()


# What becomes of it


@pytest.mark.parametrize("shape", SHAPES)
def test_a_subscription_gives_the_organization_its_tier_in_both_shapes(
    stripe: Serving, stored: Connection, shape: str
) -> None:
    assert deliver(stripe, created(acme(shape=shape), api_version=shape)) == ["APPLIED"]
    assert plan_of(stored) == ("GROWTH", "ACTIVE")
    row = stored.execute(
        "select tier::text, billing_cycle::text, amount_cents, extract(epoch from current_period_end)::bigint"
        " from public.subscriptions where organization_id = %s",
        [ACME],
    ).fetchone()
    assert row == ("GROWTH", "MONTHLY", 69_900, NOW + MONTH)


@pytest.mark.parametrize(
    ("at_stripe", "here"),
    [
        ("incomplete", ("FREE", "INACTIVE")),
        ("incomplete_expired", ("FREE", "INACTIVE")),
        ("trialing", ("GROWTH", "TRIAL")),
        ("active", ("GROWTH", "ACTIVE")),
        ("past_due", ("GROWTH", "PAST_DUE")),
        ("unpaid", ("FREE", "INACTIVE")),
        ("paused", ("FREE", "INACTIVE")),
        ("canceled", ("FREE", "CANCELLED")),
        ("something_new", ("FREE", "INACTIVE")),
        (None, ("FREE", "INACTIVE")),
    ],
)
def test_a_status_at_stripe_is_one_here(
    stripe: Serving, stored: Connection, at_stripe: Any, here: tuple[str, str]
) -> None:
    now = int(time.time())
    assert deliver(stripe, created(acme(at_stripe), created=now)) == ["APPLIED"]
    assert plan_of(stored) == here


def test_cancelled_plan_is_kept_until_period_end(stripe: Serving, stored: Connection) -> None:
    before, after = acme(), acme(cancel_at_period_end=True, canceled_at=NOW + 5)
    deliver(stripe, created(before), updated(before, after, created=NOW + 5))
    assert plan_of(stored) == ("GROWTH", "ACTIVE")
    assert stored.execute("select cancel_at_period_end, cancelled_at from public.subscriptions").fetchone() == (
        True,
        None,
    )
    deliver(stripe, deleted(after | {"status": "canceled", "ended_at": NOW + MONTH}, created=NOW + MONTH))
    assert plan_of(stored) == ("FREE", "CANCELLED")
    cancelled = stored.execute("select extract(epoch from cancelled_at)::bigint from public.subscriptions").fetchone()
    assert cancelled == (NOW + MONTH,)


def test_only_owners_are_notified_of_every_change(stripe: Serving, stored: Connection) -> None:
    now = int(time.time())
    trial, active, late = acme(), acme(price="price_elite", amount=199_900), acme("past_due", price="price_elite")
    ending = active | {"cancel_at_period_end": True}
    deliver(
        stripe,
        created(trial, created=now),
        updated(trial, active, created=now + 1),
        updated(active, late, created=now + 2),
        updated(late, active, created=now + 3),
        updated(active, ending, created=now + 4),
        deleted(ending | {"status": "canceled"}, created=now + 5),
    )
    sent = stored.execute("select user_id, type::text, title from public.notifications order by created_at").fetchall()
    assert {who for who, _, _ in sent} == {PEOPLE["owner"]}
    assert [(kind, title.partition(" on ")[0]) for _, kind, title in sent] == [
        ("SUCCESS", "Your plan is Growth"),
        ("INFO", "Your plan is Elite now"),
        ("ERROR", "A payment failed"),
        ("SUCCESS", "No payment is late any more"),
        ("INFO", "Your Elite plan ends"),
        ("WARNING", "Your Elite plan has ended"),
    ]


def test_same_second_events_are_ordered_by_previous_attributes(stripe: Serving, stored: Connection) -> None:
    first, paid, late = acme("incomplete"), acme("active"), acme("past_due")
    sent = [created(first), updated(first, paid), updated(paid, late), updated(late, paid)]
    deliver(stripe, *reversed(sent))
    assert plan_of(stored) == ("GROWTH", "ACTIVE")


def test_same_second_cycle_ends_in_its_starting_state(stripe: Serving, stored: Connection) -> None:
    off, on = acme(), acme(cancel_at_period_end=True)
    turned_on, turned_off = updated(off, on, created=NOW + 9), updated(on, off, created=NOW + 9)
    deliver(stripe, turned_off, turned_on, created(off))
    ends = "select cancel_at_period_end from public.subscriptions"
    assert stored.execute(ends).fetchone() == (False,)
    assert stored.execute("select in_doubt_since from public.stripe_objects").fetchone() == (None,)


def test_ambiguous_state_is_marked_for_fetching(stripe: Serving, stored: Connection) -> None:
    first, paid, late, gone = acme("incomplete"), acme(), acme("past_due"), acme("unpaid")
    deliver(stripe, created(first, created=NOW - 5), updated(first, paid), updated(late, gone))
    assert stored.execute("select in_doubt_since is not null from public.stripe_objects").fetchone() == (True,)
    deliver(stripe, updated(paid, late))
    assert stored.execute("select in_doubt_since is not null from public.stripe_objects").fetchone() == (False,)
    assert plan_of(stored) == ("FREE", "INACTIVE")


def test_deleted_subscription_stays_deleted(stripe: Serving, stored: Connection) -> None:
    deliver(stripe, deleted(acme("canceled"), created=NOW), created(acme(), created=NOW - 50))
    deliver(stripe, updated(acme("past_due"), acme(), created=NOW))
    assert plan_of(stored) == ("FREE", "CANCELLED")


@pytest.mark.parametrize(
    "kind",
    [
        "customer.subscription.created",
        "invoice.paid",
        "payment_intent.succeeded",
        "customer.updated",
        "charge.refunded",
    ],
)
def test_unknown_customer_parks_the_event_until_linked(stripe: Serving, stored: Connection, kind: str) -> None:
    of = subscription("sub_new", "cus_new") if "subscription" in kind else {"id": "x_new", "customer": "cus_new"}
    sent = event(kind, {"id": "cus_new"} if kind == "customer.updated" else of)
    assert deliver(stripe, sent) == ["PARKED"]
    with stored.transaction(force_rollback=True):
        stored.execute("set constraints all immediate")
        stored.execute("update public.organizations set stripe_customer_id = 'cus_new' where id = %s", [GLOBEX])
        assert status(stored, sent) == "APPLIED"
        assert plan_of(stored, GLOBEX)[0] == ("GROWTH" if "subscription" in kind else "FREE")


def test_unknown_price_parks_the_event_until_known(stripe: Serving, stored: Connection) -> None:
    sent = created(acme(price="price_new"))
    assert deliver(stripe, sent) == ["PARKED"]
    assert plan_of(stored) == ("FREE", "INACTIVE")
    price = {"id": "price_new", "object": "price", "active": True, "unit_amount": 99_900, "currency": "usd",
             "recurring": {"interval": "month", "interval_count": 1}, "metadata": {"tier": "ELITE"}}  # fmt: skip
    assert deliver(stripe, event("price.created", price)) == ["APPLIED"]
    assert status(stored, sent) == "APPLIED"
    assert plan_of(stored) == ("ELITE", "ACTIVE")


def test_change_to_an_unknown_price_keeps_the_tier(stripe: Serving, stored: Connection) -> None:
    before, after = acme(), acme(price="price_new", cancel_at_period_end=True)
    assert deliver(stripe, updated(before, after, created=NOW + 1), created(before)) == ["PARKED", "PARKED"]
    assert plan_of(stored) == ("GROWTH", "ACTIVE")
    deliver(stripe, deleted(after | {"status": "canceled"}, created=NOW + 2))
    assert plan_of(stored) == ("FREE", "CANCELLED")
    assert stored.execute("select distinct status::text from public.stripe_events").fetchall() == [("APPLIED",)]


def test_an_event_of_the_other_mode_is_quarantined(stripe: Serving, stored: Connection) -> None:
    sent = created(acme(), livemode=True)
    assert deliver(stripe, sent) == ["QUARANTINED"]
    assert plan_of(stored) == ("FREE", "INACTIVE")
    assert deliver(stripe, created(acme("past_due"), created=int(time.time()))) == ["APPLIED"]
    assert plan_of(stored) == ("GROWTH", "PAST_DUE")


def test_two_running_subscriptions_count_once_and_are_shown(stripe: Serving, stored: Connection) -> None:
    older, newer = acme(), acme(id="sub_newer", price="price_elite", created=NOW + 5)
    deliver(stripe, created(newer, created=NOW + 5), created(older))
    assert plan_of(stored) == ("ELITE", "ACTIVE")
    assert stored.execute("select kind, id from public.billing_attention").fetchall() == [("PAID_TWICE", "sub_acme")]
    deliver(stripe, deleted(newer | {"status": "canceled"}, created=NOW + 9))
    assert plan_of(stored) == ("GROWTH", "ACTIVE")


def test_a_price_archived_at_stripe_is_no_longer_sold(stripe: Serving, stored: Connection) -> None:
    price = {"id": "price_growth", "object": "price", "active": False, "product": "prod_1", "unit_amount": 69_900}
    sold = "select is_active from public.plans where stripe_price_id = 'price_growth'"
    deliver(stripe, event("price.updated", price, before={"active": True}))
    assert stored.execute(sold).fetchone() == (False,)
    deliver(stripe, event("price.updated", price | {"active": True}, before={"active": False}, created=NOW + 1))
    assert stored.execute(sold).fetchone() == (True,)
    product = {"id": "prod_1", "object": "product", "active": False}
    deliver(stripe, event("product.updated", product, before={"active": True}))
    assert stored.execute(sold).fetchone() == (False,)
    deliver(stripe, event("product.updated", product | {"active": True}, before={"active": False}, created=NOW + 1))
    assert stored.execute(sold).fetchone() == (True,)


def test_dispute_is_listed_until_closed(stripe: Serving, stored: Connection) -> None:
    dispute = {"id": "dp_1", "object": "dispute", "status": "needs_response", "charge": "ch_1", "reason": "fraudulent",
               "evidence_details": {"due_by": NOW}, "payment_intent": "pi_1"}  # fmt: skip
    assert deliver(stripe, event("charge.dispute.created", dispute)) == ["PARKED"]
    paid = {"id": "pi_1", "object": "payment_intent", "status": "succeeded", "customer": "cus_acme"}
    assert deliver(stripe, event("payment_intent.succeeded", paid)) == ["APPLIED"]
    shown = "select kind, subject from public.billing_attention"
    assert stored.execute(shown).fetchall() == [("DISPUTED", "fraudulent")]
    deliver(stripe, event("charge.dispute.closed", dispute | {"status": "won"}, created=NOW + 5))
    assert stored.execute(shown).fetchall() == []


@pytest.mark.parametrize(
    "kind",
    [
        "account.updated", "balance.available", "invoice.upcoming", "v1.billing.meter.error_report_triggered",
        "customer.tax_id.created", "customer.discount.created", "a", "test_helpers.test_clock.ready",
        "customer.subscription.something_new", "charge.succeeded", "terminal.reader.action_failed", "plan.created",
        "Not-Yet.Known!", "événement.créé", "x" * 255,
    ],
)  # fmt: skip
def test_no_event_of_any_type_fails(stripe: Serving, kind: str) -> None:
    about: list[Any] = [None, [], "x", 1, {}, {"id": None}, {"id": 7, "customer": {"id": []}}]
    assert set(deliver(stripe, *(event(kind, of) for of in about))) == {"IGNORED"}


NAMES = [
    "status", "customer", "items", "plan", "price", "parent", "payments", "metadata", "recurring", "charge",
    "subscription", "payment_intent", "active", "currency", "evidence_details", "unit_amount", "amount",
    "amount_refunded", "created", "current_period_end", "cancel_at", "ended_at", "product", "last_payment_error",
]  # fmt: skip
FAMILIES = [
    "customer.subscription.updated", "customer.subscription.deleted", "invoice.paid", "setup_intent.created",
    "customer.updated", "payment_intent.created", "checkout.session.completed", "charge.refunded",
    "charge.dispute.created", "product.updated", "price.updated",
]  # fmt: skip
VALUES = [None, "", "x", "\U0001f600" * 300, 0, -1, 10**30, 1.5, True, [], [None], {}, {"data": [None, 1]}, {"id": "y"}]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:12])
def test_no_content_of_a_handled_event_fails(stripe: Serving, value: Any) -> None:
    for number, family in enumerate(FAMILIES):
        of = dict.fromkeys(NAMES, value) | {"id": f"x_{number}"}
        sent = [event(family, of, before=before) for before in (None, value, {"items": value, "status": value})]
        assert set(deliver(stripe, *sent)) <= {"APPLIED", "PARKED"}, family
        known = [event(family, of | {"customer": "cus_acme", "id": f"known_{number}"}, created=NOW + 5)]
        assert set(deliver(stripe, *known)) <= {"APPLIED", "PARKED"}, family


def test_any_event_id_is_accepted(stripe: Serving, stored: Connection) -> None:
    sent = [created(acme(), id=name) for name in (f"evt_{uuid4()}", "evt_1.x:y", "evt_" + "9" * 250)]
    assert deliver(stripe, *sent) == ["APPLIED"] * 3
    assert status(stored, sent[0]) == "APPLIED"


def test_an_event_of_an_account_connected_to_ours_is_ignored(stripe: Serving) -> None:
    assert deliver(stripe, created(acme(), account="acct_1")) == ["IGNORED"]


# What waits for people


def rpc(database: Database, person: str, name: str) -> Row:
    with database.acting_as(person, commit=True) as cursor:
        row = cursor.execute("select public.requeue_stripe_event(%s) as requeued", [name]).fetchone()
        assert row
        return dict(row["requeued"])


def test_only_platform_admins_see_waiting_events_with_reasons(stripe: Serving, database: Database) -> None:
    parked, foreign = created(subscription("sub_x", "cus_x")), created(acme(), livemode=True)
    priceless = created(acme(price="price_new"))
    deliver(stripe, parked, foreign, priceless)
    with database.acting_as("platform_admin") as cursor:
        shown = {row["id"]: row for row in cursor.execute("select * from public.billing_attention")}
    assert {name: (row["kind"], row["reason"]) for name, row in shown.items()} == {
        parked["id"]: ("PARKED", "No organization or onboarding has the customer cus_x."),
        foreign["id"]: ("QUARANTINED", "It is of live mode, and this is test mode."),
        priceless["id"]: ("PARKED", "No plan has the price price_new."),
    }
    assert all(row["what_to_do"] for row in shown.values())
    for person in ("owner", "outsider"):
        with database.acting_as(person) as cursor:
            assert cursor.execute("select from public.billing_attention").rowcount == 0


def test_admin_requeues_an_event_and_it_is_audited(stripe: Serving, database: Database, stored: Connection) -> None:
    sent = created(acme())
    deliver(stripe, sent)
    stored.execute(
        "update public.stripe_events set status = 'RECEIVED', applied_at = null, error = 'a defect';"
        "delete from public.stripe_objects; delete from public.subscriptions"
    )
    assert rpc(database, "platform_admin", sent["id"]) == {"id": sent["id"], "status": "APPLIED", "reason": None}
    assert plan_of(stored) == ("GROWTH", "ACTIVE")
    logged = "select admin_id, success, target_id from public.admin_action_logs where target_type = 'stripe_event'"
    assert stored.execute(logged).fetchall()[-1] == (PEOPLE["platform_admin"], True, sent["id"])


def test_requeued_event_that_still_cannot_apply_keeps_waiting(stripe: Serving, database: Database) -> None:
    parked, foreign = created(subscription("sub_x", "cus_x")), created(acme(), livemode=True)
    deliver(stripe, parked, foreign)
    assert rpc(database, "super_admin", parked["id"])["status"] == "PARKED"
    assert rpc(database, "super_admin", foreign["id"])["status"] == "QUARANTINED"


@pytest.mark.parametrize(("person", "name", "state"), [("owner", "", "42501"), ("platform_admin", "", "PT404")])
def test_attack_requeue_as_non_admin_or_unknown_event(
    stripe: Serving, database: Database, person: str, name: str, state: str
) -> None:
    assert stripe
    with pytest.raises(psycopg.Error) as refusal:
        rpc(database, person, name)
    assert refusal.value.sqlstate == state


def test_ignored_event_is_not_requeued(stripe: Serving, database: Database) -> None:
    sent = event("balance.available", {})
    deliver(stripe, sent)
    with pytest.raises(psycopg.Error) as refusal:
        rpc(database, "platform_admin", sent["id"])
    assert refusal.value.sqlstate == "PT409"


def test_events_apply_after_the_key_mode_is_corrected(
    tmp_path: Path, database: Database, database_url: str, stored: Connection
) -> None:
    sent = created(acme(), livemode=True)
    variables = environment(database_url, STRIPE_WEBHOOK_SECRETS=SECRET)
    with serving(tmp_path, variables | {"STRIPE_SECRET_KEY": KEY}) as functions:
        assert deliver(functions, sent) == ["QUARANTINED"]
    with serving(tmp_path, variables | {"STRIPE_SECRET_KEY": KEY.replace("test", "live", 1)}) as functions:
        deliver(functions, event("balance.available", {}, livemode=True))
        assert rpc(database, "platform_admin", sent["id"])["status"] == "APPLIED"
    assert plan_of(stored) == ("GROWTH", "ACTIVE")
    stored.execute("update private.stripe_account set livemode = false")


def test_redacted_event_can_still_be_applied(stripe: Serving, stored: Connection) -> None:
    sent = created(acme(price="price_new"))
    deliver(stripe, sent)
    with stored.transaction(force_rollback=True):
        stored.execute("set constraints all immediate")
        stored.execute("update public.stripe_events set created_at = now() - interval '91 days'")
        stored.execute("select private.redact_stripe_events()")
        kept = stored.execute("select payload, state ->> 'status' from public.stripe_events").fetchone()
        assert kept == (None, "active")
        stored.execute("update public.plans set stripe_price_id = 'price_new' where stripe_price_id = 'price_elite'")
        assert plan_of(stored) == ("ELITE", "ACTIVE")


def test_missing_payment_ends_the_plan_after_the_grace_period(stripe: Serving, stored: Connection) -> None:
    day = 86_400
    since = int(time.time()) - 29 * day
    late = acme("past_due")
    sent = [created(acme(), created=since - day), updated(acme(), late, created=since)]
    sent += [updated(late | {"metadata": {"a": "b"}}, late, created=since + 9 * day)]
    deliver(stripe, *reversed(sent))
    stored.execute("update public.stripe_events set created_at = created")  # and each came at once
    stored.execute("update public.subscriptions set past_due_since = to_timestamp(%s)", [since])
    stored.execute("select private.settle_billing()")
    assert plan_of(stored) == ("GROWTH", "PAST_DUE")
    earlier = "created = created - interval '2 days', created_at = created_at - interval '2 days'"
    stored.execute(f"update public.stripe_events set {earlier}")
    stored.execute("update public.subscriptions set past_due_since = past_due_since - interval '2 days'")
    stored.execute("select private.settle_billing()")
    assert plan_of(stored) == ("FREE", "INACTIVE")


# Crashes


def test_connection_lost_before_commit_is_repaired_by_redelivery(
    stripe: Serving, stored: Connection, database: Database
) -> None:
    sent = created(acme())
    with database.connect() as blocker, ThreadPoolExecutor(1) as pool:
        with blocker.transaction():
            # The event is already in the inbox when the subscription is written.
            blocker.execute("lock table public.subscriptions in share mode")
            answer = pool.submit(send, stripe, sent)
            with database.connect("supabase_admin") as superuser:
                ended = 0
                while not ended:  # a wait for a lock ends after 100 ms and is repeated
                    wait_until_blocked(database)
                    ended = superuser.execute(
                        "select pg_terminate_backend(pid, 5000) from pg_stat_activity where wait_event_type = 'Lock'"
                        " and usename = 'strive_functions' and datname = current_database()"
                    ).rowcount
        refused(answer.result(), 503, "database_unavailable")
    assert answer.result().headers["retry-after"]
    assert stored.execute("select count(*) from public.stripe_events").fetchone() == (0,)
    assert deliver(stripe, sent) == ["APPLIED"]
    assert plan_of(stored) == ("GROWTH", "ACTIVE")


def test_events_about_unlinked_objects_wait_for_the_link(
    stripe: Serving, stored: Connection, database: Database
) -> None:
    """They lock the row, then the customer; the delivery locks the customer, then the row."""
    deliver(stripe, created(acme()))
    sent = updated(acme(), acme("past_due"), created=int(time.time()))
    with database.connect() as person, ThreadPoolExecutor(1) as pool:
        with person.transaction():
            person.execute("select from public.organizations where id = %s for update", [ACME])
            answer = pool.submit(send, stripe, sent)
            wait_until_blocked(database)
            person.execute("select private.wake_stripe('cus_acme')")
        assert answer.result().json()["status"] == "APPLIED"
    assert plan_of(stored) == ("GROWTH", "PAST_DUE")


def test_unavailable_database_is_503_and_stripe_retries(tmp_path: Path) -> None:
    nowhere = "postgresql://strive_functions:x@127.0.0.1:1/postgres"
    with serving(tmp_path, environment(nowhere, STRIPE_WEBHOOK_SECRETS=SECRET)) as functions:
        answer = send(functions, created(acme()))
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


def test_redelivery_after_a_lost_response_gets_the_same_response(stripe: Serving, stored: Connection) -> None:
    """Committed, but the connection is lost before the 200: Stripe delivers again."""
    sent = created(acme())
    body = json.dumps(sent).encode()
    gone = HTTPConnection(stripe.url.removeprefix("http://"))
    gone.request("POST", WEBHOOK, body, signed(body))
    gone.close()
    deadline = time.monotonic() + 60
    while not stored.execute("select from public.stripe_events").rowcount:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert send(stripe, sent).json() == {"id": sent["id"], "status": "APPLIED", "duplicate": True}
    assert plan_of(stored) == ("GROWTH", "ACTIVE")
