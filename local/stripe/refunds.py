"""Refunds of charges: at once, pending for some test cards, and failing for others."""

from typing import Any

from local.stripe.account import TIMERS, Account, Timer
from local.stripe.api import resource, route
from local.stripe.errors import ApiError
from local.stripe.expansion import includes
from local.stripe.parameters import merged
from local.stripe.payment_methods import card_of
from local.stripe.periods import DAY
from local.stripe.store import Object

resource("refunds", "refund", filters="created:range charge payment_intent")


@route("POST /v1/refunds/{id}", "metadata:metadata")
def update_refund(account: Account, values: Object, place: dict[str, str]) -> Object:
    refund = account.get("refund", place["id"])
    metadata = merged(refund["metadata"], values.get("metadata"))
    return _changed(account, refund, metadata=metadata)


@route(
    "POST /v1/refunds",
    "payment_intent charge amount:positive reason:(duplicate|fraudulent|requested_by_customer) metadata:metadata",
)
def create_refund(account: Account, values: Object, _place: dict[str, str]) -> Object:
    name, intent = values.get("charge"), values.get("payment_intent")
    if not name and not intent:
        raise ApiError("One of the following params should be provided for this request: payment_intent or charge.")
    if intent:
        name = account.referred("payment_intent", intent, "payment_intent")["latest_charge"]
        if not name:
            raise ApiError(
                f"This PaymentIntent ({intent}) does not have a successful charge to refund.", param="payment_intent"
            )
    charge = account.referred("charge", name, "charge")
    return refund(account, charge, values.get("amount"), values.get("reason"), values.get("metadata", {}))


@route("POST /v1/refunds/{id}/cancel")
def cancel_refund(account: Account, _values: Object, place: dict[str, str]) -> Object:
    found = account.get("refund", place["id"])
    if found["status"] not in {"pending", "requires_action"}:
        raise ApiError(f"You cannot cancel this refund because it has a status of {found['status']}.", param="id")
    _give_back(account, found)
    return _changed(account, found, status="canceled")


def refund(account: Account, charge: Object, amount: int | None, reason: str | None, metadata: Object) -> Object:
    left = charge["amount"] - charge["amount_refunded"] if charge["paid"] else 0
    if not charge["paid"]:
        raise ApiError(f"Charge {charge['id']} has not been paid and cannot be refunded.", param="charge")
    if any(
        each["charge"] == charge["id"] and not each["is_charge_refundable"] and each["status"] != "won"
        for each in account.store.all("dispute")
    ):
        raise ApiError(f"Charge {charge['id']} has been charged back; cannot issue a refund.", code="charge_disputed")
    if not left:
        raise ApiError(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    amount = left if amount is None else amount
    if amount > left:
        raise ApiError(f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})", param="amount")
    kind = card_of(account.get("payment_method", charge["payment_method"])).refund
    made = account.new(
        "refund",
        "refund.created",
        amount=amount,
        charge=charge["id"],
        currency=charge["currency"],
        metadata=metadata,
        payment_intent=charge["payment_intent"],
        reason=reason,
        status="pending" if kind == "pending" else "succeeded",
        _settles_at=account.now() + DAY if kind else None,
        _fails=kind == "failing",
    )
    back = charge["amount_refunded"] + amount
    account.change(charge, "charge.refunded", amount_refunded=back, refunded=back == charge["amount"])
    return made


def _settle(account: Account, found: Object) -> None:
    """A day later the bank answers: a pending refund succeeds, a failing one fails after it had succeeded."""
    if not found["_fails"]:
        _changed(account, found, status="succeeded", _settles_at=None)
        return
    _give_back(account, found)
    _changed(account, found, status="failed", failure_reason="expired_or_canceled_card", _settles_at=None)
    account.announce("refund.failed", found)


def _give_back(account: Account, found: Object) -> None:
    charge = account.get("charge", found["charge"])
    account.change(
        charge, "charge.updated", amount_refunded=charge["amount_refunded"] - found["amount"], refunded=False
    )


def _changed(account: Account, found: Object, **fields: Any) -> Object:
    account.change(found, "refund.updated", **fields)
    account.announce("charge.refund.updated", found)
    return found


TIMERS["refund"] = Timer(lambda found: found["_settles_at"], _settle)
includes("charge", "refunds", "refund", "charge", "charges")
