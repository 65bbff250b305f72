"""Access tokens: signed with ES256; HS256 with the project's secret is accepted too, as hosted projects do.

Every rejection carries the answer of PostgREST for it: PGRST301 for what can't be decoded, PGRST303 for claims.
"""

import base64
import json
import math
import re
import time
from collections import OrderedDict
from typing import Any

import jwt
from jwt.algorithms import get_default_algorithms

CACHED_TOKENS = 500
CLOCK_SKEW_SECONDS = 30
LARGEST_INTEGER = 2**63 - 1
BASE64_URL = re.compile(r"[A-Za-z0-9_-]*\Z")

Claims = dict[str, Any]


class TokenError(Exception):
    """`reason` is one of malformed, signature, claims, expired, early; `code` is PostgREST's."""

    def __init__(self, reason: str, message: str, details: str | None = None) -> None:
        super().__init__(message)
        self.reason, self.message, self.details = reason, message, details
        self.code = "PGRST301" if reason in {"malformed", "signature"} else "PGRST303"

    @property
    def challenge(self) -> str:
        """For the header WWW-Authenticate."""
        return f'Bearer error="invalid_token", error_description="{self.message}"'


class Tokens:
    def __init__(self, secret: str | None, jwk: dict[str, Any] | None) -> None:
        algorithms = get_default_algorithms()
        # By algorithm: its implementation, the key that verifies, the id of the key.
        self._keys: dict[str, tuple[Any, Any, str | None]] = {}
        self.jwks: dict[str, list[dict[str, Any]]] = {"keys": []}
        if secret:
            hmac = algorithms["HS256"]
            self._keys["HS256"] = (hmac, hmac.prepare_key(secret), None)
        if jwk:
            elliptic = algorithms["ES256"]
            public = {name: value for name, value in jwk.items() if name not in {"d", "key_ops"}}
            self._keys["ES256"] = (elliptic, elliptic.from_jwk(public), jwk.get("kid"))
            self.jwks["keys"].append({**public, "alg": "ES256", "use": "sig", "key_ops": ["verify"]})
            self._private, self._key_id = elliptic.from_jwk(jwk), jwk.get("kid")
        self._verified: OrderedDict[str, Claims] = OrderedDict()

    def sign(self, claims: Claims) -> str:
        return jwt.encode(claims, self._private, "ES256", {"kid": self._key_id, "typ": "JWT"})

    def verify(self, token: str, *, skew: int = CLOCK_SKEW_SECONDS) -> Claims:
        """A signature stays valid, so it is checked once; the times are checked on every call."""
        claims = self._verified.get(token)
        if claims is None:
            claims = self._decode(token)
            self._verified[token] = claims
            if len(self._verified) > CACHED_TOKENS:
                self._verified.popitem(last=False)
        _check_claims(claims, skew)
        return claims

    def _decode(self, token: str) -> Claims:
        if not token:
            raise TokenError("malformed", "Empty JWT is sent in Authorization header")
        parts = token.split(".")
        if len(parts) != 3:  # noqa: PLR2004 - header, payload, signature
            raise TokenError("malformed", f"Expected 3 parts in JWT; got {len(parts)}")
        header = _json(_bytes(parts[0]))
        if not isinstance(header, dict) or not isinstance(header.get("alg"), str):
            raise _broken()
        if header["alg"] == "none":
            raise TokenError(
                "signature",
                "Wrong or unsupported encoding algorithm",
                "JWT is unsecured but expected 'alg' was not 'none'",
            )
        algorithm, key, key_id = self._keys.get(header["alg"], (None, None, None))
        if algorithm is None or header.get("kid") not in {None, key_id}:
            raise _no_key("No suitable key was found to decode the JWT")
        payload, signature = _bytes(parts[1]), _bytes(parts[2])
        if not algorithm.verify(f"{parts[0]}.{parts[1]}".encode(), key, signature):
            raise _no_key("None of the keys was able to decode the JWT")
        claims = _json(payload)
        if not isinstance(claims, dict):
            raise TokenError("claims", "Parsing claims failed")
        return claims


def _check_claims(claims: Claims, skew: int) -> None:
    now = math.floor(time.time())
    # In PostgREST's order: the first claim that is wrong decides the answer.
    if (expires := _time(claims, "exp")) is not None and expires < now - skew:
        raise TokenError("expired", "JWT expired")
    if (begins := _time(claims, "nbf")) is not None and begins > now + skew:
        raise TokenError("early", "JWT not yet valid")
    if (issued := _time(claims, "iat")) is not None and issued > now + skew:
        raise TokenError("early", "JWT issued at future")
    audience = claims.get("aud")
    listed = audience if isinstance(audience, list) else [audience]
    if audience is not None and not all(isinstance(each, str) for each in listed):
        raise TokenError("claims", "The JWT 'aud' claim must be a string or an array of strings")


def _time(claims: Claims, name: str) -> int | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenError("claims", f"The JWT '{name}' claim must be a number")
    # A fraction or a number beyond 64 bits counts as the year 1970, as PostgREST reads it.
    return int(value) if abs(value) <= LARGEST_INTEGER and value == int(value) else 0


def role_of(claims: Claims, otherwise: str = "anon") -> str:
    """The claim `role`; what isn't text becomes JSON, so that no such role exists."""
    if "role" not in claims:
        return otherwise
    role = claims["role"]
    return role if isinstance(role, str) else json.dumps(role, separators=(",", ":"))


def bearer(header: str | None) -> str | None:
    """The token of an Authorization header; None without the scheme Bearer."""
    scheme, _, rest = (header or "").strip().partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else None


def _bytes(text: str) -> bytes:
    if not BASE64_URL.match(text) or len(text) % 4 == 1:
        raise _broken()
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _broken() -> TokenError:
    return TokenError("malformed", "JWT cryptographic operation failed")


def _no_key(details: str) -> TokenError:
    return TokenError("signature", "No suitable key or wrong key type", details)
