"""Who calls: every request carries an API key, and the bearer token, if there is one, names the user."""

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

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
        # What a key without a user's token means to services that read tokens only.
        self._role_tokens = {kind: f"Bearer {tokens.sign({'role': role})}" for kind, role in ROLE_OF_KEY.items()}

    def kind_of_key(self, request: Request) -> str:
        """A request without a valid API key goes no further."""
        key = api_key(request)
        if not key:
            body = {"message": "No API key found in request", "hint": "No `apikey` request header or url param was found."}
            raise ApiError(401, body)
        kind = self._kind(key) or self._kind_of_legacy(key)
        if not kind:
            raise ApiError(401, {"message": "Invalid API key", "hint": "Double check the API key."})
        if kind == "secret" and BROWSER.match(request.headers.get("user-agent", "")):
            body = {"message": "Forbidden use of secret API key in browser", "hint": "Use the publishable key there."}
            raise ApiError(401, body)
        return kind

    def authorization(self, request: Request) -> str:
        """The Authorization header for the service: the user's token, else one for the role of the key."""
        kind = self.kind_of_key(request)
        header = request.headers.get("authorization")
        return self._role_tokens[kind] if header is None or bearer(header) == api_key(request) else header

    def caller(self, request: Request) -> Caller:
        kind = self.kind_of_key(request)
        token = bearer(request.headers.get("authorization"))
        if token is None or token == api_key(request):
            role = ROLE_OF_KEY[kind]
            return Caller(role, {"role": role})
        return self.bearer(token)

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


def api_key(request: Request) -> str | None:
    return request.headers.get("apikey") or request.query_params.get("apikey")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
