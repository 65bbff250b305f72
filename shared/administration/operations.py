"""Operations of platform admins: logged whether they succeed or not, and synced to Supabase Auth."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import psycopg
from pydantic import AwareDatetime, BaseModel

from shared.administration.services import ban, delete_account, services
from shared.app.call import Call, Result
from shared.app.function import ResponseModel
from shared.database.errors import from_sqlstate
from shared.errors import INTERNAL, ApiError, error_response
from shared.logs import log
from shared.schema import UserRole
from shared.settings import Settings

if TYPE_CHECKING:
    from supabase import AsyncClient

# A user may change again while Auth is being updated; after so many rounds the job takes over.
ROUNDS = 3


class AuthSync(BaseModel):
    """A change of a user that Auth does not have yet: a ban for so many seconds (0: none), or the deletion."""

    user_id: str
    version: int
    deletion: bool
    seconds: int
    error: str | None = None


AuthSyncs = list[AuthSync]


class Refusal(BaseModel):
    code: str
    message: str
    details: str | None
    hint: str | None


class Attempt(BaseModel):
    """What private.attempt() returns: `done`, or `refused` after the operation was rolled back and logged."""

    done: dict[str, Any] = {}
    refused: Refusal | None = None
    syncs: AuthSyncs = []


class Settled(BaseModel):
    syncs: AuthSyncs


class AdministeredUser(ResponseModel):
    user_id: UUID
    global_role: UserRole
    is_active: bool
    suspended_at: AwareDatetime | None
    suspended_until: AwareDatetime | None
    suspended_reason: str | None


class AdministeredUserResult(AdministeredUser):
    """`auth` is pending until Supabase Auth has the change; the change itself takes effect at once."""

    auth: Literal["synced", "pending"]


async def administer(call: Call[Any], operation: str, *, target: str) -> Result[Any]:
    """Run the operation with the body, sync Auth, and respond with both."""
    attempted = await attempt(call, operation, call.body.model_dump(mode="json"), target=target)

    async def settle(done: AuthSyncs) -> AuthSyncs:
        return (await call.load("private.settle_auth_syncs", {"done": done}, Settled)).syncs

    pending = await settle_syncs(call.settings, attempted.syncs, settle)
    return Result(json.dumps(attempted.done | {"auth": "pending" if pending else "synced"}))


async def attempt(call: Call[Any], operation: str, payload: Any, *, target: str) -> Attempt:
    """Run one of private.admin_operations, in a subtransaction: the statement that refuses it also logs it.

    A failure that ends the whole transaction, such as a timeout, is logged by a second one.
    """
    try:
        attempted = await call.load(f"private.{operation}", payload, Attempt)
    except (psycopg.Error, TimeoutError) as error:
        code = error_response(error).code
        lost = {"operation": operation, "target_id": target, "error": code}
        with suppress(Exception):  # the first error is the one to report
            await call.run("private.log_interrupted", lost)
        raise
    if refused := attempted.refused:
        response = from_sqlstate(refused.code, refused.message, refused.details, refused.hint)
        if response is INTERNAL:
            log("ERROR", "administration failed", operation=operation, why=f"{refused.code}: {refused.message}")
        raise ApiError.of(response)
    return attempted


async def settle_syncs(settings: Settings, due: AuthSyncs, settle: Callable[[AuthSyncs], Awaitable[AuthSyncs]]) -> int:
    """Sync users to Auth; the number of those still due. `settle` stores what was done and returns what is due now."""
    for _ in range(ROUNDS):
        if not due:
            break
        try:
            async with services(settings) as client:
                done = await asyncio.gather(*(_sync(client, sync) for sync in due))
        except ApiError as error:  # without a secret key
            done = [sync.model_copy(update={"error": str(error)}) for sync in due]
        due = await settle(done)
        if any(each.error for each in done):
            break
    return len(due)


async def _sync(client: "AsyncClient", sync: AuthSync) -> AuthSync:
    try:
        if sync.deletion:
            await delete_account(client, sync.user_id)
        else:
            await ban(client, sync.user_id, sync.seconds)
    except Exception as error:  # noqa: BLE001 - of any library; it is stored, and the job retries
        return sync.model_copy(update={"error": f"{type(error).__name__}: {error}"[:500]})
    return sync
