"""An account at the double with plans for sale and a customer, used through Stripe's own Python client."""

from dataclasses import dataclass
from typing import Any

import stripe

from local.stripe.server import Double

SECRET = "whsec_of_the_tests"
OLD = "2024-06-20"
stripe_error: Any = stripe  # its exceptions are untyped
opened: list[Any] = []


@dataclass
class Shop:
    """An account with a plan for sale and a customer."""

    double: Double
    client: Any  # its parameters are typed more narrowly than tests want them
    price: str
    yearly: str
    customer: str

    def subscribe(self, **more: Any) -> Any:
        return self.client.v1.subscriptions.create(
            {
                "customer": self.customer,
                "items": [{"price": self.price}],
                "payment_behavior": "default_incomplete",
                "payment_settings": {"save_default_payment_method": "on_subscription"},
                "expand": ["latest_invoice.confirmation_secret", "latest_invoice.payments"],
                **more,
            }
        )

    def active(self, card: str = "4242424242424242") -> Any:
        made = self.subscribe()
        self.double.pay(intent_of(made), card)
        return self.subscription(made.id)

    def subscription(self, name: str) -> Any:
        return self.client.v1.subscriptions.retrieve(name)

    def events(self, **wanted: Any) -> list[str]:
        listed = self.client.v1.events.list({"limit": 100, **wanted})
        return [event.type for event in listed.auto_paging_iter()][::-1]


def client_of(double: Double, **options: Any) -> Any:
    opened.append(stripe.HTTPXClient(allow_sync_methods=True, verify_ssl_certs=False))
    return stripe.StripeClient(
        options.pop("key", double.key), base_addresses={"api": double.url}, http_client=opened[-1], **options
    )


def intent_of(subscription: Any) -> str:
    return str(subscription.latest_invoice.payments.data[0].payment.payment_intent)


def new_shop(double: Double) -> Shop:
    client = client_of(double)
    product = client.v1.products.create({"name": "Growth"})
    monthly, yearly = (
        client.v1.prices.create(
            {
                "product": product.id,
                "currency": "usd",
                "unit_amount": amount,
                "recurring": {"interval": interval},
                "lookup_key": interval,
            }
        )
        for amount, interval in ((69900, "month"), (699000, "year"))
    )
    customer = client.v1.customers.create({"email": "owner@acme.test", "metadata": {"org": "1"}})
    return Shop(double, client, monthly.id, yearly.id, customer.id)
