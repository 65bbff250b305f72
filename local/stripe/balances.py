"""The balance of a customer: less than zero is credit the next invoice uses, more is owed with it."""

from local.stripe.account import Account
from local.stripe.api import page, route
from local.stripe.store import Object


@route("GET /v1/customers/{id}/balance_transactions", "limit:int starting_after ending_before")
def list_balance(account: Account, values: Object, place: dict[str, str]) -> Object:
    kind, path = "customer_balance_transaction", f"/v1/customers/{place['id']}/balance_transactions"
    return page(account, values, kind, path, lambda entry: bool(entry["customer"] == place["id"]))


@route("POST /v1/customers/{id}/balance_transactions", "amount!:int currency!:currency description metadata:metadata")
def create_balance(account: Account, values: Object, place: dict[str, str]) -> Object:
    return book(
        account,
        account.get("customer", place["id"])["id"],
        values["amount"],
        values["currency"],
        "adjustment",
        description=values.get("description"),
        metadata=values.get("metadata", {}),
    )


def book(account: Account, customer: str, amount: int, currency: str, reason: str, **more: object) -> Object:
    owner = account.get("customer", customer)
    ending = owner["balance"] + amount
    account.change(owner, "customer.updated", balance=ending, currency=owner["currency"] or currency)
    return account.new(
        "customer_balance_transaction",
        amount=amount,
        currency=currency,
        customer=customer,
        ending_balance=ending,
        type=reason,
        **more,
    )
