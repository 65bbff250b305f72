"""Parsing of events of every shape."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.billing.events import delivery, parse_event, parse_object
from shared.billing.kinds import KINDS
from shared.errors import ApiError
from tests.support.stripe_events import NOW, SHAPES, differences, event, subscription

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
PREFIXES = [prefix for kind in KINDS.values() for prefix in kind.events]
FIELDS = [
    "id", "status", "customer", "items", "data", "price", "plan", "metadata", "parent", "payments", "object",
    "current_period_end", "subscription_details", "payment", "payment_intent", "amount_refunded", "recurring",
]  # fmt: skip


@given(ANY)
def test_any_json_is_an_event_or_refused(found: Any) -> None:
    with contextlib.suppress(ApiError):
        parse_event(found)


@given(
    st.sampled_from([*PREFIXES, "customer.subscription.updated"]), st.dictionaries(st.sampled_from(FIELDS), ANY), ANY
)
def test_handled_event_is_parsed_with_any_content(kind: str, of: dict[str, Any], before: Any) -> None:
    parsed = parse_event(event(f"{kind}x" if kind.endswith(".") else kind, {**of, "id": "x_1"}, before=before))
    assert parsed["object_type"] in KINDS
    json.dumps(parsed)


def test_both_shapes_of_a_subscription_parse_alike() -> None:
    old, new = (
        parse_event(event("customer.subscription.created", subscription(shape=shape)))["state"] for shape in SHAPES
    )
    assert old == new


@pytest.mark.parametrize(
    "invoice",
    [
        {"subscription": "sub_1", "payment_intent": "pi_1"},
        {
            "parent": {"subscription_details": {"subscription": "sub_1"}},
            "payments": {"data": [{"payment": {"type": "payment_intent", "payment_intent": "pi_1"}}]},
        },
        {"subscription": {"id": "sub_1"}, "payment_intent": {"id": "pi_1"}},
    ],
)
def test_every_shape_of_an_invoice_names_its_subscription_and_payment(invoice: Any) -> None:
    state = parse_event(event("invoice.paid", {"id": "in_1", **invoice}))["state"]
    assert (state["subscription"], state["payment_intent"]) == ("sub_1", "pi_1")


@pytest.mark.parametrize("shape", SHAPES)
def test_previous_attributes_restore_the_previous_state(shape: str) -> None:
    first = subscription(shape=shape, metadata={"a": "1"}, status="incomplete")
    second = subscription(shape=shape, price="price_elite", amount=199_900, end=NOW + 9, metadata={"b": "2"})
    parsed = parse_event(event("customer.subscription.updated", second, before=differences(first, second)))
    was = parse_event(event("customer.subscription.created", first))["state"]
    assert parsed["state"] | parsed["before"] == was
    assert parsed["before"].keys() == {"status", "items", "period_end"}


def test_parsed_event_contains_no_personal_data() -> None:
    of = {"id": "cus_1", "object": "customer", "email": "jo@private.test", "name": "Jo", "address": {"city": "Private"}}
    assert "rivate" not in json.dumps(parse_event(event("customer.updated", of, before={"name": "Jo Private"})))
    assert "Jo" not in json.dumps(parse_object(of))


def test_event_is_stored_byte_for_byte() -> None:
    parsed = event("balance.available", {"object": "balance"})
    sent = json.dumps(parsed, indent=3)
    assert sent in delivery(parsed, sent, livemode=False)
    assert json.loads(delivery(parsed, sent, livemode=True))["expected_livemode"] is True
