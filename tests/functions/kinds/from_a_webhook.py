import hmac
from collections.abc import Mapping
from typing import Any

from shared.app.call import Call, Result
from shared.app.function import function
from shared.errors import ApiError
from shared.settings import Settings


def signed(settings: Settings, headers: Mapping[bytes, bytes], body: bytes) -> None:
    expected = (hmac.digest(secret.encode(), body, "sha256") for secret in settings.stripe_webhook_secrets)
    given = headers.get(b"x-signature", b"")
    if not any(hmac.compare_digest(one.hex().encode(), given) for one in expected):
        raise ApiError(400, "invalid_signature", "The signature is not ours")


@function(signature=signed)
async def from_a_webhook(call: Call[dict[str, Any]]) -> Result[dict[str, Any]]:
    """Say who calls, to a signed webhook."""
    return await call.run("public.who_calls", call.body)
