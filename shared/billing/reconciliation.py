"""Finding out from Stripe what its events have not told us. Every step may fail or be done again."""

import json
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import stripe

from shared.billing.client import Stripe
from shared.billing.events import delivery, observe
from shared.database.pool import Connection
from shared.errors import ApiError

# The list of events lags behind: what is listed counts as complete up to a minute ago, and is read again from a quarter
# of an hour before that.
LAG_SECONDS = 60
OVERLAP_SECONDS = 15 * 60
# Stripe keeps events for 30 days.
KEPT_SECONDS = 30 * 86_400
PAGE = 100
# An answer shows its object as it was some time before Stripe dated it. Too early does no harm: events since then are
# applied on top; too late would hide them.
READ_SECONDS = 2
TOLD = 1000


class Reconciliation:
    """One run; `changed` is what it has put right, `changes` how much that is."""

    def __init__(self, connection: Connection, client: Stripe, *, livemode: bool) -> None:
        self._connection = connection
        self._v1 = client.v1
        self._livemode = livemode
        self.changed: list[dict[str, Any]] = []
        self.changes = 0
        self.missed = 0

    async def run(self, *, compare: bool | None = None) -> dict[str, Any]:
        asked = json.dumps({"livemode": self._livemode} | ({} if compare is None else {"compare": compare}))
        begun = await self._ask("private.begin_reconciliation(%s::jsonb)", asked)
        await self._list_events(begun["listed_until"])
        for each in await self._ask("private.doubtful_stripe_objects()"):
            await self._look(each["type"], each["id"])
        if begun["compare"]:
            await self._compare()
        self._tell(*await self._ask("private.settle_billing()"))
        return {
            "missed_events": self.missed,
            "compared": begun["compare"],
            "changes": self.changes,
            "changed": self.changed,
        }

    async def _list_events(self, listed_until: int | None) -> None:
        """All that were never delivered. Their order is of no matter: a page at a time, and no more is ever held."""
        now = int(time.time())
        since = max((listed_until or 0) - OVERLAP_SECONDS, now - KEPT_SECONDS)
        page: dict[str, dict[str, Any]] = {}
        listed = await self._v1.events.list_async({"created": {"gte": since}, "limit": PAGE})
        async for event in listed.auto_paging_iter():
            page[event.id] = event.to_dict()
            if len(page) == PAGE:
                await self._receive_missing(page)
                page.clear()
        await self._receive_missing(page)
        await self._ask("private.note_stripe_progress(%s::jsonb)", json.dumps({"listed_until": now - LAG_SECONDS}))

    async def _receive_missing(self, page: Mapping[str, dict[str, Any]]) -> None:
        missing = await self._ask("private.missing_stripe_events(%s)", list(page))
        self.missed += len(missing)
        for name in reversed(missing):  # the list has the newest first
            await self._receive(page[name])

    async def _receive(self, event: dict[str, Any]) -> None:
        try:
            sent = delivery(event, json.dumps(event, default=str), livemode=self._livemode)
        except ApiError:
            return  # nothing we could keep; it will not be otherwise the next time
        taken = await self._ask("private.receive_stripe_event(%s::jsonb)", sent)
        self._tell({"event": event["id"], "type": event["type"], "status": taken["status"]})

    async def _compare(self) -> None:
        """Every subscription that runs at Stripe, and every one that is over there and not here."""
        known = set(await self._ask("private.open_stripe_subscriptions()"))
        listed = await self._v1.subscriptions.list_async({"limit": PAGE})
        at = _read_at(listed)
        async for subscription in listed.auto_paging_iter():
            known.discard(subscription.id)
            await self._observe(subscription.to_dict(), at)
        for name in sorted(known):
            await self._look("subscription", name)
        await self._ask("private.note_stripe_progress(%s::jsonb)", json.dumps({"compared": True}))

    async def _look(self, kind: str, name: str) -> None:
        services: dict[str, Any] = {
            "subscription": self._v1.subscriptions,
            "payment_intent": self._v1.payment_intents,
            "setup_intent": self._v1.setup_intents,
            "customer": self._v1.customers,
            "product": self._v1.products,
            "price": self._v1.prices,
        }
        try:
            found = await services[kind].retrieve_async(name)
        except stripe.InvalidRequestError as error:
            if error.code != "resource_missing":
                raise
            await self._ask("private.forget_doubt(%s)", name)
            self._tell({"object": name, "type": kind, "status": "MISSING"})
            return
        await self._observe(found.to_dict(), _read_at(found))

    async def _observe(self, found: Any, at: int) -> None:
        if (seen := observe(found)) is None:
            return
        if change := await self._ask("private.observe_stripe_object(%s::jsonb)", json.dumps(seen | {"at": at})):
            self._tell(change)

    def _tell(self, *changes: dict[str, Any]) -> None:
        self.changes += len(changes)
        self.changed += changes[: TOLD - len(self.changed)]

    async def _ask(self, call: str, *values: Any) -> Any:
        cursor = await self._connection.execute(f"select {call}", values)
        row = await cursor.fetchone()
        return row[0] if row else None


def _read_at(found: Any) -> int:
    """When Stripe read this, by its own clock."""
    response = getattr(found, "last_response", None)
    date = response.headers.get("date") if response else None
    answered = parsedate_to_datetime(date).timestamp() if date else time.time()
    return int(answered) - READ_SECONDS
