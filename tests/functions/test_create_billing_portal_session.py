"""create-billing-portal-session: only owners get a portal session, with a return URL on our origins."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from functions.create_billing_portal_session import PortalSession
from local.stripe.server import Double
from tests.support.responses import refused
from tests.support.serving import NO_TLS, Serving, environment, serving
from tests.support.world import ACME, GLOBEX, Database

APP = "https://app.test"


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    double = Double().start()
    yield double
    double.stop()


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory, database_url: str, double: Double) -> Iterator[Serving]:
    variables = environment(
        database_url, RETURN_ORIGINS=f"{APP},http://127.0.0.1:3000", **double.environment("whsec_1")
    )
    with serving(tmp_path_factory.mktemp("functions"), variables) as running:
        yield running


@pytest.fixture(autouse=True)
def customer(database: Database, double: Double) -> Iterator[str]:
    """Acme is a customer; Globex never bought anything."""
    made = double.account.new("customer", email="owner@acme.test", invoice_settings={"default_payment_method": None})
    with database.connect() as connection:
        connection.execute("update public.organizations set stripe_customer_id = %s where id = %s", [made["id"], ACME])
    yield made["id"]
    with database.connect() as connection:
        connection.execute("update public.organizations set stripe_customer_id = null")
    double.faults.clear()


def open_portal(functions: Serving, person: str | None = "owner", org: str = "", **body: Any) -> httpx.Response:
    with functions.client(person) as client:
        headers = {"x-org-id": org} if org else {}
        return client.post("/functions/v1/create-billing-portal-session", json=body, headers=headers)


def test_owner_gets_the_portal_of_their_organization(functions: Serving, double: Double, customer: str) -> None:
    answer = open_portal(functions, return_url=f"{APP}/plan?tab=2")
    assert answer.status_code == 201, answer.text
    PortalSession.model_validate_json(answer.content)
    session = double.account.get("billing_portal.session", answer.json()["url"].rpartition("/")[2])
    assert (session["customer"], session["return_url"]) == (customer, f"{APP}/plan?tab=2")
    assert "owner@acme.test" in httpx.get(answer.json()["url"], verify=NO_TLS).text
    assert open_portal(functions).status_code == 201


@pytest.mark.parametrize("person", ["admin", "member", "viewer", "removed", "outsider", "globex_owner", "super_admin"])
def test_attack_open_a_foreign_portal(functions: Serving, person: str) -> None:
    refused(open_portal(functions, person, str(ACME)), 403, "42501")


def test_attack_a_suspended_owner_opens_the_portal(functions: Serving) -> None:
    refused(open_portal(functions, "suspended"), 403, "user_suspended")


def test_organization_without_customer_has_no_portal(functions: Serving) -> None:
    answer = refused(open_portal(functions, "globex_owner"), 409, "PT409").json()
    assert str(GLOBEX) in answer["details"]
    assert "create-checkout-session" in answer["hint"]


def test_missing_stripe_customer_is_no_client_error(functions: Serving, double: Double, customer: str) -> None:
    double.account.put({"id": customer, "object": "customer", "deleted": True})
    assert customer in refused(open_portal(functions), 409, "unknown_customer").json()["details"]


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.test/",
        "http://app.test/",
        "https://app.test.evil.test/",
        "https://app.test@evil.test/",
        "https://evil.test/https://app.test",
        "https://app.test:444/",
        "https://user@app.test/",
        "https://[app.test/",
    ],
)
def test_attack_the_portal_leads_back_to_a_stranger(functions: Serving, double: Double, address: str) -> None:
    before = len(list(double.store.all("billing_portal.session")))
    answer = refused(open_portal(functions, return_url=address), 422, "unknown_origin").json()
    assert APP in answer["hint"]
    assert len(list(double.store.all("billing_portal.session"))) == before


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "//evil.test", "https://app.test\\@evil.test", "https://a b"]
)
def test_invalid_return_url_is_refused(functions: Serving, address: str) -> None:
    refused(open_portal(functions, return_url=address), 422, "invalid_body")


@pytest.mark.parametrize(
    ("how", "code"), [("429", "stripe_busy"), ("500", "stripe_unavailable"), ("timeout", "stripe_unavailable")]
)
def test_unavailable_stripe_is_503_with_retry_after(functions: Serving, double: Double, how: str, code: str) -> None:
    double.fail(how, times=9, path="billing_portal")
    answer = refused(open_portal(functions), 503, code)
    assert answer.headers["retry-after"] == "5"


def test_a_short_trouble_at_stripe_is_not_the_owners(functions: Serving, double: Double) -> None:
    double.fail("timeout", path="billing_portal", after=True)
    assert open_portal(functions).status_code == 201


def test_missing_stripe_key_is_503(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, environment(database_url, STRIPE_SECRET_KEY="")) as functions:
        refused(open_portal(functions), 503, "billing_off")
