"""Who calls: every request carries an API key, and the bearer token, if there is one, names the user."""

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import HTTPConnection

from local.api.errors import ApiError
from local.api.tokens import Claims, TokenError, Tokens, bearer, role_of

ROLE_OF_KEY = {"publishable": "anon", "secret": "service_role"}
KIND_OF_ROLE = {role: kind for kind, role in ROLE_OF_KEY.items()}
BROWSER = re.compile(r"Mozilla/", re.IGNORECASE)


@dataclass(frozen=True)
class Caller:
    role: str
    claims: Claims = field(repr=False)


class Callers:
    def __init__(self, tokens: Tokens, keys: dict[str, Any]) -> None:
        self._tokens = tokens
        self._keys = [("publishable", _digest(keys["publishable_key"])), ("secret", _digest(keys["secret_key"]))]

    def kind_of_key(self, request: HTTPConnection) -> str:
        """A request without a valid API key goes no further."""
        key = api_key(request)
        if not key:
            body = {
                "message": "No API key found in request",
                "hint": "No `apikey` request header or url param was found.",
            }
            raise ApiError(401, body)
        kind = self._kind(key) or self._kind_of_legacy(key)
        if not kind:
            raise ApiError(401, {"message": "Invalid API key", "hint": "Double check the API key."})
        if kind == "secret" and BROWSER.match(request.headers.get("user-agent", "")):
            body = {"message": "Forbidden use of secret API key in browser", "hint": "Use the publishable key there."}
            raise ApiError(401, body)
        return kind

    def claims_of_key(self, request: HTTPConnection) -> Claims | None:
        """What the API key alone stands for; None if the request has a token of a user beside it."""
        kind = self.kind_of_key(request)
        token = bearer(request.headers.get("authorization"))
        return {"role": ROLE_OF_KEY[kind]} if token is None or token == api_key(request) else None

    def caller(self, request: HTTPConnection) -> Caller:
        claims = self.claims_of_key(request)
        if claims:
            return Caller(claims["role"], claims)
        return self.bearer(bearer(request.headers.get("authorization")) or "")

    def bearer(self, token: str) -> Caller:
        claims = self._tokens.verify(token)
        return Caller(role_of(claims), claims)

    def _kind(self, key: str) -> str | None:
        digest = _digest(key)
        return next((kind for kind, known in self._keys if hmac.compare_digest(known, digest)), None)

    def _kind_of_legacy(self, key: str) -> str | None:
        """Keys before sb_publishable_… and sb_secret_…: JWTs that name a role and no user."""
        try:
            claims = self._tokens.verify(key)
        except TokenError:
            return None
        return None if "sub" in claims else KIND_OF_ROLE.get(role_of(claims))


def api_key(request: HTTPConnection) -> str | None:
    return request.headers.get("apikey") or request.query_params.get("apikey")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
