"""The double as a server: requests under /v1, pages for a person, and what a test does by hand."""

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from local.stripe import LATEST, completion, coupons, disputes, pages, payments, setup_intents
from local.stripe.account import Account
from local.stripe.errors import ApiError
from local.stripe.gateway import Fault, Gateway, broken
from local.stripe.payment_methods import find
from local.stripe.store import Object, Store
from local.stripe.webhooks import Deliveries


class Double:
    """A running double. In a test it lives in the test's own process, which can reach everything."""

    def __init__(
        self,
        file: Path | None = None,
        *,
        port: int = 0,
        key: str = "sk_test_double",
        version: str = LATEST,
        ahead: float = 0,
    ) -> None:
        self.key = key
        self.store = Store(file)
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.double = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.account = Account(self.store, self.url, version)
        if ahead:
            self.store.write_note("ahead", ahead)
        self.deliveries = Deliveries(self.account)
        self.gateway = Gateway(self.account, key)

    @property
    def faults(self) -> list[Fault]:
        return self.gateway.faults

    def start(self) -> "Double":
        self.deliveries.start()
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.deliveries.end()
        self.store.close()

    # Time and mischief ------------------------------------------------------------------------------------------------

    def advance(self, *, days: float = 0, seconds: float = 0) -> None:
        """Move the time of everything that belongs to no test clock."""
        if days * 86_400 + seconds < 0:
            raise ValueError("time only moves forward")
        self.account.advance(days * 86_400 + seconds)
        self.deliveries.wake()

    def fail(self, how: str, times: int = 1, *, after: bool = False, path: str = "", seconds: float = 0) -> None:
        self.faults.append(Fault(how, times, after, path, seconds))

    def mischief(self, seed: int = 0, **what: float) -> None:
        """`drop` and `duplicate` are shares of the deliveries, `delay` is seconds, `shuffle` a distance in places."""
        self.store.write_note("mischief", {"seed": seed, **what})

    def lag(self, seconds: int) -> None:
        """For how long the list of events lacks the newest ones."""
        self.store.write_note("lag", seconds)

    def after_retries(self, what: str) -> None:
        """What happens after the last failed attempt: `cancel`, `unpaid` or `past_due`."""
        if what not in {"cancel", "unpaid", "past_due"}:
            raise ValueError(f"after_retries is cancel, unpaid or past_due, not {what!r}")
        self.store.write_note("after_retries", what)

    def tax(self, percent: float | None) -> None:
        """One rate for automatic tax everywhere; None is the table of countries again."""
        with self.store.change():
            self.store.delete_note("tax") if percent is None else self.store.write_note("tax", percent)

    # What a customer does in the browser ------------------------------------------------------------------------------

    @contextmanager
    def _acting(self, *names: str) -> Iterator[None]:
        """The changes of a customer; what a declined card changes is kept, and nothing is raised for it."""
        with self.store.change(), self.account.clock_of(*names):
            try:
                yield
            except ApiError as error:
                if not error.kept:
                    raise
        self.deliveries.wake()

    def pay(self, intent: str, card: str = "4242424242424242") -> Object:
        name = intent.partition("_secret_")[0]
        with self._acting(name):
            payments.confirm(self.account, self.account.get("payment_intent", name), find(self.account, card))
        return self.account.get("payment_intent", name)

    def set_up(self, intent: str, card: str = "4242424242424242") -> Object:
        name = intent.partition("_secret_")[0]
        with self._acting(name):
            setup_intents.confirm(self.account, self.account.get("setup_intent", name), find(self.account, card))
        return self.account.get("setup_intent", name)

    def authenticate(self, intent: str, *, succeeds: bool = True) -> Object:
        """A payment intent or a setup intent that asks the customer's bank."""
        name = intent.partition("_secret_")[0]
        with self._acting(name):
            if name.startswith("seti_"):
                found = self.account.get("setup_intent", name)
                setup_intents.authenticate(self.account, found, succeeds=succeeds)
            else:
                payments.authenticate(self.account, self.account.get("payment_intent", name), succeeds=succeeds)
        return self.account.store.get(name) or {}

    def check_out(
        self,
        session: str,
        card: str = "4242424242424242",
        *,
        promotion_code: str | None = None,
        email: str = "",
        country: str | None = None,
        authenticated: bool = True,
    ) -> Object:
        """Complete the page of a checkout session; a declined card raises and leaves the session open."""
        with self.store.change(), self.account.clock_of(session):
            found = self.account.get("checkout.session", session)
            with self.account.clock_of(found["customer"]):
                address = {"country": country} if country else None
                completion.complete(
                    self.account,
                    found,
                    card,
                    email=email,
                    address=address,
                    code=promotion_code or "",
                    authenticated=authenticated,
                )
        self.deliveries.wake()
        return self.account.get("checkout.session", session)

    def update_card(self, payment_method: str, **expires: int) -> Object:
        """The card network tells Stripe of a new card: `exp_month`, `exp_year`."""
        with self.store.change(), self.account.clock_of(payment_method):
            found = self.account.get("payment_method", payment_method)
            self.account.change(found, None, card={**found["card"], **expires})
            self.account.announce("payment_method.automatically_updated", found)
        self.deliveries.wake()
        return found

    def discount_customer(self, customer: str, coupon: str, currency: str = "usd") -> Object:
        """The dashboard gives a customer a discount on everything; the API of today has no call for it."""
        with self.store.change(), self.account.clock_of(customer):
            found = self.account.get("coupon", coupon)
            made = coupons.new_discount(self.account, found, None, currency, "coupon", customer=customer)
            self.account.change(self.account.get("customer", customer), "customer.updated", discount=made)
        self.deliveries.wake()
        return made

    def dispute(self, payment: str, reason: str = "fraudulent") -> Object:
        """The bank of a customer disputes a charge, or the charge of a payment intent."""
        with self.store.change(), self.account.clock_of(payment):
            if payment.startswith("pi_"):
                payment = self.account.get("payment_intent", payment)["latest_charge"]
            made = disputes.open_dispute(self.account, self.account.get("charge", payment), reason)
        self.deliveries.wake()
        return made

    def close_dispute(self, dispute: str, status: str = "won") -> Object:
        with self.store.change(), self.account.clock_of(dispute):
            closed = disputes.close(self.account, self.account.get("dispute", dispute), status)
        self.deliveries.wake()
        return closed

    # The stack --------------------------------------------------------------------------------------------------------

    def send_events_to(self, url: str, secret: str, version: str | None = None) -> None:
        """Make sure that this endpoint exists; one with the same secret is moved to the address."""
        with self.store.change():
            fields = {
                "url": url,
                "_secret": secret,
                "api_version": version,
                "enabled_events": ["*"],
                "status": "enabled",
            }
            for endpoint in self.store.all("webhook_endpoint"):
                if endpoint["_secret"] == secret:
                    self.account.change(endpoint, None, **fields)
                    return
            self.account.new("webhook_endpoint", **fields)

    def environment(self, secret: str) -> dict[str, str]:
        """The environment of functions that talk to it."""
        return {"STRIPE_API_BASE": self.url, "STRIPE_SECRET_KEY": self.key, "STRIPE_WEBHOOK_SECRETS": secret}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    double: Double


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _handle(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        if len(sent := self.rfile.read(length)) < length:
            # The caller ended before it had sent everything: nothing of such a request is done or kept.
            self.close_connection = True
            return
        body = sent.decode(errors="replace")
        double: Double = self.server.double
        try:
            if self.path.startswith("/v1/"):
                response = double.gateway.respond(self.command, self.path, dict(self._lowered()), body)
                double.deliveries.wake()
            else:
                response = pages.respond(double, self.command, self.path, body, dict(self._lowered()))
        except Exception:  # noqa: BLE001 - a mistake of the double must not look like an ordered fault
            traceback.print_exc()
            response = broken("500", {}, retry="false")
        if response is None:
            self.close_connection = True
            return
        content = response.body if isinstance(response.body, bytes) else response.body.encode()
        self.send_response(response.status)
        headers = {**response.headers, "content-type": response.kind, "content-length": str(len(content))}
        for name, value in headers.items():
            self.send_header(name, value)
        self._headers_buffer: list[bytes]
        self._headers_buffer.append(b"\r\n" + content)  # one write: two would wait for each other
        self.flush_headers()

    def _lowered(self) -> Iterator[tuple[str, str]]:
        return ((name.lower(), value) for name, value in self.headers.items())

    do_GET = do_POST = do_DELETE = _handle  # noqa: N815 - the names the base class calls

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        if self.path.startswith("/v1/"):
            print(format % args, flush=True)
