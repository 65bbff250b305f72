"""Demo data that lives in services: what Acme bought at the Stripe double, and files of its deals in Storage."""

from typing import Any

import httpx
import psycopg

Connection = psycopg.Connection[Any]

ACME = (
    "select id::text, name, coalesce(billing_email, 'billing@acme.test') from public.organizations where slug = 'acme'"
)
PRICES = "select tier::text, stripe_price_id from public.plans where is_active and billing_cycle = 'MONTHLY'"
DEALS = "select id::text, title from public.deals where organization_id = %s order by created_at desc, id limit 3"


def buy_plans(connection: Connection, address: str, key: str) -> None:
    """Buy STARTER with a test card and upgrade to GROWTH; the events bring a subscription, two invoices, a credit."""
    organization, name, email = connection.execute(ACME).fetchall()[0]
    prices = dict(connection.execute(PRICES).fetchall())
    with httpx.Client(base_url=f"{address}/v1", auth=(key, ""), timeout=30) as client:

        def post(path: str, **given: str) -> Any:
            return client.post(path, data=given).raise_for_status().json()

        about = {"metadata[organization_id]": organization}
        customer = post("/customers", name=name, email=email or "billing@acme.test", **about)["id"]
        with connection.transaction():
            # The generated plan is for stacks without the double: beside a bought one it would be one plan too many.
            connection.execute("delete from public.subscriptions where organization_id = %s", [organization])
            connection.execute(
                "update public.organizations set stripe_customer_id = %s where id = %s", [customer, organization]
            )
        card = post("/payment_methods/pm_card_visa/attach", customer=customer)["id"]
        post(f"/customers/{customer}", **{"invoice_settings[default_payment_method]": card})
        bought = post("/subscriptions", customer=customer, **{"items[0][price]": prices["STARTER"], **about})
        upgrade = {"items[0][id]": bought["items"]["data"][0]["id"], "items[0][price]": prices["GROWTH"]}
        post(f"/subscriptions/{bought['id']}", proration_behavior="always_invoice", **upgrade)
        post("/credit_notes", invoice=bought["latest_invoice"], amount="5000", refund_amount="5000")


def upload_files(connection: Connection, api_url: str, key: str) -> None:
    """Store a file at each of Acme's newest deals."""
    organization = connection.execute(ACME).fetchall()[0][0]
    with httpx.Client(base_url=f"{api_url}/storage/v1/object/attachments/{organization}/deals", timeout=30) as client:
        for deal, title in connection.execute(DEALS, [organization]):
            text = f"Offer for {title}. All figures are examples.\n"
            headers = {"apikey": key, "authorization": f"Bearer {key}", "content-type": "text/plain"}
            client.post(f"/{deal}/Offer.txt", content=text, headers=headers).raise_for_status()
