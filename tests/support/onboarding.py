"""A visitor in onboarding, who calls the functions as a browser does."""

from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.serving import PUBLISHABLE_KEY, Serving

ORGANIZATION = {"name": "Initech", "website": "https://initech.test", "description": "Software"}


@dataclass
class Customer:
    """`person` is the signed-in user; None: anonymous."""

    functions: Serving
    person: str | None = None
    token: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def post(self, function: str, body: Any, **headers: str) -> httpx.Response:
        with self.functions.client(self.person, apikey=PUBLISHABLE_KEY) as client:
            return client.post(f"/functions/v1/{function}", json=body, headers=self.headers | headers)

    def call(self, verb: str, **words: Any) -> httpx.Response:
        """Call <verb>-onboarding-session with the token, if there is one."""
        named = {} if self.token is None else {"token": self.token}
        function = "start-onboarding-payment" if verb == "pay" else f"{verb}-onboarding-session"
        return self.post(function, named | words)

    def done(self, verb: str, **words: Any) -> Any:
        answer = self.call(verb, **words)
        assert answer.is_success, answer.text
        return answer.json()

    def start(self, tier: str | None = None, cycle: str = "MONTHLY", **organization: str) -> "Customer":
        """A new session; with a tier, at the step after the plan."""
        self.token = str(self.post("create-onboarding-session", {}).json()["token"])
        if tier:
            self.done("update", step=1, **ORGANIZATION | organization)
            self.done("update", step=2, tier=tier, billing_cycle=cycle)
        return self

    def signed_in(self, person: str) -> "Customer":
        return Customer(self.functions, person, self.token)
