from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, Field

from shared.administration.operations import AdministeredUserResult, administer
from shared.app.call import Call, Result
from shared.app.function import RequestModel, function


class SuspendUser(RequestModel):
    """Without `until` it lasts until an admin ends it."""

    user_id: UUID
    reason: Annotated[str, Field(min_length=1, max_length=500)]
    until: AwareDatetime | None = None


@function("user", errors={404: "There is no such user."})
async def suspend_user(call: Call[SuspendUser]) -> Result[AdministeredUserResult]:
    """Suspend a user.

    For platform admins; only super admins suspend an admin, and users cannot suspend themselves. Takes effect on the
    user's next request, and Supabase Auth issues no more tokens. Suspending a suspended user changes reason and end.
    """
    return await administer(call, "suspend_user", target=str(call.body.user_id))
