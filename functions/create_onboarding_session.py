import json
import secrets
from typing import Annotated

from pydantic import Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, function
from shared.onboarding.sessions import Session, hash_of

TOKEN_BYTES = 32


class NewSession(RequestModel):
    """Nothing yet."""


class Created(Session):
    token: Annotated[str, Field(description="Given this once. Whoever has it can go on with the session.")]


@function("user", "publishable", status=201, errors={429: "Too many sessions were started from this address."})
async def create_onboarding_session(call: Call[NewSession]) -> Result[Created]:
    """Start an onboarding.

    It lasts 24 hours. Started by somebody signed in it is theirs; otherwise it belongs to whoever has the token, until
    somebody signed in goes on with it. An answer that was lost is of no harm: start again, the other one expires.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    made = await call.run("private.create_onboarding_session", json.dumps({"token_hash": hash_of(token)}))
    return Result(json.dumps({"token": token, **json.loads(made.json)}))
