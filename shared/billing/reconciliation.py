"""Fetch from Stripe what its events did not report. Every step can be repeated; one failing object delays no other."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import psycopg
import stripe
from psycopg.errors import DeadlockDetected, LockNotAvailable, QueryCanceled

from shared.billing.client import Stripe
from shared.billing.events import delivery, parse_object, storable
from shared.database.pool import Connection
from shared.errors import ApiError
from shared.logs import log

# The list of events lags: it counts as complete up to a minute ago, and is read again from a quarter of an hour before.
LAG_SECONDS = 60
OVERLAP_SECONDS = 15 * 60
# Stripe keeps events for 30 days.
KEPT_SECONDS = 30 * 86_400
# A page of events is parsed in some milliseconds.
PAGE = 50
# A response shows its object as it was some time before the date of the response. Too early does no harm: later events
# are applied on top. Too late would hide them.
READ_SECONDS = 2
REPORTED = 1000
# Pauses while another transaction holds the locks of an object.
PAUSES = (0.2, 1.0)
LOCKED = (DeadlockDetected, LockNotAvailable, QueryCanceled)
EXPAND_DISCOUNTS = ["customer", "discounts", "items.data.discounts"]


class Reconciliation:
    """One run; `changed` says what was corrected, `changes` how much, `skipped` what is left to the next run."""

    def __init__(self, connection: Connection, client: Stripe, *, livemode: bool) -> None:
        self._connection = connection
        self._client, self._v1 = client, client.v1
        self._livemode = livemode
        self._coupons: set[str] = set()
        self.changed: list[dict[str, Any]] = []
        self.changes = 0
        self.missed = 0
        self.skipped = 0

    async def run(self, *, compare: bool | None = None) -> dict[str, Any]:
        request = json.dumps({"livemode": self._livemode} | ({} if compare is None else {"compare": compare}))
        begun = await self._call("private.begin_reconciliation(%s::jsonb)", request)
        await self._list_events(begun["listed_until"])
        for each in await self._call("private.doubtful_stripe_objects()"):
            await self._fetch(each["type"], each["id"])
        if begun["compare"]:
            await self._compare()
        for item in await self._call("private.billing_work()"):
            if changed := await self._apply("private.settle_billing_item(%s::jsonb)", json.dumps(item)):
                self._report(changed)
        await self._call("private.update_billing()")
        return {
            "missed_events": self.missed,
            "compared": begun["compare"],
            "changes": self.changes,
            "changed": self.changed,
            "skipped": self.skipped,
        }

    async def _list_events(self, listed_until: int | None) -> None:
        """Apply the events that were never delivered. Their order does not matter: one page is held at a time."""
        now = int(time.time())
        since = max((listed_until or 0) - OVERLAP_SECONDS, now - KEPT_SECONDS)
        skipped = self.skipped
        page: dict[str, dict[str, Any]] = {}
        async for event, _ in self._listed("/v1/events", created={"gte": since}):
            page[event["id"]] = event
            if len(page) == PAGE:
                await self._receive_missing(page)
                page.clear()
        await self._receive_missing(page)
        if self.skipped == skipped:
            progress = json.dumps({"listed_until": now - LAG_SECONDS})
            await self._call("private.note_stripe_progress(%s::jsonb)", progress)

    async def _receive_missing(self, page: Mapping[str, dict[str, Any]]) -> None:
        missing = await self._call("private.missing_stripe_events(%s)", list(page))
        self.missed += len(missing)
        for name in reversed(missing):  # the list has the newest first
            await self._receive(page[name])

    async def _receive(self, event: dict[str, Any]) -> None:
        event = storable(event)
        try:
            argument = delivery(event, json.dumps(event, default=str), livemode=self._livemode)
        except ApiError:
            return  # Strive cannot store this event; the next run would find it again
        result = await self._apply("private.receive_stripe_event(%s::jsonb)", argument)
        if result:
            self._report({"event": event["id"], "type": event["type"], "status": result["status"]})

    async def _compare(self) -> None:
        """Compare every subscription that runs at Stripe, and every one that has ended there but not here."""
        known = set(await self._call("private.open_stripe_subscriptions()"))
        expand = [f"data.{each}" for each in EXPAND_DISCOUNTS]
        async for subscription, at in self._listed("/v1/subscriptions", expand=expand):
            known.discard(subscription["id"])
            await self._save(subscription, at)
            await self._compare_invoices(subscription["id"])
        for name in sorted(known):
            await self._fetch("subscription", name)
        await self._call("private.note_stripe_progress(%s::jsonb)", json.dumps({"compared": True}))

    async def _compare_invoices(self, subscription: str) -> None:
        async for invoice, at in self._listed("/v1/invoices", most=5, subscription=subscription):
            await self._save(invoice, at)

    async def _listed(
        self, path: str, *, most: int | None = None, **parameters: Any
    ) -> AsyncIterator[tuple[dict[str, Any], int]]:
        """The objects of a list, at most so many, and when each was read.

        As JSON: a page of objects of the library holds the loop for a tenth of a second.
        """
        after: dict[str, str] = {}
        while True:
            response = await self._client.raw_request_async("get", path, limit=most or PAGE, **parameters, **after)
            for each in response.data["data"]:
                yield each, _read_at(response)
            if most or not response.data["has_more"]:
                return
            after = {"starting_after": response.data["data"][-1]["id"]}

    async def _fetch(self, kind: str, name: str) -> None:
        services: dict[str, Any] = {
            "subscription": self._v1.subscriptions,
            "payment_intent": self._v1.payment_intents,
            "setup_intent": self._v1.setup_intents,
            "customer": self._v1.customers,
            "product": self._v1.products,
            "price": self._v1.prices,
            "invoice": self._v1.invoices,
            "coupon": self._v1.coupons,
            "subscription_schedule": self._v1.subscription_schedules,
        }
        if kind not in services:
            # A discount cannot be fetched by its id; its subscription brings it along.
            await self._apply("private.record_missing_object(%s::jsonb)", json.dumps({"id": name, "type": kind}))
            return
        parameters = {"expand": EXPAND_DISCOUNTS} if kind == "subscription" else {}
        try:
            found = await services[kind].retrieve_async(name, parameters)
        except stripe.InvalidRequestError as error:
            if error.code != "resource_missing":
                raise
            await self._record_missing(kind, name)
            return
        await self._save(found.to_dict(), _read_at(found))

    async def _record_missing(self, kind: str, name: str) -> None:
        """Stripe deleted the object, or the key belongs to another account: fetching the customer shows which."""
        is_customer_known = False
        customer = await self._call("private.customer_of_subscription(%s)", name) if kind == "subscription" else None
        if customer:
            try:
                await self._v1.customers.retrieve_async(customer)
                is_customer_known = True
            except stripe.InvalidRequestError as error:
                if error.code != "resource_missing":
                    raise
        missing = {"id": name, "type": kind, "is_customer_known": is_customer_known}
        await self._apply("private.record_missing_object(%s::jsonb)", json.dumps(missing))
        self._report({"object": name, "type": kind, "status": "MISSING"})

    async def _save(self, found: Any, at: int) -> None:
        if found.get("object") == "subscription":
            await self._save_discounts(found, at)
        if (parsed := parse_object(storable(found))) is None:
            return
        argument = json.dumps(parsed | {"at": at})
        if change := await self._apply("private.save_stripe_object(%s::jsonb)", argument):
            self._report(change)

    async def _save_discounts(self, subscription: Any, at: int) -> None:
        """The terms of the discounts of a subscription, before the subscription whose amount depends on them."""
        customer = subscription.get("customer")
        lists = [
            [customer.get("discount")] if isinstance(customer, dict) else [],
            subscription.get("discounts"),
            *(item.get("discounts") for item in subscription["items"]["data"]),
        ]
        for discount in (each for found in lists for each in found or [] if isinstance(each, dict)):
            await self._save(discount, at)
            coupon = (discount.get("source") or {}).get("coupon")
            if isinstance(coupon, str) and coupon not in self._coupons:
                self._coupons.add(coupon)
                await self._fetch("coupon", coupon)

    def _report(self, *changes: dict[str, Any]) -> None:
        self.changes += len(changes)
        self.changed += changes[: REPORTED - len(self.changed)]

    async def _apply(self, call: str, argument: str) -> Any:
        """Apply one object or event. If it stays locked, or cannot be stored, the run continues without it."""
        for pause in (*PAUSES, None):
            try:
                return await self._call(call, argument)
            except LOCKED as error:
                if pause is None:
                    self._skip(call, error)
                    return None
                await asyncio.sleep(pause)
            except (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.RaiseException) as error:
                log("ERROR", "an object of Stripe could not be stored", call=call, why=str(error)[:200])
                return None
        return None

    def _skip(self, call: str, error: Exception) -> None:
        self.skipped += 1
        log("WARNING", "an object of Stripe is left to the next run", call=call, why=type(error).__name__)

    async def _call(self, call: str, *values: Any) -> Any:
        cursor = await self._connection.execute(f"select {call}", values)
        row = await cursor.fetchone()
        return row[0] if row else None


def _read_at(found: Any) -> int:
    """When Stripe read the object, by its own clock."""
    response = getattr(found, "last_response", found)
    date = response.headers.get("date") if response else None
    answered = parsedate_to_datetime(date).timestamp() if date else time.time()
    return int(answered) - READ_SECONDS
