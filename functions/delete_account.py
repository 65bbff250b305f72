from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from shared.administration.operations import administer
from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function


class DeleteOwnAccount(RequestModel):
    confirm: Annotated[str, Field(max_length=255, description="The e-mail address of the account.")]


class DeleteUser(RequestModel):
    user_id: UUID
    reason: Annotated[str, Field(min_length=1, max_length=500)]


class DeletedAccount(ResponseModel):
    """`auth` is pending while Auth and Storage have not done their part; the account is of no use all the same."""

    user_id: UUID
    deleted_at: AwareDatetime
    auth: Literal["synced", "pending"]


@function(
    "user",
    errors={
        404: "There is no such user.",
        409: "Another address was sent to confirm, or it is the last owner of an organisation or the last super admin.",
    },
)
async def delete_account(call: Call[DeleteOwnAccount | DeleteUser]) -> Result[DeletedAccount]:
    """Delete an account and what is personal of it.

    One's own, or for platform admins another's. What organisations made of its work stays, and points to an account
    without name, address or picture. Deleting it again answers the same.
    """
    body = call.body
    target = body.user_id if isinstance(body, DeleteUser) else call.caller.user_id
    return await administer(call, "private.delete_account", action="USER_DELETE", target=("user", str(target)))
