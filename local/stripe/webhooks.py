"""Delivers events: signed, retried until they are accepted, in an order and number that mischief decides."""

import hashlib
import hmac
import http.client
import json
import threading
import time
from urllib.parse import urlsplit

from local.stripe.account import Account
from local.stripe.store import Object
from local.stripe.versions import shown

PATIENCE_S = 10
LONGEST_PAUSE_S = 3600
# Then the delivery is dropped, as Stripe does after three days.
ATTEMPTS = 80


class Deliveries:
    """Several threads, as Stripe delivers several events at once."""

    def __init__(self, account: Account, threads: int = 3) -> None:
        self.paused = False
        self._account = account
        self._under_way: set[int] = set()
        self._lock = threading.Lock()
        self._wake = threading.Condition()
        self._ended_one = threading.Condition()
        self._ended = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended = True
        self.wake()
        for thread in self._threads:
            thread.join()

    def wake(self) -> None:
        if self._ended or self._account.store.pending_deliveries():
            with self._wake:
                self._wake.notify_all()

    def settle(self, timeout: float = 30) -> None:
        """Wait until every event is delivered; failed deliveries are retried at once, not after their pause."""
        deadline = time.monotonic() + timeout
        with self._ended_one:
            while self._account.store.pending_deliveries() or self._under_way:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self._account.store.pending_deliveries()} deliveries were not accepted")
                self._account.store.hurry()
                self.wake()
                self._ended_one.wait(0.05)

    def _work(self) -> None:
        while not self._ended:
            if self.paused or not (delivery := self._take()):
                with self._wake:
                    self._wake.wait(0.5)
                continue
            serial, event, endpoint, attempts = delivery
            try:
                self._deliver(serial, event, endpoint, attempts)
            finally:
                with self._ended_one:
                    self._under_way.discard(serial)
                    self._ended_one.notify_all()

    def _take(self) -> tuple[int, str, str, int] | None:
        with self._lock:
            store = self._account.store
            for delivery in store.due_deliveries(time.time() + store.note("ahead", 0)):
                if delivery[0] not in self._under_way:
                    self._under_way.add(delivery[0])
                    return delivery
        return None

    def _deliver(self, serial: int, event: str, endpoint: str, attempts: int) -> None:
        store = self._account.store
        what, where = store.get(event), store.get(endpoint)
        accepted = not what or not where or post(where["url"], payload(self._account, what, where), where["_secret"])
        if accepted or attempts + 1 >= ATTEMPTS:
            store.delivered(serial)
        else:
            pause = min(2**attempts, LONGEST_PAUSE_S)
            store.postpone(serial, time.time() + store.note("ahead", 0) + pause)


def payload(account: Account, event: Object, endpoint: Object) -> bytes:
    """The endpoint's version decides the shape."""
    version = endpoint["api_version"] or account.version
    return json.dumps(shown(account, {**event, "api_version": version}, version)).encode()


def signature(body: bytes, secret: str, at: int | None = None) -> str:
    at = int(time.time()) if at is None else at
    return f"t={at},v1={hmac.new(secret.encode(), b'%d.%b' % (at, body), hashlib.sha256).hexdigest()}"


def post(url: str, body: bytes, secret: str) -> bool:
    """Whether the endpoint accepted it: a response of 2xx."""
    address = urlsplit(url)
    secure = address.scheme == "https"
    connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(
        address.netloc, timeout=PATIENCE_S
    )
    try:
        headers = {"content-type": "application/json; charset=utf-8", "stripe-signature": signature(body, secret)}
        connection.request("POST", address.path or "/", body, headers | {"user-agent": "Stripe/1.0"})
        return 200 <= connection.getresponse().status < 300  # noqa: PLR2004 - what 2xx means
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
