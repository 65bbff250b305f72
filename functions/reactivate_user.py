from typing import Annotated
from uuid import UUID

from pydantic import Field

from shared.administration.operations import AdministeredUserResult, administer
from shared.app.call import Call, Result
from shared.app.function import RequestModel, function


class ReactivateUser(RequestModel):
    user_id: UUID
    reason: Annotated[str | None, Field(min_length=1, max_length=500, description="For the log.")] = None


@function("user", errors={404: "There is no such user.", 409: "The account is deleted."})
async def reactivate_user(call: Call[ReactivateUser]) -> Result[AdministeredUserResult]:
    """End a suspension or a deactivation.

    For platform admins, like suspend-user. Reactivating an active user changes nothing.
    """
    return await administer(call, "reactivate_user", target=str(call.body.user_id))
