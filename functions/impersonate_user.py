import json
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from shared.administration.operations import attempt
from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function


class ImpersonationRequest(RequestModel):
    user_id: UUID
    reason: Annotated[str, Field(min_length=1, max_length=500)]


class ImpersonationToken(ResponseModel):
    """A token to call the API with as that user; there is nothing to renew it with."""

    impersonation_id: UUID
    access_token: str
    token_type: Literal["bearer"]
    expires_in: int
    expires_at: AwareDatetime


@function(
    "user",
    errors={
        404: "There is no such user.",
        409: "The user is suspended or inactive.",
        501: "These functions have no key to sign a token with.",
    },
)
async def impersonate_user(call: Call[ImpersonationRequest]) -> Result[ImpersonationToken]:
    """Act as a user for 15 minutes.

    For super admins, and never as an admin. The token names both (`sub` the user, `act.sub` the admin), and so does
    whatever is logged of what it does. It can neither change the account nor do anything of administration. The rpc
    `end_impersonation` ends it before its time, and so does suspending either of the two.
    """
    wish = call.body.model_dump(mode="json") | {"signable": call.settings.signing_key is not None}
    attempted = await attempt(
        call, "private.impersonate_user", wish, action="USER_IMPERSONATE", target=("user", str(call.body.user_id))
    )
    from shared.auth.tokens import signed  # noqa: PLC0415 - cryptography, loaded by the first token anyway

    done = attempted.done
    claims = done.pop("claims")
    done |= {
        "access_token": signed(call.settings, claims),
        "token_type": "bearer",
        "expires_in": claims["exp"] - claims["iat"],
    }
    return Result(json.dumps(done), headers={"cache-control": "no-store"})
