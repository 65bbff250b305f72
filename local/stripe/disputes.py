"""Disputes: opened by some test cards or by hand, answered with evidence, won or lost."""

from local.stripe import payments
from local.stripe.account import TIMERS, Account, Timer
from local.stripe.api import resource, route
from local.stripe.errors import ApiError
from local.stripe.parameters import merged
from local.stripe.payment_methods import card_of
from local.stripe.periods import DAY
from local.stripe.store import Object

EVIDENCE_DAYS = 7
# Evidence with these texts decides a dispute at once, as in Stripe's test mode.
DECIDING = {"winning_evidence": "won", "losing_evidence": "lost"}

resource("disputes", "dispute", filters="created:range charge payment_intent")


@route(
    "POST /v1/disputes/{id}",
    "evidence{uncategorized_text customer_name customer_email_address product_description"
    " cancellation_rebuttal refund_refusal_explanation access_activity_log} metadata:metadata submit:bool",
)
def update_dispute(account: Account, values: Object, place: dict[str, str]) -> Object:
    dispute = account.get("dispute", place["id"])
    if dispute["status"] in {"won", "lost", "warning_closed"}:
        raise ApiError(f"This dispute is already closed: {dispute['status']}.", param="id")
    evidence, text = values.get("evidence") or {}, (values.get("evidence") or {}).get("uncategorized_text")
    submitted = bool(evidence) and values.get("submit", True)
    details = dispute["evidence_details"]
    account.change(
        dispute,
        "charge.dispute.updated",
        evidence={**dispute["evidence"], **evidence},
        evidence_details={
            **details,
            "has_evidence": bool(evidence),
            "submission_count": details["submission_count"] + submitted,
            "submission_method": "manual" if submitted else details["submission_method"],
        },
        metadata=merged(dispute["metadata"], values["metadata"]) if "metadata" in values else dispute["metadata"],
        status="under_review" if submitted else dispute["status"],
    )
    return close(account, dispute, DECIDING[text]) if submitted and text in DECIDING else dispute


@route("POST /v1/disputes/{id}/close")
def close_dispute(account: Account, _values: Object, place: dict[str, str]) -> Object:
    dispute = account.get("dispute", place["id"])
    if dispute["status"] in {"won", "lost", "warning_closed"}:
        raise ApiError(f"This dispute is already closed: {dispute['status']}.", param="id")
    return close(account, dispute, "lost")


def open_dispute(account: Account, charge: Object, reason: str = "fraudulent") -> Object:
    inquiry = reason == "inquiry"  # no money is withdrawn
    account.change(charge, "charge.updated", disputed=True)
    brand = charge["payment_method_details"]["card"]["brand"]
    dispute = account.new(
        "dispute",
        "charge.dispute.created",
        amount=charge["amount"],
        charge=charge["id"],
        currency=charge["currency"],
        evidence_details={
            "due_by": account.now() + EVIDENCE_DAYS * DAY,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        is_charge_refundable=inquiry,
        payment_intent=charge["payment_intent"],
        payment_method_details={
            "type": "card",
            "card": {
                "brand": brand,
                "case_type": "inquiry" if inquiry else "chargeback",
                "network": brand,
                "network_reason_code": "10.4",
            },
        },
        reason="general" if inquiry else reason,
        status="warning_needs_response" if inquiry else "needs_response",
    )
    if not inquiry:
        account.announce("charge.dispute.funds_withdrawn", dispute)
    return dispute


def close(account: Account, dispute: Object, status: str) -> Object:
    charge = account.get("charge", dispute["charge"])
    if dispute["status"].startswith("warning"):
        status = "warning_closed"
    account.change(dispute, None, status=status)
    account.announce("charge.dispute.closed", dispute)
    if status == "won":
        account.announce("charge.dispute.funds_reinstated", dispute)
    account.change(charge, "charge.updated", disputed=status == "lost")
    return dispute


def _after_payment(account: Account, _intent: Object, charge: Object | None, outcome: str) -> None:
    """Some test cards dispute what they paid at once."""
    if charge and outcome == "paid":
        reason = card_of(account.get("payment_method", charge["payment_method"])).disputed
        if reason:
            open_dispute(account, account.get("charge", charge["id"]), reason)


def _lose(account: Account, dispute: Object) -> None:
    """Without evidence in time a dispute is lost, and an inquiry is closed."""
    close(account, dispute, "lost")


def _due(dispute: Object) -> int | None:
    waits = dispute["status"] in {"needs_response", "warning_needs_response"}
    return int(dispute["evidence_details"]["due_by"]) if waits else None


TIMERS["dispute"] = Timer(_due, _lose)
payments.LISTENERS.append(_after_payment)
