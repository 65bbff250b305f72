"""The credentials of a request, as in Supabase: API key in `apikey`, access token in `Authorization: Bearer`."""

import hmac
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from shared.app.libraries import load_modules
from shared.auth.caller import ANYONE, Caller
from shared.errors import ApiError
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.auth.tokens import Tokens


EXPECTED = {
    "key": "an API key of an organization in `Authorization: Bearer`",
    "user": "a user's access token in `Authorization: Bearer`",
    "publishable": "a publishable key in `apikey`",
    "secret": "a secret key in `apikey`",
}


class Credentials:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tokens: Tokens | None = None
        self._keys = [
            (key.encode(), Caller(mode, f'{{"role":"{role}"}}', key_name=name))
            for mode, role, keys in (
                ("publishable", "anon", settings.publishable_keys),
                ("secret", "service_role", settings.secret_keys),
            )
            for name, key in keys.items()
        ]

    async def identify(self, headers: Mapping[bytes, bytes], modes: Sequence[str]) -> Caller:
        """The caller by the first mode whose credential was sent. An invalid credential is always rejected."""
        key = self._key(headers.get(b"apikey"))
        token = _bearer(headers)
        user = await self._user(token) if token else None
        for mode in modes:
            if mode == "anyone":
                return ANYONE
            kind, _, name = mode.partition(":")
            caller = user if kind == "user" else key
            if caller and caller.mode == kind and (not name or caller.key_name == name):
                return caller
        raise ApiError(
            401,
            "missing_credentials",
            "Authentication required",
            hint=f"Send {' or '.join(EXPECTED[mode.partition(':')[0]] for mode in modes)}.",
            headers={"www-authenticate": "Bearer"},
        )

    def _key(self, sent: bytes | None) -> Caller | None:
        if sent is None:
            return None
        # Every key is compared, so that the time taken reveals nothing about any of them.
        matches = [caller for key, caller in self._keys if hmac.compare_digest(key, sent)]
        if not matches:
            raise ApiError(
                401,
                "invalid_api_key",
                "The API key in `apikey` is invalid",
                hint="Copy it from the API settings of the project.",
            )
        return matches[0]

    async def _user(self, token: str) -> Caller:
        if self._tokens is None:
            await load_modules("shared.auth.tokens")
            from shared.auth.tokens import Tokens  # noqa: PLC0415 - brings cryptography; functions called by key never need it

            self._tokens = Tokens(self._settings)
        return await self._tokens.caller(token)


def _bearer(headers: Mapping[bytes, bytes]) -> str | None:
    if (sent := headers.get(b"authorization")) is None:
        return None
    scheme, _, token = sent.partition(b" ")
    if scheme.lower() != b"bearer" or not token.isascii() or not (token := token.strip()):
        raise ApiError(
            401,
            "malformed_authorization",
            "The header `Authorization` is malformed",
            hint="Send `Authorization: Bearer <access token>`.",
            headers={"www-authenticate": "Bearer"},
        )
    if token.startswith(b"sb_"):
        # Without a signed-in user, the client libraries repeat the API key here.
        if not hmac.compare_digest(token, headers.get(b"apikey", b"")):
            raise ApiError(
                401,
                "invalid_token",
                "`Authorization` has an API key instead of an access token",
                hint="Send API keys in `apikey`.",
            )
        return None
    return token.decode()
