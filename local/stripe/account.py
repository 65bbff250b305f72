"""One account at Stripe: its objects, its clock, and the events by which it tells of every change."""

import copy
import json
import secrets
import time
from pathlib import Path
from random import Random
from typing import Any

from local.stripe import LATEST
from local.stripe.store import Object, Store

PREFIXES = {
    "product": "prod",
    "price": "price",
    "customer": "cus",
    "payment_method": "pm",
    "payment_intent": "pi",
    "setup_intent": "seti",
    "charge": "ch",
    "refund": "re",
    "dispute": "du",
    "subscription": "sub",
    "subscription_item": "si",
    "invoice": "in",
    "line_item": "il",
    "invoice_payment": "inpay",
    "checkout.session": "cs_test",
    "billing_portal.session": "bps",
    "webhook_endpoint": "we",
    "event": "evt",
}
# What each kind has before anything is said about it.
BLANK: dict[str, Object] = json.loads(Path(__file__).with_name("blank.json").read_text())
FIRST_ATTEMPT_HOURS = 23
NEVER = 1 << 62


class Refused(Exception):  # noqa: N818 - what Stripe does
    """An error in Stripe's envelope. `kept`: what was done until then stays, as after a declined card."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        kept: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(message)
        said = {"type": kind, "message": message, "code": code, "param": param, **more}
        self.status = status
        self.kept = kept
        self.error = {name: value for name, value in said.items() if value is not None}


class Account:
    """`address` is where its pages are. Mischief is done to deliveries alone: what happened, happened."""

    def __init__(self, store: Store, address: str = "", version: str = LATEST) -> None:
        self.store = store
        self.address = address
        self.version = version
        self.request: Object = {"id": None, "idempotency_key": None}
        self._then: int | None = None  # while something overdue is made up for

    # The clock --------------------------------------------------------------------------------------------------------

    def now(self) -> int:
        return self._then if self._then is not None else int(time.time() + self.store.note("ahead", 0))

    def advance(self, seconds: float) -> None:
        """Let time pass: periods end, payments are tried again, what was left open expires."""
        with self.store.change():
            self.store.write_note("ahead", self.store.note("ahead", 0) + seconds)
        self.catch_up()

    def catch_up(self) -> None:
        """Do what has become due, each at its own moment."""
        from local.stripe import billing  # noqa: PLC0415 - which knows what is to be done, and builds on this

        while due := self.store.first_due(self.now()):
            with self.store.change():
                thing, self._then = due
                try:
                    billing.fall_due(self, thing)
                finally:
                    self._then = None

    # Objects ----------------------------------------------------------------------------------------------------------

    def name(self, kind: str) -> str:
        return f"{PREFIXES[kind]}_1{secrets.token_hex(11)}"

    def new(self, kind: str, event: str | None = None, /, **fields: Any) -> Object:
        """A new object, and the event that tells of it; names that begin with _ are never shown."""
        plain = {"id": self.name(kind), "object": kind, "created": self.now(), "livemode": False, "metadata": {}}
        made = {**plain, **copy.deepcopy(BLANK[kind]), **fields}
        self.put(made)
        if event:
            self.tell(event, made)
        return made

    def put(self, thing: Object) -> None:
        self.store.put(thing, due_of(thing))

    def get(self, kind: str, name: Any, param: str = "id", status: int = 404) -> Object:
        found = self.store.get(name) if isinstance(name, str) else None
        if not found or found["object"] != kind:
            noun = kind.replace("checkout.", "checkout ").replace("_", "" if kind.startswith("payment") else " ")
            raise Refused(f"No such {noun}: '{name}'", status=status, code="resource_missing", param=param)
        return found

    def referred(self, kind: str, name: Any, param: str) -> Object:
        """What a parameter names; a wrong name is a wrong parameter, and what was deleted is gone."""
        found = self.get(kind, name, param, status=400)
        return self.get(kind, None, param, status=400) if found.get("deleted") else found

    # Events -----------------------------------------------------------------------------------------------------------

    def change(self, thing: Object, event: str | None, /, **fields: Any) -> Object:
        """Change an object and tell of it; an event that says `updated` also says what it was before."""
        before = copy.deepcopy(thing)
        thing.update(fields)
        self.put(thing)
        if event and (thing != before or not event.endswith(".updated")):
            self.tell(event, thing, before if event.endswith(".updated") else None)
        return thing

    def tell(self, kind: str, thing: Object, before: Object | None = None) -> None:
        event = self.new(
            "event",
            type=kind,
            api_version=self.version,
            data={"object": copy.deepcopy(thing)},
            request=dict(self.request),
            _before=before,
        )
        mischief = self.store.note("mischief", {})
        for endpoint in self.store.all("webhook_endpoint"):
            if endpoint["status"] == "enabled" and {"*", kind} & set(endpoint["enabled_events"]):
                self._owe(event, endpoint, mischief)

    def _owe(self, event: Object, endpoint: Object, mischief: Object) -> None:
        serial = self.store.note("serial", 0) + 1
        self.store.write_note("serial", serial)
        chance = Random(f"{mischief.get('seed')}:{serial}")  # noqa: S311 - to be repeated, not to be secret
        if chance.random() < mischief.get("drop", 0):
            return
        for _ in range(2 if chance.random() < mischief.get("duplicate", 0) else 1):
            due = time.time() + self.store.note("ahead", 0) + chance.uniform(0, mischief.get("delay", 0))
            self.store.owe(event["id"], endpoint["id"], due, serial + chance.uniform(0, mischief.get("shuffle", 0)))


def due_of(thing: Object) -> int | None:
    """When something happens to an object by itself."""
    match thing["object"], thing.get("status"):
        case "subscription", "incomplete":
            return int(thing["created"]) + FIRST_ATTEMPT_HOURS * 3600
        case "subscription", "trialing" | "active" | "past_due" | "unpaid":
            return int(min(thing["cancel_at"] or NEVER, thing["items"]["data"][0]["current_period_end"]))
        case "invoice", "open":
            return thing["next_payment_attempt"]  # type: ignore[no-any-return]  # a time, or none
        case "checkout.session", "open":
            return thing["expires_at"]  # type: ignore[no-any-return]  # a time
    return None
