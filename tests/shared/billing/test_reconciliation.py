"""Reconciling with an account of many events holds no more of them than a page."""

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from shared.billing.reconciliation import PAGE, Reconciliation

COUNT = 10 * PAGE + 7


class Account:
    """Lists events one by one, as the library does page by page, and records how many were received."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.most_held = 0

    async def auto_paging_iter(self) -> AsyncIterator[Any]:
        for number in range(COUNT):
            self.most_held = max(self.most_held, number - len(self.received))
            event = {"id": f"evt_{number}", "type": "a.b", "created": COUNT - number, "data": {"object": {}}}
            yield SimpleNamespace(id=event["id"], to_dict=lambda event=event: event)

    async def list_async(self, _: Any) -> Any:
        return self

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
    client: Any = SimpleNamespace(v1=SimpleNamespace(events=account))
    result = asyncio.run(Reconciliation(account, client, livemode=False).run())  # type: ignore[arg-type]  # a fake client
    assert (result["missed_events"], result["changes"], len(result["changed"])) == (COUNT, COUNT, 1000)
    assert len(set(account.received)) == COUNT
    assert account.most_held <= PAGE
