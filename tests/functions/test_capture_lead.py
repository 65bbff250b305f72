"""capture-lead: input of anonymous visitors, rate limits, and what responses reveal."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.responses import refused as answered
from tests.support.rows import call, refused
from tests.support.serving import Serving, environment, serving
from tests.support.world import ACME, PEOPLE, Database, Row

_address = count(1)


@pytest.fixture
def token(database: Database) -> Iterator[str]:
    """A token of Acme, whose leads the member gets."""
    with database.acting_as("admin", commit=True) as cursor:
        made = call(cursor, "create_capture_token", name="Home page", assigned_to_id=PEOPLE["member"])
    yield made["token"]
    with database.connect() as connection:
        for table in (
            "public.leads",
            "public.contacts",
            "public.activities",
            "public.notifications",
            "private.capture_tokens",
            "private.capture_counts",
        ):
            connection.execute(f"delete from {table}")


def capture(functions: Serving, token: str, address: str | None = None, **words: Any) -> httpx.Response:
    """As a page in a browser sends it: without a key, from an address of its own."""
    body = {"token": token, "name": "Ada", "email": "ada@visitor.test", **words}
    with functions.client(None) as client:
        came_from = {"x-forwarded-for": address or f"198.51.100.{next(_address) % 250}"}
        return client.post("/functions/v1/capture-lead", json=body, headers=came_from)


def leads(database: Database) -> list[Row]:
    with database.acting_as("viewer") as cursor:
        return cursor.execute("select * from public.leads order by created_at").fetchall()


def test_captured_lead_has_source_and_assignee(functions: Serving, database: Database, token: str) -> None:
    details = {"page": "https://acme.test/elm", "utm_source": "google", "utm_medium": "cpc", "message": "Elm 12?"}
    answer = capture(functions, token, budget="250000.50", cities=["Austin"], **details)
    assert (answer.status_code, answer.json()) == (202, {"received": True})
    (lead,) = leads(database)
    assert (lead["organization_id"], lead["assigned_to_id"], lead["source"]) == (ACME, PEOPLE["member"], "GOOGLE_ADS")
    assert (str(lead["budget"]), lead["cities"], lead["notes"]) == ("250000.50", ["Austin"], "Elm 12?")
    assert lead["custom_fields"]["captured"]["page"] == "https://acme.test/elm"
    with database.acting_as("viewer") as cursor:
        cursor.execute("select title from public.activities where lead_id = %s", [lead["id"]])
        assert cursor.fetchall() == [{"title": "New lead from Home page: Ada"}]


def test_known_person_creates_no_second_lead(functions: Serving, database: Database, token: str) -> None:
    first = capture(functions, token)
    again = capture(functions, token, email="ADA@visitor.test", phone="512 555 0100", message="Hello?")
    assert first.json() == again.json()
    (lead,) = leads(database)
    assert lead["last_contact_at"] > lead["created_at"], "an inbound message is contact"
    with database.acting_as("viewer") as cursor:
        assert cursor.execute("select from public.activities where lead_id = %s", [lead["id"]]).rowcount == 2


def test_attack_plant_data_on_a_known_lead(functions: Serving, database: Database, token: str) -> None:
    capture(functions, token, phone="512 555 0100")
    (before,) = leads(database)
    capture(functions, token, email="eve@visitor.test", phone="+1 (512) 555-0100", budget="9", company="Eve")
    capture(functions, token, phone="999 555 0199", budget="9", company="Eve")
    (after,) = leads(database)
    moving = ("updated_at", "last_contact_at")
    assert {k: v for k, v in after.items() if k not in moving} == {k: v for k, v in before.items() if k not in moving}


def test_assignee_or_owners_are_notified_of_a_lead(functions: Serving, database: Database, token: str) -> None:
    capture(functions, token, message="Elm 12?")
    capture(functions, token, message="Hello?")
    with database.connect() as connection:
        connection.execute("update private.capture_tokens set assigned_to_id = null")
    capture(functions, token, email="grace@visitor.test", name="Grace")
    capture(functions, token, website="https://spam.test", email="robot@visitor.test")
    with database.connect() as connection:
        details = connection.execute("select user_id, title, message from public.notifications order by created_at")
        assert details.fetchall() == [
            (PEOPLE["member"], "New lead from Home page: Ada", "Elm 12?"),
            (PEOPLE["member"], "Ada wrote again on Home page", "Hello?"),
            (PEOPLE["owner"], "New lead from Home page: Grace", "They left no message."),
        ]


def test_concurrent_identical_forms_create_one_lead(functions: Serving, database: Database, token: str) -> None:
    # Captures of one token are serialized anyway; those of two tokens because they concern the same person.
    with database.acting_as("admin", commit=True) as cursor:
        tokens = [token, call(cursor, "create_capture_token", name="Landing page")["token"]]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: capture(functions, tokens[n % 2]), range(16)))
    assert {answer.status_code for answer in answers} == {202}
    assert len(leads(database)) == 1


def test_honeypot_request_is_ignored(functions: Serving, database: Database, token: str) -> None:
    answer = capture(functions, token, website="https://spam.test")
    assert (answer.status_code, answer.json()) == (202, {"received": True})
    assert leads(database) == []


def test_attack_flood_from_one_address_or_from_many(functions: Serving, database: Database, token: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        one = Counter(pool.map(lambda _: capture(functions, token, "203.0.113.9").status_code, range(10)))
        with database.connect() as connection:
            connection.execute("update private.capture_tokens set per_minute = 12")
        many = Counter(pool.map(lambda _: capture(functions, token).status_code, range(16)))
    # A minute may have begun between two of them.
    assert one[202] in {5, 10}
    assert one[429] == 10 - one[202]
    assert many[202] < 16
    began = time.time()
    while (refusal := capture(functions, token)).status_code == 202:
        assert time.time() - began < 300
    answered(refusal, 429, "PT429")
    # The limit is reset when the next minute begins.
    assert abs(60 - began % 60 - int(refusal.headers["retry-after"])) <= time.time() - began + 1


def networks(database: Database) -> set[str]:
    with database.connect() as connection:
        return {address for (address,) in connection.execute("select address from private.capture_counts")} - {""}


def test_rate_limit_counts_ipv6_by_its_64_network(functions: Serving, database: Database, token: str) -> None:
    for address in ("2001:db8::1", "2001:db8::2:3", "[2001:db8::4]:4711"):
        capture(functions, token, address)
    assert networks(database) == {"2001:db8::/64"}


def test_rate_limit_counts_the_client_behind_googles_balancer(
    tmp_path: Path, database: Database, database_url: str, token: str
) -> None:
    with serving(tmp_path, environment(database_url, TRUSTED_PROXIES="2")) as functions:
        for client in ("203.0.113.20", "203.0.113.21"):
            capture(functions, token, f"198.51.100.9, {client}, 35.191.0.9")
    assert networks(database) == {"203.0.113.20", "203.0.113.21"}


def test_attack_many_unknown_fields_are_refused_unexplained(functions: Serving, token: str) -> None:
    many = {f"field{number}": 1 for number in range(50_000)}
    answered(capture(functions, token, **dict[str, Any](many)), 413, "body_too_large")
    some = dict(list(many.items())[:6_000])
    assert answered(capture(functions, token, **dict[str, Any](some)), 422, "too_many_values").json()["details"] is None
    few = dict(list(many.items())[:900])
    assert answered(capture(functions, token, **dict[str, Any](few)), 422, "invalid_body").json()["details"] is None


def test_attack_many_empty_objects_are_refused_unexplained(functions: Serving, token: str) -> None:
    assert (
        answered(capture(functions, token, property_types=[{}] * 40_000), 422, "too_many_values").json()["details"]
        is None
    )


def test_rotated_and_revoked_capture_tokens_are_invalid(functions: Serving, database: Database, token: str) -> None:
    with database.acting_as("admin", commit=True) as cursor:
        (listed,) = cursor.execute("select * from public.capture_tokens()").fetchall()
        rotated = call(cursor, "rotate_capture_token", token_id=listed["id"])
    assert token not in str(listed)
    answered(capture(functions, token), 401, "PT401")
    assert capture(functions, rotated["token"]).status_code == 202
    with database.acting_as("admin", commit=True) as cursor:
        call(cursor, "revoke_capture_token", token_id=listed["id"])
        with refused(cursor, "PT404", "no such token"):
            call(cursor, "rotate_capture_token", token_id=listed["id"])
    answered(capture(functions, rotated["token"]), 401, "PT401")
    answered(capture(functions, "a guess"), 401, "PT401")


def test_attack_capture_without_the_function(database: Database) -> None:
    for person in (None, "owner"):
        with database.acting_as(person) as cursor, refused(cursor, "42501", "permission denied"):
            cursor.execute("""select private.capture_lead('{"token": "x"}')""")


@pytest.mark.parametrize(
    "words",
    [{"email": None}, {"email": "nobody"}, {"name": " "}, {"organization_id": str(ACME)}, {"property_types": ["X"]}],
)
def test_invalid_form_is_422(functions: Serving, token: str, words: Row) -> None:
    answered(capture(functions, token, **words), 422, "invalid_body")
