from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from shared.administration.operations import AdministeredUser, administer
from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.schema import UserRole

UserIds = Annotated[list[UUID], Field(min_length=1, max_length=100)]
Reason = Annotated[str, Field(min_length=1, max_length=500)]


class SuspendUsers(RequestModel):
    action: Literal["suspend"]
    user_ids: UserIds
    reason: Reason
    until: AwareDatetime | None = None


class ReactivateUsers(RequestModel):
    action: Literal["reactivate"]
    user_ids: UserIds
    reason: Reason | None = None


class SetRoleOfUsers(RequestModel):
    action: Literal["set_role"]
    user_ids: UserIds
    role: UserRole
    reason: Reason | None = None


class AdministeredUsers(ResponseModel):
    """The users as they are now; `auth` is pending while the auth service does not know of all of them."""

    users: list[AdministeredUser]
    auth: Literal["synced", "pending"]


@function("user", errors={404: "There is no such user among them."})
async def bulk_admin_action(
    call: Call[Annotated[SuspendUsers | ReactivateUsers | SetRoleOfUsers, Field(discriminator="action")]],
) -> Result[AdministeredUsers]:
    """Do one thing to up to 100 users, or to none of them.

    For platform admins; set_role for super admins. What cannot be done to one of them is done to nobody, and the error
    names that one. Doing it again changes nothing.
    """
    target = f"{len(set(call.body.user_ids))} users"
    return await administer(call, "private.bulk_admin_action", action="BULK_ACTION", target=("user", target))
