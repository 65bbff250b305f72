from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, Field

from shared.administration.operations import Administered, administer
from shared.app.call import Call, Result
from shared.app.function import RequestModel, function


class Suspension(RequestModel):
    """Without `until` it lasts until somebody ends it."""

    user_id: UUID
    reason: Annotated[str, Field(min_length=1, max_length=500)]
    until: AwareDatetime | None = None


@function("user", errors={404: "There is no such user."})
async def suspend_user(call: Call[Suspension]) -> Result[Administered]:
    """Suspend a user.

    For platform admins: not oneself, and an admin only by a super admin. It takes effect with the user's next request,
    and the auth service gives them no more tokens. Suspending somebody who is suspended changes reason and end.
    """
    return await administer(
        call, "private.suspend_user", action="USER_SUSPEND", target=("user", str(call.body.user_id))
    )
