import json
import secrets
from typing import Annotated

from pydantic import Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, function
from shared.onboarding.sessions import OnboardingSession, hash_of

TOKEN_BYTES = 32


class NewOnboardingSession(RequestModel):
    """No fields."""


class CreatedOnboardingSession(OnboardingSession):
    token: Annotated[
        str, Field(description="Returned only here. It opens the session until a signed-in user continues it.")
    ]


@function("user", "publishable", status=201, errors={429: "Too many sessions were started from this address."})
async def create_onboarding_session(call: Call[NewOnboardingSession]) -> Result[CreatedOnboardingSession]:
    """Start an onboarding.

    It lasts 24 hours. A session started by a signed-in user is theirs; otherwise its token opens it, until a signed-
    in user continues it. If the response is lost, start again: the other session expires.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    created = await call.run("private.create_onboarding_session", json.dumps({"token_hash": hash_of(token)}))
    return Result(json.dumps({"token": token, **json.loads(created.json)}))
