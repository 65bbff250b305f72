"""Onboarding without payment: steps, owner, expiry, and refusals before any request to Stripe."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from psycopg.rows import dict_row

from tests.support.onboarding import ORGANIZATION, Customer
from tests.support.responses import refused
from tests.support.serving import PUBLISHABLE_KEY, Serving
from tests.support.world import PEOPLE, Database, Row


@pytest.fixture(autouse=True)
def _clean(database: Database) -> Iterator[None]:
    yield
    with database.connect() as connection:
        connection.execute("delete from private.onboarding_payments")
        connection.execute("delete from public.onboarding_sessions")
        connection.execute("delete from private.onboarding_counts")
        connection.execute("delete from public.organizations where slug not in ('acme', 'globex')")


def kept(database: Database, query: str, *values: Any) -> list[Row]:
    with database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, values).fetchall()


def expire(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("update public.onboarding_sessions set expires_at = now()")


# The four steps


def test_free_onboarding_creates_organization_and_owner(functions: Serving, database: Database) -> None:
    customer = Customer(functions, "outsider").start()
    named = customer.done("update", step=1, **ORGANIZATION | {"name": "  Initech Güter & Co. "})
    assert (named["current_step"], named["name"]) == (2, "Initech Güter & Co.")
    planned = customer.done("update", step=2, tier="FREE", billing_cycle="MONTHLY")
    assert (planned["current_step"], planned["amount_cents"], planned["currency"]) == (4, 0, "usd")
    completed = customer.done("complete")
    assert completed["is_completed"]
    assert completed["organization"]["slug"] == "initech-guter-co"
    org = completed["organization"]["id"]
    (made,) = kept(database, "select * from public.organizations where id = %s", org)
    assert (made["subscription_tier"], made["subscription_status"]) == ("FREE", "ACTIVE")
    assert (made["website"], made["billing_email"]) == ("https://initech.test", "outsider@strive.test")
    (member,) = kept(database, "select user_id, role from public.organization_members where organization_id = %s", org)
    assert (member["user_id"], member["role"]) == (PEOPLE["outsider"], "OWNER")
    (bought,) = kept(
        database, "select tier, status, amount_cents from public.subscriptions where organization_id = %s", org
    )
    assert bought == {"tier": "FREE", "status": "ACTIVE", "amount_cents": 0}
    assert customer.done("get") == completed


def test_started_without_signing_in_and_completed_after_signing_up(functions: Serving, database: Database) -> None:
    anonymous = Customer(functions).start("FREE")
    refusal = refused(anonymous.call("complete"), 401, "PT401")
    assert "send the token of the session again" in refusal.json()["hint"]
    completed = anonymous.signed_in("outsider").done("complete")
    (session,) = kept(database, "select user_id from public.onboarding_sessions")
    assert session["user_id"] == PEOPLE["outsider"]
    assert completed["organization"]["name"] == "Initech"


def test_a_session_is_resumed_from_any_step(functions: Serving) -> None:
    customer = Customer(functions).start()
    assert customer.done("get")["current_step"] == 1
    customer.done("update", step=1, **ORGANIZATION)
    assert customer.done("get")["name"] == "Initech"
    customer.done("update", step=2, tier="GROWTH", billing_cycle="YEARLY")
    resumed = customer.done("get")
    assert (resumed["current_step"], resumed["tier"], resumed["billing_cycle"]) == (3, "GROWTH", "YEARLY")
    assert (resumed["amount_cents"], resumed["payment_status"]) == (699000, "PENDING")


def test_steps_are_done_again_and_the_price_follows_the_plan(functions: Serving) -> None:
    customer = Customer(functions, "outsider").start("STARTER")
    assert customer.done("update", step=1, name="Hooli")["current_step"] == 3
    again = customer.done("get")
    assert (again["name"], again["website"], again["amount_cents"]) == ("Hooli", None, 29900)
    assert customer.done("update", step=2, tier="FREE", billing_cycle="YEARLY")["current_step"] == 4
    assert customer.done("update", step=2, tier="ELITE", billing_cycle="MONTHLY")["amount_cents"] == 199900


def test_signed_in_user_continues_without_token(functions: Serving) -> None:
    started = Customer(functions, "outsider").start("FREE").done("get")
    elsewhere = Customer(functions, "outsider")
    assert elsewhere.done("get") == started
    assert elsewhere.done("get", session_id=started["session_id"]) == started
    assert elsewhere.done("complete", session_id=started["session_id"])["is_completed"]
    refused(elsewhere.call("get"), 404, "PT404")


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ({"step": 1, "name": "I"}, {"name"}),
        ({"step": 1, "name": " I "}, {"name"}),
        ({"step": 1, "name": "I" * 101, "website": "ftp://initech"}, {"name", "website"}),
        ({"step": 1, "name": "Initech", "description": "x" * 501}, {"description"}),
        ({"step": 1}, {"name"}),
        ({"step": 2, "tier": "PLATINUM", "billing_cycle": "WEEKLY"}, {"tier", "billing_cycle"}),
        ({"step": 2, "tier": "GROWTH"}, {"billing_cycle"}),
        ({"step": 3}, {"step"}),
        ({}, {"step"}),
    ],
)  # fmt: skip
def test_invalid_step_is_422_with_each_field(functions: Serving, words: Row, fields: set[str]) -> None:
    customer = Customer(functions).start()
    refusal = refused(customer.call("update", **words), 422, "invalid_body")
    assert {each["field"] for each in refusal.json()["details"]} == fields


def test_enterprise_is_422_with_a_contact_hint(functions: Serving) -> None:
    customer = Customer(functions).start()
    customer.done("update", step=1, **ORGANIZATION)
    refusal = refused(customer.call("update", step=2, tier="ENTERPRISE", billing_cycle="YEARLY"), 422, "PT422")
    assert "contact our sales team" in refusal.json()["hint"]


def test_a_step_out_of_turn_is_409(functions: Serving) -> None:
    customer = Customer(functions, "outsider").start()
    refused(customer.call("update", step=2, tier="FREE", billing_cycle="MONTHLY"), 409, "PT409")
    refused(customer.call("pay"), 409, "PT409")
    refused(customer.call("complete"), 409, "PT409")
    customer.start("FREE")
    refused(customer.call("pay"), 409, "PT409")
    customer.done("complete")
    for refusal in (customer.call("update", step=1, name="Late"), customer.call("pay")):
        refused(refusal, 409, "PT409")


def test_expired_session_is_410_unless_completed(functions: Serving, database: Database) -> None:
    completed = Customer(functions, "outsider").start("FREE")
    completed.done("complete")
    customer = Customer(functions, "outsider").start("FREE")
    (session,) = kept(
        database, "select expires_at - created_at as lasts from public.onboarding_sessions where not is_completed"
    )
    assert session["lasts"].total_seconds() == 24 * 3600
    expire(database)
    for verb, words in (("get", {}), ("update", {"step": 1, "name": "Late"}), ("pay", {}), ("complete", {})):
        refused(customer.call(verb, **words), 410, "PT410")
    assert completed.done("get")["is_completed"]


def test_plan_without_stripe_price_is_503(functions: Serving, database: Database) -> None:
    customer = Customer(functions).start("STARTER")
    refusal = refused(customer.call("pay"), 503, "PT503")
    assert refusal.headers["retry-after"]
    assert kept(database, "select from private.onboarding_payments") == []


# Names

# Three free organizations each, no more.
ACTIVE = [person for person in PEOPLE if person != "suspended"]


def test_existing_slug_gets_a_number(functions: Serving) -> None:
    people = iter(ACTIVE)

    def slug(name: str) -> str:
        customer = Customer(functions, next(people))
        return str(customer.start("FREE", name=name).done("complete")["organization"]["slug"])

    assert [slug(name) for name in ("Acme", "ACME!", "Acme-1", "acme")] == ["acme-1", "acme-2", "acme-1-1", "acme-3"]
    assert slug("東京") == "organization"
    assert slug("--  Straße_9  --") == "strae-9"
    assert len(slug("x" * 100)) == 60


def test_concurrent_equal_names_get_different_slugs(functions: Serving) -> None:
    sessions = [Customer(functions, person).start("FREE", name="Twins") for person in ACTIVE]
    with ThreadPoolExecutor(10) as pool:
        slugs = {one["organization"]["slug"] for one in pool.map(lambda each: each.done("complete"), sessions)}
    assert slugs == {"twins", *(f"twins-{n}" for n in range(1, 10))}


# Once


def test_twenty_concurrent_completions_create_one_organization(functions: Serving, database: Database) -> None:
    customer = Customer(functions, "outsider").start("FREE", name="Once")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: customer.call("complete"), range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    (counted,) = kept(
        database,
        "select count(distinct o.id) as organizations, count(distinct m.user_id) as owners,"
        " count(distinct s.id) as bought"
        " from public.organizations o left join public.organization_members m on m.organization_id = o.id"
        " left join public.subscriptions s on s.organization_id = o.id where o.name = 'Once'",
    )
    assert counted == {"organizations": 1, "owners": 1, "bought": 1}


# Whose it is


def test_token_is_returned_once_and_stored_as_hash(functions: Serving, database: Database) -> None:
    customer = Customer(functions).start()
    assert customer.token
    assert len(customer.token) == 43
    assert "token" not in customer.done("get")
    (session,) = kept(database, "select to_jsonb(s) as all from public.onboarding_sessions s")
    assert customer.token not in str(session)
    assert session["all"]["token_hash"] == hashlib.sha256(customer.token.encode()).hexdigest()
    assert customer.token not in functions.log.read_text()


@pytest.mark.parametrize("verb", ["get", "update", "pay", "complete"])
def test_attack_unknown_malformed_or_foreign_token(functions: Serving, verb: str) -> None:
    theirs = Customer(functions, "globex_owner").start("FREE")
    words: Row = {"step": 1, "name": "Mine"} if verb == "update" else {}
    answers = [
        Customer(functions, "outsider", token).call(verb, **words)
        for token in (theirs.token, "x" * 43, "", "'; drop table", "\U0001f600" * 99, f"{theirs.token} ")
    ]
    answers.append(Customer(functions, "outsider").call(verb, session_id=theirs.done("get")["session_id"], **words))
    if verb != "complete":
        answers.append(Customer(functions, None, theirs.token).call(verb, **words))
    assert {refused(answer, 404, "PT404").text for answer in answers} == {answers[0].text}
    assert theirs.done("get")["name"] == "Initech"


def test_attack_take_over_a_session_bound_to_a_user(functions: Serving) -> None:
    anonymous = Customer(functions).start("FREE")
    anonymous.signed_in("outsider").done("update", step=1, name="Mine")
    refused(anonymous.call("get"), 404, "PT404")
    refused(anonymous.signed_in("globex_owner").call("complete"), 404, "PT404")
    assert anonymous.signed_in("outsider").done("complete")["organization"]["name"] == "Mine"


def test_attack_onboard_while_suspended(functions: Serving) -> None:
    suspended = Customer(functions, "suspended")
    refused(suspended.post("create-onboarding-session", {}), 403, "user_suspended")
    token = Customer(functions).start("FREE").token
    for verb in ("get", "pay", "complete"):
        refused(Customer(functions, "suspended", token).call(verb), 403, "user_suspended")


@pytest.mark.parametrize(
    "claim",
    [
        {"amount_cents": 1},
        {"price": "price_1"},
        {"payment_status": "SUCCEEDED"},
        {"stripe_payment_intent_id": "pi_1"},
        {"organization_id": "00000000-0000-4000-8000-000000000000"},
        {"seen": {"payment_status": "SUCCEEDED"}},
        {"checked": 1},
        {"user_id": "00000000-0000-4000-8000-000000000000"},
    ],
)
def test_attack_client_sends_server_fields(functions: Serving, claim: Row) -> None:
    customer = Customer(functions, "outsider").start("GROWTH")
    for verb, words in (
        ("update", {"step": 2, "tier": "ELITE", "billing_cycle": "MONTHLY"}),
        ("pay", {}),
        ("complete", {}),
        ("get", {}),
    ):
        refused(customer.call(verb, **words | claim), 422, "invalid_body")
    refused(customer.post("create-onboarding-session", claim), 422, "invalid_body")


def test_attack_onboard_past_the_functions(database: Database) -> None:
    for person in (None, "owner"):
        for operation in ("create_onboarding_session", "record_onboarding_payment", "complete_onboarding_session"):
            with database.acting_as(person) as cursor, pytest.raises(Exception, match="permission denied"):
                cursor.execute(f"select private.{operation}('{{}}')")


def test_attack_flood_of_sessions_from_one_address(functions: Serving, database: Database) -> None:
    address = {"x-forwarded-for": "203.0.113.7"}
    with database.connect() as connection:
        connection.execute(
            "insert into private.onboarding_counts select '203.0.113.7', h, 59"
            " from unnest(array[date_trunc('hour', now()), date_trunc('hour', now()) + interval '1 hour']) h"
        )
    visitor = Customer(functions, headers=address)
    assert visitor.post("create-onboarding-session", {}).status_code == 201
    assert refused(visitor.post("create-onboarding-session", {}), 429, "PT429").headers["retry-after"]
    # Signed-in users, other addresses and localhost are not limited by it.
    assert Customer(functions, "outsider", headers=address).post("create-onboarding-session", {}).status_code == 201
    for other in ("203.0.113.8", "127.0.0.1", "::ffff:127.0.0.1"):
        answer = visitor.post("create-onboarding-session", {}, **{"x-forwarded-for": other})
        assert answer.status_code == 201


def test_attack_start_without_any_key(functions: Serving) -> None:
    with functions.client(None) as client:
        refused(client.post("/functions/v1/create-onboarding-session", json={}), 401, "missing_credentials")


# The job


def test_attack_run_the_job_without_a_secret_key(functions: Serving) -> None:
    for headers in ({"apikey": PUBLISHABLE_KEY}, {}):
        with functions.client("owner", **headers) as client:
            refused(client.post("/functions/v1/settle-onboarding-payments", json={}), 401, "missing_credentials")
