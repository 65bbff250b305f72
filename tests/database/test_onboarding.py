"""Onboarding sessions: allowed steps, expiry, and access by token or owner only."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import product
from typing import Any

import psycopg
import pytest

from tests.support.acting import Cursor, now_as, server, value
from tests.support.world import ACME, GLOBEX, PEOPLE, Database

TOKEN_HASH = sha256(b"the token").hexdigest()
PAYMENT = ("PENDING", "PROCESSING", "SUCCEEDED", "FAILED", "CANCELLED", "REQUIRES_ACTION")
FORWARD = {("PENDING", other) for other in PAYMENT[1:]}
EITHER_WAY = {("REQUIRES_ACTION", "PROCESSING"), ("PROCESSING", "REQUIRES_ACTION")}
DECIDED = set(product(("REQUIRES_ACTION", "PROCESSING"), ("SUCCEEDED", "FAILED", "CANCELLED")))
AFTER_FAILURE = {("FAILED", other) for other in PAYMENT[1:] if other != "FAILED"}
ALLOWED = FORWARD | EITHER_WAY | DECIDED | AFTER_FAILURE
BY_NEW_ATTEMPT = {("FAILED", "PENDING"), ("REQUIRES_ACTION", "PENDING")}

# A session at each of its steps.
AT_STEP: dict[int, dict[str, Any]] = {
    1: {},
    2: {"org_name": "Initech"},
    3: {"org_name": "Initech", "selected_tier": "GROWTH", "billing_cycle": "MONTHLY"},
    4: {"org_name": "Initech", "selected_tier": "FREE", "billing_cycle": "MONTHLY"},
}
PAID = AT_STEP[3] | {"payment_status": "SUCCEEDED"}


@pytest.fixture
def cursor(database: Database) -> Iterator[Cursor]:
    with server(database) as cursor:
        yield cursor


def start(cursor: Cursor, step: int = 1, **columns: Any) -> None:
    columns = {"token_hash": TOKEN_HASH, "current_step": step, **AT_STEP[step], **columns}
    cursor.execute(
        f"insert into public.onboarding_sessions ({', '.join(columns)}) values ({', '.join(['%s'] * len(columns))})",
        [*columns.values()],
    )


def change(cursor: Cursor, **columns: Any) -> None:
    assignments = ", ".join(f"{name} = %s" for name in columns)
    cursor.execute(
        f"update public.onboarding_sessions set {assignments} where token_hash = %s", [*columns.values(), TOKEN_HASH]
    )


def expire(cursor: Cursor) -> None:
    cursor.execute("update public.onboarding_sessions set expires_at = now()")


def refused(code: str, sentence: str) -> Any:
    kind = psycopg.errors.lookup(code) if code[:2] != "PT" else psycopg.Error
    return pytest.raises(kind, match=sentence)


# Who reaches a session


def test_a_session_starts_at_step_one_and_lasts_24_hours(cursor: Cursor) -> None:
    start(cursor)
    row = cursor.execute(
        "select current_step, total_steps, payment_status, is_completed,"
        " expires_at = now() + interval '24 hours' as day"
        " from public.onboarding_sessions"
    ).fetchone()
    assert row == {
        "current_step": 1,
        "total_steps": 4,
        "payment_status": "PENDING",
        "is_completed": False,
        "day": True,
    }


def test_only_the_user_of_a_session_sees_it(cursor: Cursor) -> None:
    start(cursor, user_id=PEOPLE["outsider"])
    start(cursor, token_hash=sha256(b"anonymous").hexdigest())
    seen = {
        person: now_as(cursor, person).execute("select from public.onboarding_sessions").rowcount
        for person in ("outsider", "member", "platform_admin", "super_admin")
    }
    assert seen == {"outsider": 1, "member": 0, "platform_admin": 0, "super_admin": 0}


def test_attack_list_sessions_without_signing_in(database: Database) -> None:
    with database.acting_as(None) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute("select from public.onboarding_sessions")


def test_attack_mark_the_own_session_as_paid(cursor: Cursor) -> None:
    start(cursor, 3, user_id=PEOPLE["outsider"])
    now_as(cursor, "outsider")
    with refused("42501", "permission denied"):
        change(cursor, payment_status="SUCCEEDED")


def test_attack_a_session_is_planted_from_outside(database: Database) -> None:
    for person in (None, "outsider", "platform_admin"):
        with database.acting_as(person) as cursor, refused("42501", "permission denied"):
            start(cursor)


def test_the_token_itself_is_never_stored(cursor: Cursor) -> None:
    with refused("23514", "SHA-256 in hex"):
        start(cursor, token_hash="dGhlIHRva2VuIGl0c2VsZiwgYXMgaXQgd2FzIGhhbmRlZCBvdXQ")


def test_attack_take_over_a_foreign_session(cursor: Cursor) -> None:
    start(cursor)
    change(cursor, user_id=PEOPLE["outsider"])
    with refused("42501", "belongs to somebody else"):
        change(cursor, user_id=PEOPLE["member"])


@pytest.mark.parametrize("column", ["token_hash", "created_at"])
def test_the_identity_of_a_session_is_fixed(cursor: Cursor, column: str) -> None:
    start(cursor)
    values = {"token_hash": sha256(b"another").hexdigest(), "created_at": "2026-01-01"}
    with refused("PT422", "cannot be changed"):
        change(cursor, **{column: values[column]})


# Steps


@pytest.mark.parametrize(("source", "target"), [(1, 2), (2, 3), (2, 1), (3, 2), (3, 1), (4, 1), (4, 2)])
def test_allowed_steps(cursor: Cursor, source: int, target: int) -> None:
    start(cursor, source)
    change(cursor, current_step=target, **AT_STEP[max(source, target)])


@pytest.mark.parametrize(("source", "target"), [(1, 3), (1, 4), (4, 3)])
def test_forbidden_steps(cursor: Cursor, source: int, target: int) -> None:
    start(cursor, source)
    with refused("PT409", f"from step {source} to step {target}") as caught:
        change(cursor, current_step=target, **AT_STEP[target])
    assert "it can go to" in str(caught.value.diag.message_hint)


@pytest.mark.parametrize(
    ("step", "missing", "sentence"),
    [
        (2, {"org_name": None}, "need the organization name"),
        (3, {"selected_tier": None}, "need a tier and a billing cycle"),
        (3, {"billing_cycle": None}, "need a tier and a billing cycle"),
        (3, {"selected_tier": "FREE"}, "FREE has none"),
        (4, {"selected_tier": "GROWTH"}, "needs a payment that succeeded"),
        (2, {"selected_tier": "ENTERPRISE"}, "by agreement"),
        (2, {"org_name": "I"}, "2 to 100 characters"),
        (2, {"org_website": "javascript:alert(1)"}, "website"),
        (2, {"org_description": "x" * 501}, "500 characters"),
    ],
)
def test_step_requires_the_previous_steps(cursor: Cursor, step: int, missing: dict[str, Any], sentence: str) -> None:
    with refused("23514", sentence):
        start(cursor, step, **missing)


@pytest.mark.parametrize("status", [status for status in PAYMENT if status != "SUCCEEDED"])
def test_attack_complete_without_having_paid(cursor: Cursor, status: str) -> None:
    start(cursor, 3, payment_status=status)
    with refused("23514", "needs a payment that succeeded"):
        change(cursor, current_step=4)


def test_attack_pay_for_one_plan_and_take_a_dearer_one(cursor: Cursor) -> None:
    start(cursor, 3, **PAID)
    with refused("PT409", "after a payment for another plan"):
        change(cursor, selected_tier="ELITE")


def test_attack_change_the_plan_under_a_payment_that_was_started(cursor: Cursor) -> None:
    start(cursor, 3, stripe_subscription_id="sub_1", stripe_payment_intent_id="pi_1", payment_attempt=1)
    with refused("PT409", "after a payment for another plan"):
        change(cursor, current_step=2, billing_cycle="YEARLY")


def test_another_plan_replaces_the_started_payment(cursor: Cursor) -> None:
    start(cursor, 3, stripe_subscription_id="sub_1", payment_attempt=1, payment_status="REQUIRES_ACTION")
    change(
        cursor,
        selected_tier="ELITE",
        stripe_subscription_id="sub_2",
        payment_attempt=2,
        payment_status="PENDING",
    )
    assert value(cursor, "select selected_tier from public.onboarding_sessions") == "ELITE"


@pytest.mark.parametrize("status", ["PROCESSING", "SUCCEEDED"])
def test_plan_is_fixed_while_a_payment_is_processing(cursor: Cursor, status: str) -> None:
    start(cursor, 3, payment_status=status)
    with refused("PT409", "cannot go back"):
        change(cursor, current_step=2)


# Payment


@pytest.mark.parametrize(("source", "target"), sorted(set(product(PAYMENT, PAYMENT)) - {(s, s) for s in PAYMENT}))
def test_a_payment_moves_as_allowed_and_no_other_way(cursor: Cursor, source: str, target: str) -> None:
    start(cursor, 3, payment_status=source)
    if (source, target) in ALLOWED:
        change(cursor, payment_status=target)
    else:
        with refused("PT409", f"from {source} to {target}") as caught:
            change(cursor, payment_status=target)
        final = source in {"SUCCEEDED", "CANCELLED"}
        assert ("is final" in str(caught.value.diag.message_hint)) == final


@pytest.mark.parametrize(("source", "target"), sorted(product(PAYMENT, ["PENDING"])))
def test_only_a_new_attempt_starts_again(cursor: Cursor, source: str, target: str) -> None:
    start(cursor, 3, payment_status=source)
    if source == target or (source, target) in BY_NEW_ATTEMPT:
        change(cursor, payment_status=target, payment_attempt=1)
    else:
        with refused("PT409", f"from {source} to {target}"):
            change(cursor, payment_status=target, payment_attempt=1)


def test_attempts_are_never_counted_back(cursor: Cursor) -> None:
    start(cursor, 3, payment_attempt=2)
    with refused("PT422", "cannot decrease"):
        change(cursor, payment_attempt=1)


def test_one_payment_belongs_to_one_session(cursor: Cursor) -> None:
    start(cursor, 3, stripe_payment_intent_id="pi_1")
    with refused("23505", "stripe_payment_intent_id"):
        start(cursor, 3, token_hash=sha256(b"another").hexdigest(), stripe_payment_intent_id="pi_1")


# Expiry and completion


@pytest.mark.parametrize(
    "columns",
    [
        {"org_name": "Hooli"},
        {"current_step": 2},
        {"user_id": PEOPLE["outsider"]},
        {"payment_attempt": 1},
        {"selected_tier": "ELITE"},
    ],
)
def test_expired_session_cannot_change(cursor: Cursor, columns: dict[str, Any]) -> None:
    start(cursor, 3)
    expire(cursor)
    with refused("PT410", "has expired"):
        change(cursor, **columns)


def test_an_expired_free_session_is_not_completed(cursor: Cursor) -> None:
    start(cursor, 4)
    expire(cursor)
    with refused("PT410", "has expired"):
        change(cursor, is_completed=True, completed_at="now", organization_id=ACME)


def test_money_that_arrives_after_expiry_is_written_down_and_completes(cursor: Cursor) -> None:
    start(cursor, 3, user_id=PEOPLE["outsider"], payment_status="PROCESSING")
    expire(cursor)
    change(cursor, payment_status="SUCCEEDED")
    change(cursor, current_step=4, is_completed=True, completed_at="now", organization_id=ACME)
    assert value(cursor, "select is_completed from public.onboarding_sessions") is True


def test_attack_prolong_a_session(cursor: Cursor) -> None:
    start(cursor, expires_at="now")
    with refused("PT422", "cannot be extended"):
        change(cursor, expires_at="tomorrow")
    cursor.connection.rollback()
    now_as(cursor, None)
    with refused("23514", "lasts 24 hours"):
        start(cursor, expires_at="2099-01-01")


@pytest.mark.parametrize(
    "columns",
    [
        {"is_completed": False, "completed_at": None},
        {"org_name": "Hooli"},
        {"organization_id": GLOBEX},
        {"payment_attempt": 9},
        {"current_step": 2},
    ],
)
def test_attack_complete_a_session_twice_or_reopen_it(cursor: Cursor, columns: dict[str, Any]) -> None:
    start(cursor, 4, is_completed=True, completed_at="now", organization_id=ACME)
    with refused("PT409", "is completed"):
        change(cursor, **columns)


def test_two_sessions_never_make_the_same_organization(cursor: Cursor) -> None:
    start(cursor, 4, is_completed=True, completed_at="now", organization_id=ACME)
    with refused("23505", "organization_id"):
        start(
            cursor,
            4,
            token_hash=sha256(b"another").hexdigest(),
            is_completed=True,
            completed_at="now",
            organization_id=ACME,
        )


def test_concurrent_completion_succeeds_once(fresh_database: Database) -> None:
    with server(fresh_database) as cursor:
        start(cursor, 4)
        cursor.connection.commit()

    def complete(_: int) -> bool:
        with server(fresh_database) as cursor:
            cursor.execute(
                "update public.onboarding_sessions set is_completed = true, completed_at = clock_timestamp()"
                " where token_hash = %s and not is_completed",
                [TOKEN_HASH],
            )
            cursor.connection.commit()
            return cursor.rowcount == 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(complete, range(8))) == 1


def test_a_completed_session_outlives_its_user_and_its_organization(fresh_database: Database) -> None:
    with fresh_database.connect() as connection, server(fresh_database) as cursor:
        start(cursor, 4, is_completed=True, completed_at="now", organization_id=GLOBEX, user_id=PEOPLE["outsider"])
        cursor.connection.commit()
        connection.execute("delete from auth.users where id = %s", [PEOPLE["outsider"]])
        connection.execute("delete from public.organizations where id = %s", [GLOBEX])
        rows = connection.execute("select user_id, organization_id, is_completed from onboarding_sessions").fetchall()
    assert rows == [(None, None, True)]
