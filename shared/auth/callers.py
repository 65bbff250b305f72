"""Who calls: an API key in `apikey`, a user's access token in `Authorization: Bearer`, as Supabase has it."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import ApiError
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.auth.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Caller:
    """`claims` is the JSON that the database believes: only what was verified stands in it."""

    mode: str
    claims: str
    user_id: str | None = None
    key_name: str | None = None


ANYONE = Caller("anyone", '{"role":"anon"}')
CREDENTIALS = {
    "user": "a user's access token in `Authorization: Bearer`",
    "publishable": "a publishable key in `apikey`",
    "secret": "a secret key in `apikey`",
}


class Callers:
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
        """The first of the modes for which a credential came. One that came and is wrong is never passed over."""
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
            "This function wants to know who calls",
            hint=f"Send {' or '.join(CREDENTIALS[mode.partition(':')[0]] for mode in modes)}.",
            headers={"www-authenticate": "Bearer"},
        )

    def _key(self, given: bytes | None) -> Caller | None:
        if given is None:
            return None
        # Every key is compared, so that the time taken tells nothing about which one came near.
        matches = [caller for key, caller in self._keys if hmac.compare_digest(key, given)]
        if not matches:
            raise ApiError(401, "invalid_api_key", "The API key in `apikey` is not known here")
        return matches[0]

    async def _user(self, token: str) -> Caller:
        if self._tokens is None:
            from shared.auth.tokens import Tokens  # noqa: PLC0415 - cryptography; functions called by key never need it

            self._tokens = Tokens(self._settings)
        return await self._tokens.caller(token)


def _bearer(headers: Mapping[bytes, bytes]) -> str | None:
    if (given := headers.get(b"authorization")) is None:
        return None
    scheme, _, token = given.partition(b" ")
    if scheme.lower() != b"bearer" or not token.isascii() or not (token := token.strip()):
        raise ApiError(
            401,
            "malformed_authorization",
            "`Authorization` is not understood",
            hint="Send `Authorization: Bearer <access token>`.",
            headers={"www-authenticate": "Bearer"},
        )
    if token.startswith(b"sb_"):
        # The client libraries repeat the API key here while nobody is signed in.
        if not hmac.compare_digest(token, headers.get(b"apikey", b"")):
            raise ApiError(
                401, "invalid_token", "`Authorization` holds an API key", hint="API keys belong in the header `apikey`."
            )
        return None
    return token.decode()
