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


class AdministeredUsersResult(ResponseModel):
    """The users as they are now; `auth` is pending until Supabase Auth has the change of each."""

    users: list[AdministeredUser]
    auth: Literal["synced", "pending"]


@function("user", errors={404: "One of the users does not exist."})
async def bulk_admin_action(
    call: Call[Annotated[SuspendUsers | ReactivateUsers | SetRoleOfUsers, Field(discriminator="action")]],
) -> Result[AdministeredUsersResult]:
    """Suspend, reactivate or change the role of up to 100 users.

    For platform admins; set_role for super admins. If one user cannot be changed, none is, and the error names that
    user. Repeating the request changes nothing.
    """
    target = f"{len(set(call.body.user_ids))} users"
    return await administer(call, "bulk_admin_action", target=target)
