"""API keys of organizations: `strive_live_` or `strive_test_`, 40 random hex digits and 8 of a checksum.

The checksum lets scanners and this module recognize a key without a database.
"""

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping

from shared.auth.caller import Caller
from shared.database.pool import Database
from shared.errors import ApiError

FORM = re.compile(r"(strive_(?:live|test)_[0-9a-f]{40})([0-9a-f]{8})")
RANDOM_BYTES = 20
CHECKSUM_DIGITS = 8
PREFIX_CHARACTERS = 18


def new_key(*, live: bool) -> str:
    unchecked = f"strive_{'live' if live else 'test'}_{secrets.token_hex(RANDOM_BYTES)}"
    return unchecked + _checksum(unchecked)


def is_well_formed(key: str) -> bool:
    match = FORM.fullmatch(key)
    return bool(match and hmac.compare_digest(_checksum(match[1]), match[2]))


def hash_of(key: str) -> str:
    """The random part has 160 bits, so the key cannot be found from its hash by guessing."""
    return hashlib.sha256(key.encode()).hexdigest()


def sent_key(headers: Mapping[bytes, bytes]) -> str | None:
    """The key in `x-api-key` or `Authorization: Bearer strive_…`, if one was sent."""
    if (key := headers.get(b"x-api-key")) is not None:
        return key.decode("latin-1")
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    token = token.strip()
    return token.decode("latin-1") if scheme.lower() == b"bearer" and token.startswith(b"strive_") else None


async def identify(database: Database, key: str, headers: str, function: str) -> Caller:
    """The key as a caller; its request to the function is counted. Headers are those that the database gets."""
    claims = await database.use_api_key(hash_of(key), headers, function) if is_well_formed(key) else None
    if claims is None:
        raise ApiError(
            401,
            "invalid_api_key",
            "The API key is invalid, expired or revoked, or may not be used from this network",
            hint="An admin of the organization sees its keys in api_keys.",
            headers={"www-authenticate": "Bearer"},
        )
    return Caller(
        "key",
        json.dumps(claims),
        key_name=claims["api_key_id"],
        acts_for=claims["sub"],
        scopes=frozenset(claims["scopes"]),
    )


def _checksum(unchecked: str) -> str:
    return hashlib.sha256(unchecked.encode()).hexdigest()[:CHECKSUM_DIGITS]
