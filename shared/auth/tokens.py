"""Verify access tokens. Imported when the first one arrives."""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

import jwt

from shared.app import outgoing
from shared.auth.caller import UUID, Caller
from shared.errors import RETRY, ApiError
from shared.logs import log
from shared.settings import Settings, jwks

Keys = dict[Any, tuple[Any, str]]
ALGORITHMS = {"EC": "ES256", "RSA": "RS256"}
# The database parses the claims several times a statement. These are checked here, or written by the user.
LEFT_OUT = {"iss", "aud", "exp", "nbf", "iat", "jti", "amr", "user_metadata"}
LEEWAY_SECONDS = 10
REMEMBER_SECONDS = 60
REMEMBER_TOKENS = 4096
REFRESH_SECONDS = 600
FETCH_EVERY_SECONDS = 10
FETCH_TIMEOUT_SECONDS = 3


def _refused(why: str) -> ApiError:
    return ApiError(
        401,
        "invalid_token",
        "The access token is not valid",
        details=why,
        hint="Sign in again, or refresh the session.",
        headers={"www-authenticate": 'Bearer error="invalid_token"'},
    )


class Tokens:
    """Verifies access tokens; a verified one is remembered for a minute, or until it expires."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = _parse(settings.jwks)
        self._fetched = self._tried = -float("inf")
        self._fetching: asyncio.Task[None] | None = None
        self._verified: dict[bytes, tuple[float, Caller]] = {}

    async def caller(self, token: str) -> Caller:
        digest = hashlib.sha256(token.encode()).digest()
        now = time.time()
        if (known := self._verified.get(digest)) and now < known[0]:
            return known[1]
        claims = await self._verify(token)
        for_database = {name: claim for name, claim in claims.items() if name not in LEFT_OUT}
        organization = str((claims.get("app_metadata") or {}).get("org_id") or "")
        caller = Caller(
            "user",
            json.dumps(for_database),
            user_id=claims["sub"],
            organization=organization if UUID.fullmatch(organization) else "",
        )
        if (until := min(now + REMEMBER_SECONDS, claims["exp"])) > now:
            while len(self._verified) >= REMEMBER_TOKENS:
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = (until, caller)
        return caller

    async def _verify(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            key, algorithm = await self._key(header)
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                [algorithm],
                audience="authenticated",
                issuer=self._settings.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as problem:
            raise _refused(str(problem)) from None
        if claims.get("role") != "authenticated":
            raise _refused("Its role is not authenticated")
        if not UUID.fullmatch(claims["sub"]):
            raise _refused("Its subject is not a user id")
        return claims

    async def _key(self, header: Mapping[str, Any]) -> tuple[Any, str]:
        """The key and its algorithm; a header that names another algorithm is refused."""
        if header.get("alg") == "HS256":
            if not (secret := self._settings.jwt_secret):
                raise _refused("Tokens signed with HS256 are not accepted: SUPABASE_JWT_SECRET is not set")
            return secret, "HS256"
        name = header.get("kid")
        keys = await self._usable_keys(name)
        if name not in keys:
            raise _refused("It was signed with an unknown key")
        key, algorithm = keys[name]
        if algorithm != header.get("alg"):
            raise _refused(f"Its key is for {algorithm}")
        return key, algorithm

    async def _usable_keys(self, wanted: Any) -> Keys:
        """Known keys are refreshed in the background; an unknown one is fetched before the request goes on."""
        stale = time.monotonic() - self._fetched > REFRESH_SECONDS
        if self._settings.jwks_url and (stale or wanted not in self._keys):
            if self._fetching is None and time.monotonic() - self._tried > FETCH_EVERY_SECONDS:
                self._tried = time.monotonic()
                self._fetching = asyncio.create_task(self._fetch(self._settings.jwks_url))
            if self._fetching and wanted not in self._keys:
                await asyncio.shield(self._fetching)
        if not self._keys:
            raise ApiError(
                503,
                "keys_unavailable",
                "The keys that verify access tokens cannot be fetched",
                hint="Try again in a moment.",
                headers=RETRY,
            )
        return self._keys

    async def _fetch(self, url: str) -> None:
        client = await outgoing.client(timeout=FETCH_TIMEOUT_SECONDS)
        import httpx  # noqa: PLC0415 - loaded by outgoing.client()

        try:
            async with client:
                response = await client.get(url)
            response.raise_for_status()
            self._keys = _parse(jwks(response.text))
            self._fetched = time.monotonic()
        except (httpx.HTTPError, jwt.PyJWTError, ValueError) as problem:
            # The known keys stay valid; without any, the caller gets a 503.
            log("WARNING", "the signing keys could not be fetched", exception=type(problem).__qualname__)
        finally:
            self._fetching = None


def signed(settings: Settings, claims: Mapping[str, Any]) -> str:
    """A token signed by us, with a key that the project trusts."""
    key = settings.signing_key
    if key is None:
        raise LookupError("SUPABASE_SIGNING_KEY is not set")
    return jwt.encode(
        {**claims, "iss": settings.issuer}, jwt.PyJWK(dict(key), "ES256").key, "ES256", {"kid": key["kid"]}
    )


def _parse(keys: tuple[Mapping[str, Any], ...]) -> Keys:
    return {key.get("kid"): (jwt.PyJWK(dict(key), ALGORITHMS[key["kty"]]).key, ALGORITHMS[key["kty"]]) for key in keys}
