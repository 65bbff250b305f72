"""The job that finishes onboarding payments: cancels those left behind, checks long ones, issues due refunds."""

from collections.abc import Awaitable, Callable
from typing import Any

from shared.app.call import Call
from shared.errors import INTERNAL, error_response
from shared.logs import log
from shared.onboarding.payments import ask, give_back, let_go, observe

Step = Callable[[Call[Any], Any], Awaitable[Any]]


async def settle(call: Call[Any]) -> dict[str, int]:
    todo = await ask(call, "private.expire_onboarding_payments", {})
    done = {
        "let_go": await _each(call, let_go, todo["let_go"]),
        "asked": await _each(call, observe, todo["in_doubt"]),
        "refunded": await _each(call, give_back, todo["refunds"]),
    }
    wanted = len(todo["let_go"]) + len(todo["in_doubt"]) + len(todo["refunds"])
    return {"expired": todo["expired"], **done, "undone": wanted - sum(done.values())}


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
