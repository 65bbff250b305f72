import json
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, Field

from shared.app.call import Call, Result
from shared.app.function import RequestModel, ResponseModel, function
from shared.auth.api_keys import PREFIX_CHARACTERS, hash_of, new_key
from shared.schema import ApiKeyScope


def _plain(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """An IPv4-mapped network as IPv4: addresses of clients are compared in that form."""
    if isinstance(network, IPv4Network):
        return network
    if network.network_address.scope_id:
        raise ValueError("a network has no zone")
    inner, outer_bits = network.network_address.ipv4_mapped, 96
    return (
        ip_network(f"{inner}/{network.prefixlen - outer_bits}")
        if inner and network.prefixlen >= outer_bits
        else network
    )


Networks = Annotated[
    list[Annotated[IPv4Network | IPv6Network, AfterValidator(_plain)]], Field(min_length=1, max_length=20)
]


class NewApiKey(RequestModel):
    """Without `expires_at` the key lasts until it is revoked; without `networks` it may be used from anywhere."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"\S")]
    scopes: Annotated[list[ApiKeyScope], Field(min_length=1, max_length=20)]
    expires_at: AwareDatetime | None = None
    networks: Networks | None = None


class ReplacedKey(ResponseModel):
    id: UUID
    expires_at: AwareDatetime


class ApiKey(ResponseModel):
    """`key` is returned this once; the database has only its hash."""

    id: UUID
    key: str
    name: str
    prefix: str
    scopes: list[ApiKeyScope]
    expires_at: AwareDatetime | None
    replaces: ReplacedKey | None


@function("user", status=201, errors={422: "The key is not valid as described, or the organization has 50 keys."})
async def create_api_key(call: Call[NewApiKey]) -> Result[ApiKey]:
    """Create an API key of the organization.

    For ADMIN and OWNER. The key acts for its creator, within its scopes and with at most the role MEMBER; it stops
    working when the creator leaves or is no longer an ADMIN. A scope to write includes reading. Revoke a key with the
    rpc `revoke_api_key`.
    """
    key = new_key(live=call.settings.stripe_livemode)
    wish = call.body.model_dump(mode="json", exclude_none=True)
    wish |= {"key_hash": hash_of(key), "prefix": key[:PREFIX_CHARACTERS]}
    made = json.loads((await call.run("private.create_api_key", wish)).json)
    return Result(json.dumps(made | {"key": key}), headers={"cache-control": "no-store"})


class Rotation(RequestModel):
    """The old key keeps working for `overlap_hours`, so that programs can be changed one after the other.

    `expires_at` is that of the new key, which otherwise does not expire.
    """

    key_id: UUID
    overlap_hours: Annotated[int, Field(ge=0, le=168)] = 24
    expires_at: AwareDatetime | None = None


@create_api_key.nested("rotate", status=201, errors={404: "There is no such key that works."})
async def rotate(call: Call[Rotation]) -> Result[ApiKey]:
    """Replace a key by a new one with the same name, scopes and networks.

    For ADMIN and OWNER. The new key acts for the caller.
    """
    key = new_key(live=call.settings.stripe_livemode)
    wish = call.body.model_dump(mode="json", exclude={"key_id"}, exclude_none=True)
    wish |= {"rotated_from": str(call.body.key_id), "key_hash": hash_of(key), "prefix": key[:PREFIX_CHARACTERS]}
    made = json.loads((await call.run("private.create_api_key", wish)).json)
    return Result(json.dumps(made | {"key": key}), headers={"cache-control": "no-store"})
