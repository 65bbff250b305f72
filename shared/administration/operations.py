"""Operations of administration: logged whether they succeed or not, and told to Auth, which may be away."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal
from uuid import UUID

import psycopg
from pydantic import AwareDatetime

from shared.administration.services import Services, services
from shared.app.function import Answered, Call, Shape
from shared.errors import INTERNAL, ApiError, problem_of, problem_of_state
from shared.logs import log
from shared.schema import UserRole
from shared.settings import Settings

# What changes while it is being told is told again; beyond this the job does it.
ROUNDS = 3
Errands = list[dict[str, Any]]


class AdministeredUser(Shape):
    user_id: UUID
    global_role: UserRole
    is_active: bool
    suspended_at: AwareDatetime | None
    suspended_until: AwareDatetime | None
    suspended_reason: str | None


class Administered(AdministeredUser):
    """`auth` is pending while the auth service could not be told; what the user may do is decided all the same."""

    auth: Literal["told", "pending"]


async def administer(call: Call[Any], operation: str, *, action: str, target: tuple[str, str]) -> Answered[Any]:
    """Do what the body says, and answer with what Auth knows of it."""
    answer = await attempt(call, operation, call.body.model_dump(mode="json"), action=action, target=target)
    pending = await tell_auth(call, answer["errands"])
    return Answered(json.dumps(answer["done"] | {"auth": "pending" if pending else "told"}))


async def attempt(
    call: Call[Any], operation: str, payload: Any, *, action: str, target: tuple[str, str]
) -> dict[str, Any]:
    """What the operation answers. It runs in a subtransaction, so that what is refused is logged by the same statement.

    What takes the whole transaction with it, such as a timeout, is logged by another one.
    """
    try:
        answer: dict[str, Any] = json.loads((await call.run(operation, json.dumps(payload))).json)
    except Exception as error:
        if isinstance(error, psycopg.Error | TimeoutError):
            lost = {"action": action, "target_type": target[0], "target_id": target[1], "error": problem_of(error).code}
            with suppress(Exception):  # the first error is the one to tell
                await call.run("private.log_interrupted", json.dumps(lost))
        raise
    if refused := answer.get("refused"):
        problem = problem_of_state(refused["code"], refused["message"], refused["details"], refused["hint"])
        if problem is INTERNAL:
            log("ERROR", "administration failed", operation=operation, why=f"{refused['code']}: {refused['message']}")
        raise ApiError.of(problem)
    return answer


async def tell_auth(call: Call[Any], errands: Errands) -> int:
    """Tell Auth who is banned; how many it does not know of by the end. A job tells it the rest later."""

    async def settle(told: Errands) -> Errands:
        settled: Errands = json.loads((await call.run("private.settle_auth_errands", json.dumps({"told": told}))).json)[
            "errands"
        ]
        return settled

    return await settle_errands(call.settings, errands, settle)


async def settle_errands(settings: Settings, errands: Errands, settle: Callable[[Errands], Awaitable[Errands]]) -> int:
    """`settle` notes what Auth was told and answers what is still due of it."""
    for _ in range(ROUNDS):
        if not errands:
            break
        try:
            async with services(settings) as reached:
                told = await asyncio.gather(*(_tell(reached, errand) for errand in errands))
        except ApiError as problem:
            told = [errand | {"error": str(problem)} for errand in errands]
        errands = await settle(told)
        if any("error" in each for each in told):
            break
    return len(errands)


async def _tell(reached: Services, errand: dict[str, Any]) -> dict[str, Any]:
    try:
        if errand["deletion"]:
            await reached.forget(errand["user_id"])
        else:
            await reached.ban(errand["user_id"], errand["seconds"])
    except ApiError as problem:
        return errand | {"error": str(problem.problem.details)}
    return errand
