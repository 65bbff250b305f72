"""Listens: keys, versions, Idempotency-Key, faults to order; the addresses themselves are in api.py and pages.py."""

import base64
import json
import re
import secrets
import threading
import time
import traceback
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from local.stripe import LATEST, addresses, forms, pages, payments
from local.stripe.account import Account, Refused
from local.stripe.forms import Answer
from local.stripe.store import Object, Store
from local.stripe.webhooks import Deliveries

VERSION = re.compile(r"\d{4}-\d\d-\d\d(\.\w+)?")
DECLINED = 402
LONGEST_KEY = 255


@dataclass
class Fault:
    """What goes wrong with the next requests: `timeout` (no answer ever comes), `slow`, `429` or `500`.

    `after`: once the work is done, so that the caller does not learn of it.
    """

    how: str
    times: int = 1
    after: bool = False
    path: str = ""
    seconds: float = 0


class Double:
    """A running double. In a test it lives in the test's own process, and the test has its hands on everything."""

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
        self.faults: list[Fault] = []
        self._in_use: set[str] = set()
        self._lock = threading.Lock()

    def start(self) -> "Double":
        self.deliveries.start()
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.deliveries.end()
        self.store.close()

    # What a test or a person does beside the API ----------------------------------------------------------------------

    def advance(self, *, days: float = 0, seconds: float = 0) -> None:
        self.account.advance(days * 86_400 + seconds)
        self.deliveries.wake()

    def fail(self, how: str, times: int = 1, *, after: bool = False, path: str = "", seconds: float = 0) -> None:
        self.faults.append(Fault(how, times, after, path, seconds))

    def mischief(self, seed: int = 0, **what: float) -> None:
        """`drop` and `duplicate` are shares of the deliveries, `delay` seconds, `shuffle` how many places apart."""
        self.store.write_note("mischief", {"seed": seed, **what})

    def lag(self, seconds: int) -> None:
        """How long the list of events lacks what has just happened."""
        self.store.write_note("lag", seconds)

    def pay(self, intent: str, card: str = "4242424242424242") -> Object:
        """As the customer does in the browser; what happens is in the intent, and nothing is raised."""
        with self.store.change():
            found = self.account.get("payment_intent", intent.partition("_secret_")[0])
            try:
                payments.confirm(self.account, found, payments.method(self.account, card))
            except Refused as refused:
                if not refused.kept:
                    raise
        self.deliveries.wake()
        return self.account.get("payment_intent", found["id"])

    def authenticate(self, intent: str, *, succeeds: bool = True) -> Object:
        with self.store.change():
            found = self.account.get("payment_intent", intent.partition("_secret_")[0])
            payments.authenticate(self.account, found, succeeds=succeeds)
        self.deliveries.wake()
        return self.account.get("payment_intent", found["id"])

    def send_events_to(self, url: str, secret: str, version: str | None = None) -> None:
        """Make sure that this endpoint is there; one of the same secret is moved to the address."""
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
        """What functions that talk to it are told."""
        return {"STRIPE_API_BASE": self.url, "STRIPE_SECRET_KEY": self.key, "STRIPE_WEBHOOK_SECRETS": secret}

    def page(self, method: str, path: str, headers: Any, body: str) -> Answer:
        return pages.answer(self, method, path, body, headers)

    # A request --------------------------------------------------------------------------------------------------------

    def answer(self, method: str, target: str, headers: Any, body: str) -> "Answer | None":
        """None is no answer at all."""
        address = urlsplit(target)
        fault = self._fault(address.path)
        if fault and fault.how == "slow":
            fault = None if fault.after else fault
        reply = {"request-id": f"req_{secrets.token_hex(7)}", "stripe-version": headers.get("stripe-version") or LATEST}
        key = headers.get("idempotency-key") if method == "POST" else None
        with self._lock:
            if key in self._in_use:
                return _refusal(_in_use(key), reply)
            if key:
                self._in_use.add(key)
        try:
            if fault:
                time.sleep(fault.seconds)
            if fault and fault.how != "slow" and not fault.after:
                return _broken(fault.how, reply, retry="true")
            answer = self._answer(
                method, address, headers, body, key, reply, broken=fault is not None and fault.how == "500"
            )
            self.deliveries.wake()
            return _broken(fault.how, reply, retry="false") if fault and fault.how != "slow" else answer
        finally:
            with self._lock:
                self._in_use.discard(key or "")

    def _fault(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if path.startswith("/v1/" + fault.path):
                    fault.times -= 1
                    if not fault.times:
                        self.faults.remove(fault)
                    return fault
        return None

    def _answer(
        self, method: str, address: Any, headers: Any, body: str, key: str | None, reply: Object, *, broken: bool
    ) -> "Answer":
        account = self.account
        try:
            self._authorise(headers)
            version = reply["stripe-version"]
            if not VERSION.fullmatch(version):
                raise Refused(f"Invalid Stripe API version: {version}")  # noqa: TRY301 - one place answers
            given = forms.parse(body if method == "POST" else "&".join(filter(None, (address.query, body))))
            account.catch_up()
            with self.store.change():
                if key and (known := self._known(key, address.path, given)):
                    return Answer(*known, {**reply, "idempotency-key": key, "idempotent-replayed": "true"})
                account.request = {"id": reply["request-id"], "idempotency_key": key}
                asked = json.dumps([address.path, given], sort_keys=True)
                try:
                    answer = Answer(
                        200, json.dumps(addresses.call(account, method, address.path, given, version), indent=2), reply
                    )
                except Refused as refused:
                    if not refused.kept:
                        raise
                    answer = _refusal(refused, reply)
                if key:
                    # What is kept is the answer that went out, a 500 too.
                    said = _broken("500", reply, retry="false") if broken else answer
                    self.store.remember(key, asked, said.status, said.body, int(time.time()))  # type: ignore[union-attr]  # a 500 is an answer
        except Refused as refused:
            return _refusal(refused, reply)
        return answer

    def _known(self, key: str, path: str, given: Object) -> tuple[int, str] | None:
        if len(key) > LONGEST_KEY:
            raise Refused("Idempotency keys are at most 255 characters.", kind="idempotency_error")
        if not (known := self.store.answer(key, int(time.time()))):
            return None
        asked, status, body = known
        if json.loads(asked) != [path, json.loads(json.dumps(given))]:
            raise Refused(
                f"Keys for idempotent requests can only be used with the same parameters they were first used with. Try"
                f" using a key other than '{key}' if you meant to execute a different request.",
                kind="idempotency_error",
            )
        return status, body

    def _authorise(self, headers: Any) -> None:
        scheme, _, said = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            said = base64.b64decode(said).decode(errors="replace").partition(":")[0]
        if said != self.key:
            message = (
                f"Invalid API Key provided: {said[:8]}****{said[-4:]}" if said else "You did not provide an API key."
            )
            raise Refused(message, status=401)


def _refusal(refused: Refused, headers: Object) -> Answer:
    return Answer(refused.status, json.dumps({"error": refused.error}, indent=2), headers)


def _in_use(key: str) -> Refused:
    return Refused(
        f"There is currently another in-progress request using this Idempotent Key: {key}.",
        status=409,
        kind="idempotency_error",
        code="idempotency_key_in_use",
    )


def _broken(how: str, headers: Object, *, retry: str) -> Answer | None:
    if how == "429":
        return _refusal(Refused("Too many requests hit the API too quickly.", status=429, code="rate_limit"), headers)
    if how == "500":
        broken = Refused("An unknown error occurred.", status=500, kind="api_error")
        return _refusal(broken, {**headers, "stripe-should-retry": retry})
    return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    double: Double


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode(errors="replace")
        double: Double = self.server.double
        answering = double.answer if self.path.startswith("/v1/") else double.page
        try:
            answer = answering(self.command, self.path, self.headers, body)
        except Exception:  # noqa: BLE001 - a mistake of the double must not look like a fault it was told to have
            traceback.print_exc()
            answer = _broken("500", {}, retry="false")
        if answer is None:
            self.close_connection = True
            return
        content = answer.body.encode()
        self.send_response(answer.status)
        for name, value in {**answer.headers, "content-type": answer.kind, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self._headers_buffer: list[bytes]
        self._headers_buffer.append(b"\r\n" + content)  # one write: two would wait for each other
        self.flush_headers()

    do_GET = do_POST = do_DELETE = _handle  # noqa: N815 - the names the base class calls

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        if self.path.startswith("/v1/"):
            print(format % args, flush=True)
