"""Recorded responses of PostgREST 14.17, and the comparison with another server.

- fixture.sql: the schemas that the requests are about. Exposed: shop, shop_b. `select shop_saved.restore()` puts every
  row and sequence back.
- recorded.jsonl: a request and its answer per line. The id begins with the class of the request; `as` names a token
  in claims.json; `not_json` marks a body that is text, or base64 of bytes; `body_left_out` compares status and
  headers only; requests of one `group` build on each other, every other one begins with the rows of the fixture.

The settings were db-schemas "shop, shop_b", db-max-rows 100, db-tx-end "commit-allow-override", db-config false.
"""

import base64
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt

HERE = Path(__file__).parent
FIXTURE = HERE / "fixture.sql"
HEADERS = (
    "content-type",
    "content-range",
    "location",
    "preference-applied",
    "range-unit",
    "proxy-status",
    "www-authenticate",
    "allow",
)
UNORDERED = {"preference-applied", "allow"}
RELATIVE_TIME = re.compile(r"now([+-]\d+)")

Case = dict[str, Any]


def read(text: str) -> Any:
    """JSON that distinguishes 1.50 from 1.5."""
    return json.loads(text, parse_float=lambda digits: ("number", digits))


def recorded() -> dict[str, list[Case]]:
    """The requests by class."""
    classes: dict[str, list[Case]] = defaultdict(list)
    for line in (HERE / "recorded.jsonl").read_text().splitlines():
        case = read(line)
        classes[case["id"].rpartition("-")[0]].append(case)
    return dict(classes)


@dataclass(frozen=True)
class Signer:
    """Makes the tokens that claims.json describes: "now+60" is that time, `spoil` breaks the token afterwards."""

    secret: str
    jwk: dict[str, Any]

    def token(self, name: str) -> str | None:
        made = json.loads((HERE / "claims.json").read_text())[name]
        if made is None:
            return None
        claims, alg, spoil = made["claims"], made.get("alg"), made.get("spoil")
        if isinstance(claims, dict):
            claims = {key: _at(value) for key, value in claims.items()}
        payload, headers = json.dumps(claims).encode(), {"typ": "JWT"}
        if alg is None and spoil is None:
            key = jwt.PyJWK(self.jwk, "ES256").key
            return jwt.PyJWS().encode(payload, key, "ES256", {**headers, "kid": self.jwk["kid"]})
        secret = f"{self.secret}-not" if spoil == "secret" else self.secret
        token = jwt.PyJWS().encode(payload, "" if alg == "none" else secret, alg or "HS256", headers)
        head, body, signature = token.split(".")
        if spoil == "payload":
            body = base64.urlsafe_b64encode(b'{"role": "service_role"}').rstrip(b"=").decode()
        return f"{head}.{body}.{signature[:-6] if spoil == 'signature' else signature}"


def _at(value: Any) -> Any:
    found = RELATIVE_TIME.fullmatch(str(value))
    return int(time.time()) + int(found[1]) if found else value


def send(client: httpx.Client, case: Case, token: str | None) -> httpx.Response:
    headers = dict(case["headers"])
    if token:
        headers.setdefault("Authorization", f"Bearer {token}")
    request = client.build_request(
        case["method"],
        "/",
        headers={name: value.encode() for name, value in headers.items()},
        content=case["body"].encode() if case["body"] is not None else None,
    )
    # As it was recorded: httpx would encode the path again.
    request.extensions["target"] = case["path"].encode()
    return client.send(request)


def differences(case: Case, response: httpx.Response) -> Iterator[str]:
    if response.status_code != case["status"]:
        yield f"status {response.status_code} instead of {case['status']}"
    for name in HEADERS:
        expected, found = case["response_headers"].get(name), response.headers.get(name)
        if _comparable(name, expected) != _comparable(name, found):
            yield f"{name} {found!r} instead of {expected!r}"
    body, kind = _body(response)
    if not case.get("body_left_out") and (body, kind) != (case["response_body"], case.get("not_json")):
        yield f"body {str(body)[:500]}\n    instead of {str(case['response_body'])[:500]}"


def _comparable(name: str, text: str | None) -> Any:
    return sorted(re.split(r",\s*", text)) if text is not None and name in UNORDERED else text


def _body(response: httpx.Response) -> tuple[Any, str | None]:
    """The body and what it is: None for JSON, else text or base64."""
    try:
        text = response.content.decode()
    except UnicodeDecodeError:
        return base64.b64encode(response.content).decode(), "base64"
    try:
        return read(text), None
    except ValueError:
        return text, "text"
