from datetime import datetime
from typing import Annotated

from pydantic import Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.schema import OrgRole


class InvitationToken(RequestModel):
    token: Annotated[str, Field(min_length=1, max_length=100)]


class InvitationPreview(ResponseModel):
    organization: str
    logo_url: str | None
    role: OrgRole
    email: str
    inviter: str | None
    expires_at: datetime
    has_account: bool


@function("anyone", errors={404: "No invitation has this token.", 409: "It was used.", 410: "It has expired."})
async def preview_invitation(call: Call[InvitationToken]) -> Result[InvitationPreview]:
    """Show what an invitation is about, before it is accepted.

    The token is in the link of the e-mail. To accept, sign up or sign in with the invited address and call the rpc
    `accept_invitation`.
    """
    return await call.run("private.preview_invitation", call.body)
