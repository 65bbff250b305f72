import json
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field

from shared.administration.operations import attempt
from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.app.libraries import load_modules


class ImpersonationRequest(RequestModel):
    user_id: UUID
    reason: Annotated[str, Field(min_length=1, max_length=500)]


class ImpersonationToken(ResponseModel):
    """A token to call the API as that user; it cannot be renewed."""

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
        501: "SUPABASE_SIGNING_KEY is not configured.",
    },
)
async def impersonate_user(call: Call[ImpersonationRequest]) -> Result[ImpersonationToken]:
    """Act as a user for 15 minutes.

    For super admins; a platform admin cannot be impersonated. The token and all log entries name both people (`sub` the
    user, `act.sub` the admin). The token cannot change the account or administer the platform. The rpc
    `end_impersonation` ends it early; so does the suspension of either person.
    """
    payload = call.body.model_dump(mode="json") | {"signable": call.settings.signing_key is not None}
    attempted = await attempt(
        call,
        "impersonate_user",
        payload,
        target=str(call.body.user_id),
    )
    await load_modules("shared.auth.tokens")
    from shared.auth.tokens import signed  # noqa: PLC0415 - brings cryptography

    done = attempted.done
    claims = done.pop("claims")
    done |= {
        "access_token": signed(call.settings, claims),
        "token_type": "bearer",
        "expires_in": claims["exp"] - claims["iat"],
    }
    return Result(json.dumps(done), headers={"cache-control": "no-store"})
