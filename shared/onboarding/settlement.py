"""The job that finishes payments: it cancels, fetches and refunds them, and makes the changes due at Stripe."""

from collections.abc import Awaitable, Callable
from typing import Any

from shared.app.call import Call
from shared.billing.refunds import refund
from shared.billing.tasks import perform_tasks
from shared.errors import INTERNAL, error_response
from shared.logs import log
from shared.onboarding.payments import cancel, run, sync

Step = Callable[[Call[Any], Any], Awaitable[Any]]


async def settle(call: Call[Any]) -> dict[str, int]:
    todo = await run(call, "private.expire_onboarding_payments", {})
    done = {
        "cancelled": await _each(call, cancel, todo["to_cancel"]),
        "synced": await _each(call, sync, todo["in_doubt"]),
        "refunded": await _each(call, refund, todo["refunds"]),
    }
    wanted = len(todo["to_cancel"]) + len(todo["in_doubt"]) + len(todo["refunds"])
    tasks = await perform_tasks(call)
    undone = wanted - sum(done.values()) + tasks["tasks_undone"]
    return {"expired": todo["expired"], **done, "tasks": tasks["tasks"], "undone": undone}


async def _each(call: Call[Any], step: Step, items: list[Any]) -> int:
    done = 0
    for item in items:
        try:
            await step(call, item)
        except Exception as error:  # noqa: BLE001 - one failure must not delay the others
            severity = "ERROR" if error_response(error) is INTERNAL else "WARNING"
            log(severity, "payment not settled; the next run retries it", why=type(error).__qualname__)
        else:
            done += 1
    return done
