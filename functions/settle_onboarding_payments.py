from collections.abc import Awaitable, Callable
from typing import Any

from shared.app.function import Answered, Call, function
from shared.errors import INTERNAL, problem_of
from shared.jobs import Connection, Nothing, Run, perform_here
from shared.logs import log

Item = Callable[[Call[Any], Any], Awaitable[Any]]


@function("secret")
async def settle_onboarding_payments(call: Call[Nothing]) -> Answered[Run]:
    """Cancel payments that were left behind, ask about long ones, issue refunds that are due.

    A payment is left behind when another plan replaced it or its session expired. Up to 50 of each a run; what Stripe
    cannot do now is `undone`, and left to the next run.
    """
    from shared.onboarding.payments import ask, give_back, let_go, observe  # noqa: PLC0415 - brings Stripe's library

    async def settle(_: Connection) -> dict[str, int]:
        todo = await ask(call, "private.expire_onboarding_payments", {})
        done = {
            "let_go": await each(let_go, todo["let_go"]),
            "asked": await each(observe, todo["in_doubt"]),
            "refunded": await each(give_back, todo["refunds"]),
        }
        wanted = len(todo["let_go"]) + len(todo["in_doubt"]) + len(todo["refunds"])
        return {"expired": todo["expired"], **done, "undone": wanted - sum(done.values())}

    async def each(work: Item, items: list[Any]) -> int:
        done = 0
        for item in items:
            try:
                await work(call, item)
            except Exception as error:  # noqa: BLE001 - one that fails must not keep the others waiting
                severity = "ERROR" if problem_of(error) is INTERNAL else "WARNING"
                log(severity, "a payment is left to the next run", why=type(error).__qualname__)
            else:
                done += 1
        return done

    return await perform_here(call, "settle_onboarding_payments", settle)
