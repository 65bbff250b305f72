from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.schema import OrgRole

# Words between dots, on both sides of the @.
ADDRESS = r"^{0}(\.{0})*@{0}(\.{0})*$".format(r"[^@\s<>,;:\"()\[\]\\.]+")


class Invitation(RequestModel):
    email: Annotated[str, Field(max_length=255, min_length=3, pattern=ADDRESS)]
    role: OrgRole = OrgRole.MEMBER


class Invitations(RequestModel):
    invitations: Annotated[list[Invitation], Field(min_length=1, max_length=100)]


class Invited(ResponseModel):
    id: UUID
    email: str
    role: OrgRole
    expires_at: datetime


class Skipped(ResponseModel):
    """MEMBER: already belongs to the organization; INVITED: has an open invitation."""

    email: str
    reason: Literal["MEMBER", "INVITED"]


class InvitedAndSkipped(ResponseModel):
    invited: list[Invited]
    skipped: list[Skipped]


@function(
    "user",
    idempotent=True,
    errors={402: "The plan has no seats for all of them.", 429: "200 invitations were mailed within a day."},
)
async def invite_member(call: Call[Invitations]) -> Result[InvitedAndSkipped]:
    """Invite up to 100 people by e-mail.

    For an ADMIN, who can only invite to roles up to their own. Each address gets a link that is valid for seven days,
    also without an account. All are invited or none; members and addresses with an open invitation are skipped. Members
    and open invitations together fit into the seats of the plan.
    """
    wish = {"invitations": [{"email": each.email, "role": each.role} for each in call.body.invitations]}
    return await call.run("private.invite_members", wish)
