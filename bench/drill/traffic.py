"""Mixed traffic of two organizations. What was acknowledged is written down, to be looked for afterwards."""

import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from local.stack import Stack

PASSWORD = "strive-demo-1"  # noqa: S105 - of the demo data
ACME = ("member@acme.test", "admin@acme.test", "owner@acme.test")
GLOBEX = ("member@globex.test", "owner@globex.test")
# Status codes of an unavailable or busy server; the client retries.
AGAIN = {408, 429, 502, 503, 504}
TOOK_TOO_LONG = "57014"  # PostgREST calls it a 500; nothing was done
ANSWER_SECONDS = 15
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # only 127.0.0.1 is spoken to
PAUSE_SECONDS = 0.05
CARD = "4242424242424242"
ORDER = {
    "description": "Answers at night",
    "use_case": "support",
    "complexity": "SIMPLE",
    "requirements": {"integrations": [], "custom_ui": False, "multi_model": False, "advanced_memory": False},
    "agent_config": {},
    "tools_config": {},
}


@dataclass
class Book:
    """The results of all clients."""

    sent: Counter[str] = field(default_factory=Counter)
    acknowledged: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    # Ids and titles of the requests, and whether they were acknowledged.
    entries: dict[str, bool] = field(default_factory=dict)
    leads: dict[str, bool] = field(default_factory=dict)
    orders: dict[str, bool] = field(default_factory=dict)
    # Customers that paid at Stripe, and the organization of the response.
    customers: dict[str, str | None] = field(default_factory=dict)


class Client:
    """A client with a token, which retries a request until it gets a final response."""

    def __init__(self, values: dict[str, str], email: str, book: Book, over: threading.Event) -> None:
        self.values, self.email, self.book, self.over = values, email, book, over
        self.http = httpx.Client(
            base_url=values["API_URL"],
            headers={"apikey": values["PUBLISHABLE_KEY"]},
            timeout=ANSWER_SECONDS,
            verify=NO_TLS,
        )
        self.organization: str | None = None
        self._token = ""

    def sign_in(self) -> None:
        answer = self.insist(
            "sign-in", "POST", "/auth/v1/token?grant_type=password", json={"email": self.email, "password": PASSWORD}
        )
        if answer is not None:
            if answer.json()["user"]["email"] != self.email:
                self.wrong("sign-in", answer)
            self._token = answer.json()["access_token"]

    def insist(
        self,
        kind: str,
        method: str,
        path: str,
        *,
        json: Any = None,
        headers: Mapping[str, str] = {},
        may: tuple[int, ...] = (),
    ) -> httpx.Response | None:
        """The final response, or None when the drill ended first. `may` are accepted error statuses."""
        signed_in = {"authorization": f"Bearer {self._token}"} if self._token else {}
        while not self.over.is_set():
            self.book.sent[kind] += 1
            try:
                answer = self.http.request(method, path, json=json, headers={**signed_in, **headers})
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code not in AGAIN and TOOK_TOO_LONG not in answer.text:
                if answer.is_success or answer.status_code in may:
                    self.book.acknowledged[kind] += 1
                    return answer
                self.wrong(kind, answer)
            self.book.retries[kind] += 1
            self.over.wait(PAUSE_SECONDS)
        return None

    def pay(self, secret: str) -> bool:
        """With a test card at the Stripe of the stack, which may be unavailable as well."""
        while not self.over.is_set():
            try:
                paid = self.http.post(f"{self.values['STRIPE_API_BASE']}/pay/{secret}", data={"card": CARD})
            except httpx.TransportError:
                self.over.wait(PAUSE_SECONDS)
            else:
                return paid.is_success or self.over.wait(PAUSE_SECONDS)
        return False

    def wrong(self, kind: str, answer: httpx.Response) -> None:
        self.book.wrong.append(f"{kind}: {answer.status_code} {answer.text[:300]}")


def sign_in(client: Client) -> None:
    client.sign_in()


def read(client: Client) -> None:
    """Reads, which never return rows of another organization."""
    answer = client.insist("read", "GET", "/rest/v1/leads?select=id,organization_id&order=created_at.desc&limit=20")
    if answer is not None:
        found = {row["organization_id"] for row in answer.json()}
        client.organization = client.organization or min(found)
        if found != {client.organization}:
            client.wrong("read", answer)


def record(client: Client) -> None:
    """A function that creates rows, with an idempotency key."""
    title = str(uuid4())
    client.book.entries[title] = False
    entry = {"type": "USER_ACTION", "title": title, "entity_type": "drill", "entity_id": title, "action": "recorded"}
    if client.insist(
        "record-activity", "POST", "/functions/v1/record-activity", json=entry, headers={"idempotency-key": title}
    ):
        client.book.entries[title] = True


def add_lead(client: Client) -> None:
    """A row through PostgREST, with an id of the client's choice: a conflict on a retry means success."""
    lead = str(uuid4())
    client.book.leads[lead] = False
    row = {"id": lead, "organization_id": client.organization, "name": f"Drill {lead}"}
    if client.insist("add lead", "POST", "/rest/v1/leads", json=row, may=(409,)):
        client.book.leads[lead] = True


def order(client: Client) -> None:
    """A draft, then its submission: several tables at once. A retried draft may exist twice."""
    title = f"Drill-{uuid4()}"
    draft = ORDER | {"organization_id": client.organization, "title": title}
    made = client.insist(
        "draft order", "POST", "/rest/v1/custom_agent_orders", json=draft, headers={"prefer": "return=representation"}
    )
    if made is not None:
        client.book.orders[title] = False
        body = {"order_id": made.json()[0]["id"]}
        if client.insist(
            "submit-order", "POST", "/functions/v1/submit-order", json=body, headers={"idempotency-key": title}
        ):
            client.book.orders[title] = True


def like(client: Client) -> None:
    """A counter: likes must equal the number of people who like it."""
    answer = client.insist("like", "GET", "/rest/v1/project_showcases?select=id&is_public=is.true&limit=3")
    for showcase in answer.json() if answer is not None else []:
        for rpc in ("like_showcase", "unlike_showcase", "like_showcase"):
            client.insist("like", "POST", f"/rest/v1/rpc/{rpc}", json={"showcase_id": showcase["id"]})


def onboard(client: Client) -> None:
    """A new customer, from a name to a paid organization; each step is retried until it succeeds."""
    new = Client(client.values, f"{uuid4()}@drill.test", client.book, client.over)
    made = new.insist("onboarding", "POST", "/functions/v1/create-onboarding-session", json={})
    if made is None:
        return
    session = {"token": made.json()["token"]}
    named = session | {"step": 1, "name": "Drill Homes"}
    planned = session | {"step": 2, "tier": "STARTER", "billing_cycle": "MONTHLY"}
    new.insist("onboarding", "POST", "/functions/v1/update-onboarding-session", json=named)
    new.insist("onboarding", "POST", "/functions/v1/update-onboarding-session", json=planned)
    started = new.insist("onboarding", "POST", "/functions/v1/start-onboarding-payment", json=session)
    if started is None or not new.pay(started.json()["client_secret"]):
        return
    client.book.customers[new.email] = None
    # The account exists even if the response to signing up was lost.
    new.insist("onboarding", "POST", "/auth/v1/signup", json={"email": new.email, "password": PASSWORD}, may=(422,))
    new.sign_in()
    completed = new.insist("onboarding", "POST", "/functions/v1/complete-onboarding-session", json=session)
    if completed is not None:
        client.book.customers[new.email] = completed.json()["organization"]["id"]
    new.http.close()


KINDS: dict[str, Callable[[Client], None]] = {
    "sign-in": sign_in,
    "read": read,
    "record-activity": record,
    "add lead": add_lead,
    "submit-order": order,
    "like": like,
    "onboarding": onboard,
}


# Globex's plan includes no orders; all people like.
CLIENTS = {"like": (*ACME, *GLOBEX), "submit-order": ACME[:2]}


class Traffic:
    def __init__(self, stack: Stack) -> None:
        self.book = Book()
        self._over = threading.Event()
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._work, args=(stack.values(), email, work), name=f"{kind} by {email}")
            for kind, work in KINDS.items()
            for email in CLIENTS.get(kind, (ACME[0], GLOBEX[0]))
        ]

    def _work(self, values: dict[str, str], email: str, work: Callable[[Client], None]) -> None:
        try:
            client = Client(values, email, self.book, self._over)
            client.sign_in()
            read(client)
            while not self._over.is_set():
                work(client)
                self._over.wait(PAUSE_SECONDS)
        except BaseException as error:  # noqa: BLE001 - a client that died would be silence
            self._failures.append(error)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join(2 * ANSWER_SECONDS)
        if self._failures:
            raise self._failures[0]

    def until_all_flow(self, patience: float = 20) -> float:
        """Seconds until every kind of request was acknowledged again."""
        began, before = time.monotonic(), self.book.acknowledged.copy()
        while not all(self.book.acknowledged[kind] > before[kind] for kind in KINDS):
            if time.monotonic() - began > patience:
                still = [kind for kind in KINDS if self.book.acknowledged[kind] == before[kind]]
                raise TimeoutError(f"Not within {patience:.0f} s: {', '.join(still)}. {self.book.wrong[-1:]}")
            time.sleep(0.02)
        return time.monotonic() - began
