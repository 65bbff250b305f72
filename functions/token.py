import json
import time
from typing import Literal

from shared.app.call import Call, Result
from shared.app.function import ANY_SCOPE, RequestModel, ResponseModel, function
from shared.app.libraries import load_modules
from shared.errors import ApiError
from shared.schema import ApiKeyScope

LIFETIME_SECONDS = 600


class TokenRequest(RequestModel):
    """No fields."""


class KeyToken(ResponseModel):
    """A token for the data API; it cannot be renewed: exchange the key again."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: int
    scopes: list[ApiKeyScope]


@function("key", scope=ANY_SCOPE, errors={501: "SUPABASE_SIGNING_KEY is not configured."})
async def token(call: Call[TokenRequest]) -> Result[KeyToken]:
    """Exchange an API key for a token that PostgREST accepts.

    Functions accept the key itself. The token lasts ten minutes; every statement checks that the key still works, so a
    revoked key ends its tokens at once.
    """
    if call.settings.signing_key is None:
        raise ApiError(
            501,
            "signing_key_missing",
            "This deployment cannot sign tokens",
            hint="Set SUPABASE_SIGNING_KEY, or call functions with the key itself.",
        )
    await load_modules("shared.auth.tokens")
    from shared.auth.tokens import signed  # noqa: PLC0415 - cryptography, which only signing needs

    claims = json.loads(call.caller.claims)
    now = int(time.time())
    lifetime = {"aud": "authenticated", "iat": now, "exp": now + LIFETIME_SECONDS}
    answer = {
        "access_token": signed(call.settings, claims | lifetime),
        "token_type": "bearer",
        "expires_in": LIFETIME_SECONDS,
        "scopes": claims["scopes"],
    }
    return Result(json.dumps(answer), headers={"cache-control": "no-store"})
