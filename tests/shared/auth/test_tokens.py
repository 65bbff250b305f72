"""Where the keys that verify access tokens come from, and how often they are fetched."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import httpx
import jwt
import pytest
import respx
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from shared.auth import tokens
from shared.auth.caller import Caller
from shared.auth.tokens import Tokens
from shared.errors import ApiError
from shared.settings import Settings
from tests.support.serving import KID, PROJECT, SIGNING_KEY, public_jwk, token
from tests.support.world import PEOPLE, claims_of

URL = f"{PROJECT}/auth/v1/.well-known/jwks.json"


def settings(**more: str) -> Settings:
    return Settings.read({"SUPABASE_URL": PROJECT, "SUPABASE_DB_URL": "postgresql://a@b/c", **more})


def refusal(verifier: Tokens, given: str) -> int:
    async def attempt() -> int:
        with pytest.raises(ApiError) as caught:
            await verifier.caller(given)
        return caught.value.response.status

    return asyncio.run(attempt())


@pytest.fixture
def project() -> Iterator[respx.MockRouter]:
    with respx.mock(assert_all_called=False) as router:
        yield router


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Advances the clock of the verifier."""
    now = {"monotonic": time.monotonic(), "time": time.time()}

    class Clock:
        monotonic = staticmethod(lambda: now["monotonic"])
        time = staticmethod(lambda: now["time"])

    def forward(seconds: float) -> None:
        for name in now:
            now[name] += seconds

    monkeypatch.setattr(tokens, "time", Clock)
    return forward


def keys(*jwks: dict[str, object]) -> httpx.Response:
    return httpx.Response(200, json={"keys": list(jwks)})


def test_keys_are_fetched_once_and_kept(project: respx.MockRouter) -> None:
    route = project.get(URL).mock(return_value=keys(public_jwk()))
    verifier = Tokens(settings())

    async def several() -> list[Caller]:
        return [await verifier.caller(token(person)) for person in ("member", "owner", "member")]

    callers = asyncio.run(several())
    assert [caller.user_id for caller in callers] == [str(PEOPLE[who]) for who in ("member", "owner", "member")]
    assert route.call_count == 1


def test_concurrent_requests_share_one_fetch(project: respx.MockRouter) -> None:
    async def slowly(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.05)
        return keys(public_jwk())

    route = project.get(URL).mock(side_effect=slowly)
    verifier = Tokens(settings())

    async def all_at_once() -> None:
        await asyncio.gather(*(verifier.caller(token("member", jti=str(number))) for number in range(20)))

    asyncio.run(all_at_once())
    assert route.call_count == 1


def test_a_new_key_is_found_when_a_token_names_it(project: respx.MockRouter, clock: Callable[[float], None]) -> None:
    rotated = ec.generate_private_key(ec.SECP256R1())
    route = project.get(URL).mock(side_effect=[keys(public_jwk()), keys(public_jwk(), public_jwk(rotated, "next"))])
    verifier = Tokens(settings())
    asyncio.run(verifier.caller(token()))
    clock(11)
    assert asyncio.run(verifier.caller(token(key=rotated, kid="next"))).mode == "user"
    assert route.call_count == 2


def test_attack_force_repeated_fetches_of_keys(project: respx.MockRouter, clock: Callable[[float], None]) -> None:
    route = project.get(URL).mock(return_value=keys(public_jwk()))
    verifier = Tokens(settings())
    for number in range(50):
        assert refusal(verifier, token(kid=f"made-up-{number}")) == 401
    assert route.call_count == 1
    clock(11)
    for number in range(50):
        assert refusal(verifier, token(kid=f"more-{number}")) == 401
    assert route.call_count == 2


def test_unavailable_keys_are_503(project: respx.MockRouter, clock: Callable[[float], None]) -> None:
    route = project.get(URL).mock(
        side_effect=[httpx.ConnectError("unavailable"), httpx.Response(500), keys(public_jwk())]
    )
    verifier = Tokens(settings())
    assert refusal(verifier, token()) == 503
    assert refusal(verifier, token()) == 503
    assert route.call_count == 1
    clock(11)
    assert refusal(verifier, token()) == 503
    clock(11)
    assert asyncio.run(verifier.caller(token())).mode == "user"


async def background() -> None:
    """Wait for the tasks that requests have started and not awaited."""
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})


def test_known_keys_stay_valid_while_auth_is_unavailable(
    project: respx.MockRouter, clock: Callable[[float], None]
) -> None:
    project.get(URL).mock(
        side_effect=[keys(public_jwk()), httpx.ConnectError("unavailable"), httpx.Response(200, text="<html>")]
    )
    verifier = Tokens(settings())
    asyncio.run(verifier.caller(token()))
    for number in range(2):
        clock(700)

        async def call(number: int = number) -> None:
            assert (await verifier.caller(token(jti=f"{number}", exp=int(time.time()) + 9000))).mode == "user"
            await background()  # the fetch fails

        asyncio.run(call())


def test_withdrawn_signing_key_is_dropped(project: respx.MockRouter, clock: Callable[[float], None]) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    project.get(URL).mock(
        side_effect=[keys(public_jwk(), public_jwk(other, "old")), keys(public_jwk()), keys(public_jwk())]
    )
    verifier = Tokens(settings())
    later: dict[str, Any] = {"exp": int(time.time()) + 9000}
    asyncio.run(verifier.caller(token(key=other, kid="old", **later)))
    clock(700)

    async def call() -> None:
        await verifier.caller(token(**later))
        await background()

    asyncio.run(call())
    assert refusal(verifier, token(key=other, kid="old", **later)) == 401


def test_a_token_is_verified_once_a_minute(clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Tokens(settings(SUPABASE_JWKS=json.dumps({"keys": [public_jwk()]})))
    counted = Mock(wraps=jwt.decode)
    monkeypatch.setattr(jwt, "decode", counted)
    one = token()
    for _ in range(3):
        asyncio.run(verifier.caller(one))
    assert counted.call_count == 1
    clock(61)
    asyncio.run(verifier.caller(one))
    assert counted.call_count == 2


def test_the_memory_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "REMEMBER_TOKENS", 5)
    verifier = Tokens(settings(SUPABASE_JWKS=json.dumps({"keys": [public_jwk()]})))

    async def many() -> None:
        for number in range(20):
            await verifier.caller(token(jti=str(number)))

    asyncio.run(many())
    assert len(verifier._verified) == 5


def test_each_key_verifies_only_its_algorithm() -> None:
    private = rsa.generate_private_key(65537, 2048)
    public = {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key())), "kid": "rsa"}
    verifier = Tokens(settings(SUPABASE_JWKS=json.dumps({"keys": [public, public_jwk()]})))
    assert asyncio.run(verifier.caller(token(key=private, algorithm="RS256", kid="rsa"))).mode == "user"
    assert refusal(verifier, token(key=private, algorithm="PS256", kid="rsa")) == 401
    assert refusal(verifier, token(key=private, algorithm="RS256", kid=KID)) == 401
    assert refusal(verifier, token(key=SIGNING_KEY, kid="rsa")) == 401


def test_claims_for_the_database_exclude_user_metadata() -> None:
    verifier = Tokens(settings(SUPABASE_JWKS=json.dumps({"keys": [public_jwk()]})))
    caller = asyncio.run(
        verifier.caller(token("member", user_metadata={"role": "OWNER"}, aal="aal2", act={"sub": "x"}))
    )
    verified = json.loads(caller.claims)
    usual = {name: claim for name, claim in claims_of("member").items() if name not in {"aud", "user_metadata"}}
    assert verified == usual | {"aal": "aal2", "act": {"sub": "x"}}
