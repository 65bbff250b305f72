"""Authentication. Each test that names an attack sends the request of an attacker."""

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.responses import refused
from tests.support.serving import (
    ENTRY,
    PROJECT,
    PUBLISHABLE_KEY,
    RECORD,
    SECRET_KEY,
    SIGNING_KEY,
    Serving,
    environment,
    public_jwk,
    serving,
    token,
)
from tests.support.world import ACME, GLOBEX, PEOPLE, claims_of


def call(functions: Serving, **headers: str) -> httpx.Response:
    with functions.client(None) as client:
        return client.post(RECORD, json=ENTRY, headers=headers)


def bearer(functions: Serving, value: str, **headers: str) -> httpx.Response:
    return call(functions, authorization=f"Bearer {value}", **headers)


def test_access_token_works_without_publishable_key(functions: Serving) -> None:
    assert bearer(functions, token()).status_code == 201
    assert bearer(functions, token(), apikey=PUBLISHABLE_KEY).status_code == 201


def test_capture_needs_no_credentials(functions: Serving) -> None:
    answer = refused(call(functions), 401, "missing_credentials")
    assert "access token" in answer.json()["hint"]
    assert answer.headers["www-authenticate"] == "Bearer"


def test_api_key_is_not_a_user(functions: Serving) -> None:
    for key in (PUBLISHABLE_KEY, SECRET_KEY):
        refused(call(functions, apikey=key), 401, "missing_credentials")
        # What the client libraries send without a session.
        refused(bearer(functions, key, apikey=key), 401, "missing_credentials")


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {SECRET_KEY}"},
        {"authorization": f"Bearer {SECRET_KEY}", "apikey": PUBLISHABLE_KEY},
        {"apikey": token()},
        {"apikey": "sb_secret_of_somebody_else_0000"},
        {"apikey": ""},
        {"apikey": "sb_secret_\xff\xfe"},
        {"authorization": f"Basic {base64.b64encode(b'a:b').decode()}"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer a.b.c"},
        {"authorization": "Bearer " + "e30." * 3000 + "e30"},
        {"authorization": "Bearer \xff\xfe.\xff.\xff"},
    ],
)
def test_attack_a_credential_in_the_wrong_header_or_form(functions: Serving, headers: dict[str, str]) -> None:
    with functions.client(None) as client:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        answer = client.post(RECORD, json=ENTRY, headers=raw)
    assert answer.status_code == 401, answer.text
    assert answer.json()["code"] in {"invalid_token", "invalid_api_key", "malformed_authorization"}


def test_attack_a_wrong_key_beside_a_good_token(functions: Serving) -> None:
    refused(bearer(functions, token(), apikey="sb_publishable_of_nobody_000000"), 401, "invalid_api_key")


def test_attack_no_signature_at_all(functions: Serving) -> None:
    unsigned = jwt.encode(claims_of("owner", iss=f"{PROJECT}/auth/v1", exp=int(time.time()) + 60), "", "none")
    refused(bearer(functions, unsigned), 401, "invalid_token")
    head, body, _ = token().split(".")
    refused(bearer(functions, f"{head}.{body}."), 401, "invalid_token")


def test_attack_the_public_key_used_as_an_hs256_secret(functions: Serving) -> None:
    pem = SIGNING_KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for secret in (pem, json.dumps(public_jwk()).encode()):
        head, body, _ = token().split(".")
        head = (
            base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": "of-the-tests"}).encode()).rstrip(b"=").decode()
        )
        signature = hmac.digest(secret, f"{head}.{body}".encode(), hashlib.sha256)
        forged = f"{head}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
        refused(bearer(functions, forged), 401, "invalid_token")


def test_attack_own_key_under_a_known_id_or_embedded(functions: Serving) -> None:
    own = ec.generate_private_key(ec.SECP256R1())
    refused(bearer(functions, token(key=own)), 401, "invalid_token")
    now = int(time.time())
    claims = claims_of("owner", iss=f"{PROJECT}/auth/v1", exp=now + 60)
    brought = jwt.encode(claims, own, "ES256", {"kid": "mine", "jwk": public_jwk(own, "mine")})
    refused(bearer(functions, brought), 401, "invalid_token")


def test_attack_change_the_claims_of_a_token(functions: Serving) -> None:
    head, body, signature = token("viewer").split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["sub"] = str(PEOPLE["owner"])
    changed = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    refused(bearer(functions, f"{head}.{changed}.{signature}"), 401, "invalid_token")


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": 2**33},  # far in the future; fixed, so that test ids are equal in every worker
        {"iat": 2**33},
        {"iss": "https://somewhere.else/auth/v1"},
        {"iss": None},
        {"aud": "anon"},
        {"aud": None},
        {"sub": None},
        {"sub": "owner"},
        {"sub": 7},
        {"role": "service_role"},
        {"role": "anon"},
        {"role": None},
    ],
    ids=str,
)
def test_attack_signed_token_of_another_kind_or_time(functions: Serving, claims: dict[str, Any]) -> None:
    refused(bearer(functions, token(**claims)), 401, "invalid_token")


def test_small_clock_skew_is_accepted(functions: Serving) -> None:
    assert bearer(functions, token(exp=int(time.time()) - 3, iat=int(time.time()) + 3)).status_code == 201


def test_cached_token_expires(functions: Serving) -> None:
    deadline = time.monotonic() + 60
    while True:
        short = token(exp=int(time.time()) - 8)  # two seconds of leeway are left, which a busy machine may need
        if bearer(functions, short).status_code == 201:
            break
        assert time.monotonic() < deadline
    while bearer(functions, short).status_code == 201:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    refused(bearer(functions, short), 401, "invalid_token")


def test_suspended_user_is_refused_at_once(functions: Serving) -> None:
    answer = refused(functions.record(person="suspended"), 403, "user_suspended")
    assert "suspended" in answer.json()["message"]


def test_403_names_the_required_role(functions: Serving) -> None:
    answer = refused(functions.record(person="viewer"), 403, "42501")
    assert "MEMBER" in answer.json()["details"]
    refused(functions.record(person="outsider"), 403, "42501")
    refused(functions.record(person="removed"), 403, "42501")


def test_attack_name_an_organization_one_does_not_belong_to(functions: Serving) -> None:
    refused(functions.record(**{"x-org-id": str(GLOBEX)}), 403, "42501")
    assert functions.record(**{"x-org-id": str(ACME)}).json()["organization_id"] == str(ACME)


def test_claims_end_with_the_request(functions: Serving) -> None:
    """The pool's connections serve one caller after the other."""
    for _ in range(20):
        assert functions.record(person="member").json()["organization_id"] == str(ACME)
        assert functions.record(person="globex_member").json()["organization_id"] == str(GLOBEX)
        refused(functions.record(person="outsider"), 403, "42501")


SECRET = "a legacy secret, long enough for every hash: 64 bytes, and a few more"


def test_the_legacy_secret_is_accepted_where_it_is_set(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, environment(database_url, SUPABASE_JWT_SECRET=SECRET)) as functions:
        assert bearer(functions, token(key=SECRET, algorithm="HS256")).status_code == 201
        refused(bearer(functions, token(key=SECRET + "?", algorithm="HS256")), 401, "invalid_token")
        refused(bearer(functions, token(key=SECRET, algorithm="HS512")), 401, "invalid_token")
