"""Make the changes at Stripe that public.stripe_tasks asks for. Each sets a state, so repeating it does no harm."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import stripe

from shared.app.call import Call
from shared.billing.kinds import ENDED
from shared.logs import log

Task = Mapping[str, Any]


async def perform_tasks(call: Call[Any]) -> dict[str, int]:
    """Do every task that is due; one that fails does not delay the others."""
    tasks = json.loads((await call.run("private.claim_stripe_tasks", "{}")).json)
    done = 0
    for task in tasks:
        error = None
        try:
            await WORK[task["kind"]](call.stripe().v1, task)
        except stripe.InvalidRequestError as problem:
            # The object has ended or is deleted: there is nothing left to change.
            if problem.code != "resource_missing":
                error = f"Stripe refused: {problem.code or problem.user_message}."
        except stripe.StripeError as problem:
            error = f"{type(problem).__name__}."
        done += error is None
        if error:
            log("WARNING", "a task at Stripe is left to the next run", kind=task["kind"], why=error)
        result = {"id": task["id"], "version": task["version"], "error": error}
        await call.run("private.finish_stripe_task", json.dumps(result))
    return {"tasks": done, "tasks_undone": len(tasks) - done}


async def _cancel(v1: Any, task: Task) -> None:
    found = await v1.subscriptions.retrieve_async(task["object_id"])
    if found.status not in ENDED:
        await v1.subscriptions.cancel_async(task["object_id"])


async def _cancel_at_period_end(v1: Any, task: Task) -> None:
    await release_schedule(v1, await v1.subscriptions.retrieve_async(task["object_id"]))
    await v1.subscriptions.update_async(task["object_id"], {"cancel_at_period_end": True})


async def _extend_trial(v1: Any, task: Task) -> None:
    parameters = {"trial_end": task["arguments"]["trial_end"], "proration_behavior": "none"}
    await v1.subscriptions.update_async(task["object_id"], parameters)


async def _update_customer(v1: Any, task: Task) -> None:
    parameters = {name: task[name] for name in ("name", "email") if task.get(name)}
    if parameters:
        await v1.customers.update_async(task["object_id"], parameters)


WORK: dict[str, Callable[[Any, Task], Awaitable[None]]] = {
    "CANCEL_SUBSCRIPTION": _cancel,
    "CANCEL_AT_PERIOD_END": _cancel_at_period_end,
    "EXTEND_TRIAL": _extend_trial,
    "UPDATE_CUSTOMER": _update_customer,
}


async def release_schedule(v1: Any, subscription: stripe.Subscription) -> None:
    """Release the schedule of a change: Stripe refuses other changes of a subscription that a schedule manages."""
    schedule = subscription.schedule
    if schedule:
        name = schedule if isinstance(schedule, str) else schedule.id
        try:
            await v1.subscription_schedules.release_async(name)
        except stripe.InvalidRequestError:
            # The schedule was released or completed meanwhile. Any other error appears in the next call.
            log("INFO", "a schedule was over already")
