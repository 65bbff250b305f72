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
    """`auth` is pending until Supabase Auth and Storage have deleted their part; the account is unusable at once."""

    user_id: UUID
    deleted_at: AwareDatetime
    auth: Literal["synced", "pending"]


@function(
    "user",
    errors={
        404: "There is no such user.",
        409: "`confirm` is another address, or the user is the last owner of an organization or the last super admin.",
    },
)
async def delete_account(call: Call[DeleteOwnAccount | DeleteUser]) -> Result[DeletedAccount]:
    """Delete an account and its personal data.

    A user deletes their own account, a platform admin any. The data of organizations stays and refers to an account
    without name, address or avatar. Repeating the request gets the same response.
    """
    body = call.body
    target = body.user_id if isinstance(body, DeleteUser) else call.caller.user_id
    return await administer(call, "delete_account", target=str(target))
