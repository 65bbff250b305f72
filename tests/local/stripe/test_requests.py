"""Requests, errors, idempotency and faults."""

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import stripe

from local.stripe.server import Double
from tests.local.stripe.conftest import Receiver
from tests.support.stripe_shop import SECRET, Shop, client_of, intent_of, stripe_error


def test_request_without_the_secret_key_is_refused(double: Double) -> None:
    client = client_of(double, key="sk_test_another")
    with pytest.raises(stripe_error.AuthenticationError, match="Invalid API Key provided") as caught:
        client.v1.customers.list()
    assert "sk_test_another" not in str(caught.value)


def test_async_client_works(double: Double) -> None:
    async def create() -> str:
        http: Any = stripe.HTTPXClient(verify_ssl_certs=False)
        client = stripe.StripeClient(double.key, base_addresses={"api": double.url}, http_client=http)
        made = await client.v1.customers.create_async({"name": "Ada"})
        await http.close_async()
        return str(made.name)

    assert asyncio.run(create()) == "Ada"


def test_unknown_parameter_is_refused(shop: Shop) -> None:
    with pytest.raises(stripe_error.InvalidRequestError, match="unknown parameter: colour") as caught:
        shop.client.v1.customers.create({"colour": "red"})
    assert (caught.value.code, caught.value.param) == ("parameter_unknown", "colour")


def test_missing_parameter_is_named(shop: Shop) -> None:
    with pytest.raises(stripe_error.InvalidRequestError, match="Missing required param: customer") as caught:
        shop.client.v1.subscriptions.create({"items": [{"price": shop.price}]})
    assert caught.value.code == "parameter_missing"


def test_missing_object_is_404_in_path_and_400_in_parameter(shop: Shop) -> None:
    requests: dict[int, Any] = {
        404: lambda: shop.client.v1.subscriptions.retrieve("sub_none"),
        400: lambda: shop.subscribe(customer="cus_none"),
    }
    for status, send in requests.items():
        with pytest.raises(stripe_error.InvalidRequestError, match="No such ") as caught:
            send()
        assert (caught.value.http_status, caught.value.code) == (status, "resource_missing")


def test_metadata_is_merged_and_empty_value_deletes_key(shop: Shop) -> None:
    changed = shop.client.v1.customers.update(shop.customer, {"metadata": {"plan": "x", "org": ""}})
    assert changed.metadata.to_dict() == {"plan": "x"}


def test_list_pages_neither_repeat_nor_skip(shop: Shop) -> None:
    made = [shop.client.v1.customers.create({"name": str(n)}).id for n in range(25)]
    listed = [customer.id for customer in shop.client.v1.customers.list({"limit": 10}).auto_paging_iter()]
    assert listed == [*made[::-1], shop.customer]
    page = shop.client.v1.customers.list({"limit": 2, "ending_before": listed[10]})
    assert [customer.id for customer in page.data] == listed[8:10]
    with pytest.raises(stripe_error.InvalidRequestError, match="between 1 and 100"):
        shop.client.v1.customers.list({"limit": 101})


def test_lookup_key_belongs_to_one_price(shop: Shop) -> None:
    (found,) = shop.client.v1.prices.list({"lookup_keys": ["month"]}).data
    assert found.id == shop.price
    again: Any = {"product": found.product, "currency": "usd", "unit_amount": 1, "lookup_key": "month"}
    with pytest.raises(stripe_error.InvalidRequestError, match="already uses that lookup key"):
        shop.client.v1.prices.create(again)
    moved = shop.client.v1.prices.create(again | {"transfer_lookup_key": True})
    assert [price.id for price in shop.client.v1.prices.list({"lookup_keys": ["month"]}).data] == [moved.id]


def test_repeated_idempotency_key_returns_the_first_response(shop: Shop) -> None:
    first, again = (shop.client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"}) for _ in range(2))
    assert first.id == again.id
    assert shop.events(type="customer.created") == ["customer.created"] * 2  # with the shop's own


def test_idempotency_key_with_other_parameters_is_refused(shop: Shop) -> None:
    shop.client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"})
    with pytest.raises(stripe_error.IdempotencyError, match="same parameters") as caught:
        shop.client.v1.customers.create({"name": "Bob"}, {"idempotency_key": "k"})
    assert caught.value.http_status == 400


def test_idempotency_key_in_use_is_a_conflict(shop: Shop) -> None:
    shop.double.fail("slow", seconds=0.5)

    def create() -> str:
        try:
            return str(shop.client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"}).object)
        except stripe_error.APIError as error:
            return str(error.http_status)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(lambda _: create(), range(2))) == ["409", "customer"]


def test_a_request_that_breaks_off_does_nothing_and_leaves_its_key_free(shop: Shop) -> None:
    address = urlsplit(shop.double.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST /v1/customers HTTP/1.1\r\nauthorization: Bearer {shop.double.key}\r\nidempotency-key: k\r\n"
        connection.sendall(f"{head}content-length: 20\r\n\r\nname=A".encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert shop.client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"}).name == "Ada"
    assert shop.events(type="customer.created") == ["customer.created"] * 2  # with the shop's own


def test_key_keeps_declined_card_but_not_invalid_request(shop: Shop) -> None:
    with pytest.raises(stripe_error.InvalidRequestError):
        shop.client.v1.refunds.create({"charge": "ch_none"}, {"idempotency_key": "k"})
    shop.client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"})
    intent = intent_of(shop.subscribe())
    for _ in range(2):
        with pytest.raises(stripe_error.CardError):
            shop.client.v1.payment_intents.confirm(
                intent, {"payment_method": "pm_card_visa_chargeDeclined"}, {"idempotency_key": "d"}
            )
    assert shop.events(type="charge.failed") == ["charge.failed"]


@pytest.mark.parametrize(
    ("how", "error"), [("timeout", "APIConnectionError"), ("429", "RateLimitError"), ("500", "APIError")]
)
@pytest.mark.parametrize("after", [False, True])
def test_fault_before_or_after_the_effect(shop: Shop, how: str, error: str, after: bool) -> None:
    shop.double.fail(how, after=after)
    with pytest.raises(getattr(stripe_error, error)):
        shop.client.v1.customers.create({"name": "Ada"})
    names = [customer.name for customer in shop.client.v1.customers.list().data]
    assert ("Ada" in names) == after


def test_idempotency_key_keeps_a_500(shop: Shop) -> None:
    shop.double.fail("500", after=True)
    for _ in range(2):
        with pytest.raises(stripe_error.APIError) as caught:
            shop.client.v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"})
        assert caught.value.http_status == 500
    assert [customer.name for customer in shop.client.v1.customers.list().data].count("Ada") == 1


def test_lost_response_is_repeated_for_its_key(shop: Shop) -> None:
    shop.double.fail("timeout", after=True)
    retrying = client_of(shop.double, max_network_retries=2)
    retrying.v1.customers.create({"name": "Ada"})
    names = [customer.name for customer in shop.client.v1.customers.list().data]
    assert names.count("Ada") == 1


def test_objects_and_deliveries_survive_a_kill(tmp_path: Path, receiver: Receiver) -> None:
    file = tmp_path / "stripe.sqlite"
    first = Double(file)  # never stopped, as if killed; its deliveries never started
    threading.Thread(target=first._server.serve_forever, args=(0.01,), daemon=True).start()
    first.send_events_to(receiver.url, SECRET)
    name = client_of(first).v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"}).id
    first._server.shutdown()
    first._server.server_close()
    second = Double(file).start()
    assert client_of(second).v1.customers.create({"name": "Ada"}, {"idempotency_key": "k"}).id == name
    second.deliveries.settle()
    assert [event["type"] for event in receiver.events()] == ["customer.created"]
    second.stop()
    first.store.close()
