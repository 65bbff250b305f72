"""How the money of an invoice is collected: attempts, retries, and what a payment or its failure does."""

from local.stripe import endings, invoice_payments, payments
from local.stripe.account import Account
from local.stripe.api import subscription_of
from local.stripe.periods import DAY
from local.stripe.store import Object

# Days between the attempts; after the last one the account's setting decides: cancel, unpaid or past_due.
RETRY_AFTER_DAYS = (3, 5, 7)
LIVE = {"trialing", "active", "past_due", "unpaid"}


def owner(account: Account, invoice: Object) -> Object | None:
    name = subscription_of(invoice)
    return account.store.get(name) if name else None


def charge(account: Account, invoice: Object, paid_with: Object | None = None) -> Object:
    """Collect with the card on file; the customer is not there to authenticate."""
    if invoice["status"] not in {"open", "uncollectible"} or not invoice["_intent"]:
        return invoice
    if not paid_with and invoice["default_payment_method"]:
        paid_with = account.get("payment_method", invoice["default_payment_method"])
    paid_with = paid_with or card_on_file(account, owner(account, invoice), invoice["customer"])
    intent = account.get("payment_intent", invoice["_intent"])
    if paid_with and intent["status"] in payments.OPEN:
        payments.confirm(account, intent, paid_with, off_session=True)
    else:
        payment_failed(account, invoice)
    return account.get("invoice", invoice["id"])


def card_on_file(account: Account, subscription: Object | None, customer: str) -> Object | None:
    on_file = subscription and subscription["default_payment_method"]
    if not on_file:
        person = account.get("customer", customer)
        on_file = None if person.get("deleted") else person["invoice_settings"]["default_payment_method"]
    return account.get("payment_method", on_file) if on_file else None


def paid(account: Account, invoice: Object, by: Object | None, *, out_of_band: bool = False) -> None:
    """`by` is the charge; None for an invoice over nothing."""
    now = account.now()
    account.change(
        invoice,
        None,
        status="paid",
        attempted=True,
        attempt_count=invoice["attempt_count"] + (by is not None),
        amount_paid=0 if out_of_band else invoice["amount_due"],
        amount_remaining=0,
        auto_advance=False,
        next_payment_attempt=None,
        status_transitions={**invoice["status_transitions"], "paid_at": now},
        _charge=by["id"] if by else None,
    )
    if by:
        invoice_payments.settle(account, invoice, "paid")
    account.announce("invoice.paid", invoice)
    account.announce("invoice.payment_succeeded", invoice)
    subscription = owner(account, invoice)
    if subscription and subscription["status"] in {"incomplete", "past_due", "unpaid", "active", "paused"}:
        _recover(account, subscription, invoice, by)
    _mark_delinquent(account, invoice["customer"])


def _recover(account: Account, subscription: Object, invoice: Object, by: Object | None) -> None:
    fields: Object = {}
    waits = subscription["status"] in {"incomplete", "past_due", "unpaid", "paused"}
    if waits and (invoice["id"] == subscription["latest_invoice"] or not _open_invoices(account, subscription["id"])):
        fields["status"] = "active"
    saves = subscription["payment_settings"]["save_default_payment_method"] == "on_subscription"
    if by and saves:
        fields["default_payment_method"] = by["payment_method"]
    if subscription.get("_pending") and subscription["_pending"]["invoice"] == invoice["id"]:
        fields |= {**subscription["_pending"]["fields"], "pending_update": None, "_pending": None}
    account.change(subscription, "customer.subscription.updated", **fields)


def _open_invoices(account: Account, subscription: str) -> list[Object]:
    found = account.store.of("invoice", account.get("subscription", subscription)["customer"])
    return [each for each in found if each["status"] == "open" and subscription_of(each) == subscription]


def payment_failed(account: Account, invoice: Object, *, needs_action: bool = False) -> None:
    """A renewal is retried after days; a first payment is the customer's to try again."""
    tries, subscription = invoice["attempt_count"] + 1, owner(account, invoice)
    renews = bool(subscription and subscription["status"] in LIVE)
    last = tries > len(RETRY_AFTER_DAYS)
    again = invoice["status_transitions"]["finalized_at"] + sum(RETRY_AFTER_DAYS[:tries]) * DAY
    event = "invoice.payment_action_required" if needs_action else "invoice.payment_failed"
    again_at = again if (renews or not subscription) and not last and invoice["auto_advance"] else None
    account.change(invoice, event, attempted=True, attempt_count=tries, next_payment_attempt=again_at)
    if subscription and renews:
        if last and invoice["auto_advance"]:
            _give_up(account, subscription)
        elif subscription["status"] in {"active", "trialing"}:
            account.change(subscription, "customer.subscription.updated", status="past_due")
    _mark_delinquent(account, invoice["customer"])


def _give_up(account: Account, subscription: Object) -> None:
    match account.store.note("after_retries", "cancel"):
        case "cancel":
            endings.end(account, subscription, "payment_failed")
        case "unpaid":
            account.change(subscription, "customer.subscription.updated", status="unpaid")


def follow_latest(account: Account, invoice: Object) -> None:
    """An invoice was voided or written off: the status follows the latest invoice that is not void."""
    subscription = owner(account, invoice)
    if not subscription or subscription["status"] not in {"past_due", "unpaid"}:
        return
    # The drafts that an unpaid subscription collects count, one that waits for its hour does not.
    ignored = {"void", "draft"} if subscription["status"] == "past_due" else {"void"}
    made = account.store.of("invoice", subscription["customer"])
    counted = [each for each in made if subscription_of(each) == subscription["id"] and each["status"] not in ignored]
    latest = max(counted, key=lambda each: each["created"], default=None)
    forgiven = {"paid", "uncollectible"} if subscription["status"] == "past_due" else {"paid"}
    if latest is None or latest["status"] in forgiven:
        account.change(subscription, "customer.subscription.updated", status="active")


def overdue(account: Account, invoice: Object) -> None:
    """An invoice that was sent and not paid in time."""
    account.change(invoice, "invoice.overdue", _overdue=True)
    subscription = owner(account, invoice)
    if subscription and subscription["status"] == "active":
        account.change(subscription, "customer.subscription.updated", status="past_due")
    _mark_delinquent(account, invoice["customer"])


def _mark_delinquent(account: Account, customer: str) -> None:
    person = account.get("customer", customer)
    if person.get("deleted"):
        return
    owes = any(
        invoice["status"] == "open"
        and (invoice["attempted"] or invoice.get("_overdue"))
        and invoice["billing_reason"] != "subscription_create"
        for invoice in account.store.of("invoice", customer)
    )
    if person["delinquent"] != owes:
        account.change(person, "customer.updated", delinquent=owes)


def _after_payment(account: Account, intent: Object, by: Object | None, outcome: str) -> None:
    if not intent["_invoice"]:
        return
    invoice = account.get("invoice", intent["_invoice"])
    if outcome == "paid":
        paid(account, invoice, by)
    else:
        payment_failed(account, invoice, needs_action=outcome == "action_required")


payments.LISTENERS.append(_after_payment)
