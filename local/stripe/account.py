"""One account at Stripe: its objects, its clocks, and the events that announce every change."""

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from local.stripe import LATEST
from local.stripe.errors import ApiError, missing
from local.stripe.store import Object, Store, copied

PREFIXES = {
    "billing_portal.configuration": "bpc",
    "billing_portal.session": "bps",
    "charge": "ch",
    "checkout.session": "cs_test",
    "credit_note": "cn",
    "credit_note_line_item": "cnli",
    "customer": "cus",
    "customer_balance_transaction": "cbtxn",
    "discount": "di",
    "dispute": "du",
    "event": "evt",
    "invoice": "in",
    "invoice_payment": "inpay",
    "invoiceitem": "ii",
    "item": "li",
    "line_item": "il",
    "payment_intent": "pi",
    "payment_method": "pm",
    "price": "price",
    "product": "prod",
    "promotion_code": "promo",
    "refund": "re",
    "setup_intent": "seti",
    "subscription": "sub",
    "subscription_item": "si",
    "subscription_schedule": "sub_sched",
    "tax_id": "txi",
    "tax_rate": "txr",
    "test_helpers.test_clock": "clock",
    "webhook_endpoint": "we",
}
# The nouns of "No such …", where they are not the kind with spaces.
NOUNS = {
    "payment_method": "PaymentMethod",
    "payment_intent": "payment_intent",
    "setup_intent": "setupintent",
    "checkout.session": "checkout session",
    "test_helpers.test_clock": "test clock",
    "billing_portal.configuration": "configuration",
    "billing_portal.session": "portal session",
}
# The fields of a new object of each kind.
DEFAULTS: dict[str, Object] = json.loads(Path(__file__).with_name("defaults.json").read_text())
# These belong to the account, never to a test clock.
WITHOUT_CLOCK = {
    "product",
    "price",
    "coupon",
    "promotion_code",
    "tax_rate",
    "webhook_endpoint",
    "test_helpers.test_clock",
    "billing_portal.configuration",
}


class Timer(NamedTuple):
    """When something happens to an object of a kind by itself, and what."""

    due: Callable[[Object], int | None]
    fall_due: Callable[["Account", Object], None]


TIMERS: dict[str, Timer] = {}


class Account:
    """`address` is the URL of its pages. Mischief affects deliveries only, never the objects."""

    def __init__(self, store: Store, address: str = "", version: str = LATEST) -> None:
        self.store = store
        self.address = address
        self.version = version
        self.request: Object = {"id": None, "idempotency_key": None}
        self.rehearses = False  # a preview is made: nothing that is issued is kept
        self.muted: str | None = None  # a type of event that is not announced
        self._clock = ""  # the test clock of the objects at work
        self._then: int | None = None  # the moment at which an overdue change happens

    # Time -------------------------------------------------------------------------------------------------------------

    def now(self) -> int:
        if self._then is not None:
            return self._then
        if self._clock and (clock := self.store.get(self._clock)):
            return int(clock["frozen_time"])
        return int(time.time() + self.store.note("ahead", 0))

    @contextmanager
    def clock_of(self, *names: Any) -> Iterator[None]:
        """Work in the time of the first named object that belongs to a test clock."""
        before = self._clock
        found = (self.store.get(name) for name in names if isinstance(name, str))
        clocks = (
            thing["id"] if thing["object"] == "test_helpers.test_clock" else thing.get("_clock")
            for thing in found
            if thing
        )
        self._clock = next(filter(None, clocks), before)
        try:
            yield
        finally:
            self._clock = before

    @contextmanager
    def at(self, moment: int) -> Iterator[None]:
        before = self._then
        self._then = moment
        try:
            yield
        finally:
            self._then = before

    def advance(self, seconds: float) -> None:
        """Let time pass: periods end, payments are retried, sessions expire."""
        with self.store.change():
            self.store.write_note("ahead", self.store.note("ahead", 0) + seconds)
        self.catch_up()

    def catch_up(self, clock: str = "", until: int | None = None) -> None:
        """Do everything that is due, each at its own moment."""
        with self.store.change():
            before = self._clock, self._then
            while due := self.store.first_due(self.now() if until is None else until, clock):
                thing, self._then = due
                self._clock = clock
                try:
                    TIMERS[thing["object"]].fall_due(self, thing)
                finally:
                    self._clock, self._then = before

    # Objects ----------------------------------------------------------------------------------------------------------

    def name(self, kind: str) -> str:
        return f"{PREFIXES[kind]}_1{secrets.token_hex(11)}"

    def new(self, kind: str, event: str | None = None, /, **fields: Any) -> Object:
        """A new object, and the event that announces it; fields whose names begin with _ are internal."""
        made = {
            "id": fields.get("id") or self.name(kind),
            "object": kind,
            "created": self.now(),
            "livemode": False,
            "metadata": {},
            **copied(DEFAULTS[kind]),
            **fields,
        }
        if self._clock and kind not in WITHOUT_CLOCK:
            made["_clock"] = self._clock
            if "test_clock" in made:
                made["test_clock"] = self._clock
        self.put(made)
        if event:
            self.announce(event, made)
        return made

    def put(self, thing: Object) -> None:
        timer = TIMERS.get(thing["object"])
        self.store.put(thing, timer.due(thing) if timer and not thing.get("deleted") else None)

    def get(self, kind: str, name: Any, param: str = "id", status: int = 404) -> Object:
        found = self.store.get(name) if isinstance(name, str) else None
        if not found or found["object"] != kind:
            raise self.missing(kind, name, param, status)
        return found

    def missing(self, kind: str, name: Any, param: str = "id", status: int = 404) -> ApiError:
        return missing(NOUNS.get(kind, kind.replace("_", " ")), name, param, status)

    def referred(self, kind: str, name: Any, param: str) -> Object:
        """The object that a parameter names; a deleted one does not exist."""
        found = self.get(kind, name, param, status=400)
        if found.get("deleted"):
            raise self.missing(kind, name, param, status=400)
        return found

    # Events -----------------------------------------------------------------------------------------------------------

    def change(self, thing: Object, event: str | None, /, **fields: Any) -> Object:
        """Change an object and announce it; an event `….updated` carries the previous attributes."""
        before = copied(thing)
        thing.update(fields)
        self.put(thing)
        updated = bool(event and event.endswith(".updated"))
        if event and (thing != before or not updated):
            self.announce(event, thing, before if updated else None)
        return thing

    def announce(self, kind: str, thing: Object, before: Object | None = None) -> None:
        if kind == self.muted:
            return
        event = self.new(
            "event",
            type=kind,
            api_version=self.version,
            data={"object": copied(thing)},
            request=dict(self.request),
            _before=before,
        )
        mischief = self.store.note("mischief", {})
        for endpoint in self.store.all("webhook_endpoint"):
            if endpoint["status"] == "enabled" and {"*", kind} & set(endpoint["enabled_events"]):
                self._deliver(event, endpoint, mischief)

    def _deliver(self, event: Object, endpoint: Object, mischief: Object) -> None:
        serial = self.store.note("serial", 0) + 1
        self.store.write_note("serial", serial)
        chance = Random(f"{mischief.get('seed')}:{serial}")  # noqa: S311 - must be repeatable, not secret
        if chance.random() < mischief.get("drop", 0):
            return
        for _ in range(2 if chance.random() < mischief.get("duplicate", 0) else 1):
            due = time.time() + self.store.note("ahead", 0) + chance.uniform(0, mischief.get("delay", 0))
            self.store.add_delivery(
                event["id"], endpoint["id"], due, serial + chance.uniform(0, mischief.get("shuffle", 0))
            )
