"""Reconciling with an account of many events holds no more of them than a page."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from shared.billing.reconciliation import PAGE, Reconciliation

COUNT = 21 * PAGE + 7


class Account:
    """Lists events page by page, and records how many were received."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.most_held = 0

    async def raw_request_async(
        self, _method: str, path: str, *, limit: int, starting_after: str = "evt_-1", **_: Any
    ) -> Any:
        assert path == "/v1/events"
        first = int(starting_after.removeprefix("evt_")) + 1
        last = min(first + limit, COUNT)
        self.most_held = max(self.most_held, last - len(self.received))
        page = [
            {"id": f"evt_{number}", "type": "a.b", "created": COUNT - number, "data": {"object": {}}}
            for number in range(first, last)
        ]
        return SimpleNamespace(data={"data": page, "has_more": last < COUNT}, headers={})

    async def execute(self, call: str, values: Any) -> Any:
        answer: Any = None
        if "begin_reconciliation" in call:
            answer = {"listed_until": None, "compare": False}
        elif "missing_stripe_events" in call:
            answer = values[0]
        elif "receive_stripe_event" in call:
            self.received.append(json.loads(values[0])["id"])
            answer = {"status": "IGNORED"}
        elif "doubtful" in call or "billing_work" in call:
            answer = []

        async def fetchone() -> tuple[Any]:
            return (answer,)

        return SimpleNamespace(fetchone=fetchone)


def test_first_run_pages_events_and_reports_the_first_thousand() -> None:
    account = Account()
    client: Any = SimpleNamespace(v1=None, raw_request_async=account.raw_request_async)
    result = asyncio.run(Reconciliation(account, client, livemode=False).run())  # type: ignore[arg-type]  # a fake client
    assert (result["missed_events"], result["changes"], len(result["changed"])) == (COUNT, COUNT, 1000)
    assert len(set(account.received)) == COUNT
    assert account.most_held <= PAGE
