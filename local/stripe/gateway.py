"""One request under /v1: the key, the version, Idempotency-Key, and faults to order."""

import base64
import json
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from local.stripe import LATEST, parameters
from local.stripe.account import Account
from local.stripe.errors import ApiError
from local.stripe.routes import call
from local.stripe.store import Object

VERSION = re.compile(r"\d{4}-\d\d-\d\d(\.\w+)?")
LONGEST_KEY = 255


@dataclass
class Response:
    status: int
    body: str | bytes
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/json"


@dataclass
class Fault:
    """What goes wrong with the next requests: `timeout` (no response ever comes), `slow`, `429` or `500`.

    `after`: only after the work is done, so that the caller does not learn of it.
    """

    how: str
    times: int = 1
    after: bool = False
    path: str = ""
    seconds: float = 0


class Gateway:
    def __init__(self, account: Account, key: str) -> None:
        self.faults: list[Fault] = []
        self._account = account
        self._key = key
        self._in_use: set[str] = set()
        self._lock = threading.Lock()

    def respond(self, method: str, target: str, headers: Mapping[str, str], body: str) -> Response | None:
        """None is no response at all."""
        address = urlsplit(target)
        fault = self._fault(address.path)
        if fault and fault.how == "slow":
            fault = None if fault.after else fault
        reply = {"request-id": f"req_{secrets.token_hex(7)}", "stripe-version": headers.get("stripe-version") or LATEST}
        key = headers.get("idempotency-key") if method == "POST" else None
        with self._lock:
            if key in self._in_use:
                return _refusal(_conflict(key), reply)
            if key:
                self._in_use.add(key)
        try:
            if fault:
                time.sleep(fault.seconds)
            if fault and fault.how != "slow" and not fault.after:
                return broken(fault.how, reply, retry="true")
            breaks = fault is not None and fault.how == "500"
            response = self._respond(method, address, headers, body, key, reply, breaks=breaks)
            return broken(fault.how, reply, retry="false") if fault and fault.how != "slow" else response
        finally:
            with self._lock:
                self._in_use.discard(key or "")

    def _fault(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if path.startswith("/v1/" + fault.path):
                    fault.times -= 1
                    if not fault.times:
                        self.faults.remove(fault)
                    return fault
        return None

    def _respond(
        self,
        method: str,
        address: SplitResult,
        headers: Mapping[str, str],
        body: str,
        key: str | None,
        reply: dict[str, str],
        *,
        breaks: bool,
    ) -> Response:
        account = self._account
        try:
            self._authorise(headers)
            version = reply["stripe-version"]
            if not VERSION.fullmatch(version):
                raise ApiError(f"Invalid Stripe API version: {version}")  # noqa: TRY301 - one place responds
            given = parameters.parse(body if method == "POST" else "&".join(filter(None, (address.query, body))))
            account.catch_up()
            with account.store.change():
                if key and (known := self._kept(key, address.path, given)):
                    return Response(*known, {**reply, "idempotency-key": key, "idempotent-replayed": "true"})
                account.request = {"id": reply["request-id"], "idempotency_key": key}
                request = json.dumps([address.path, given], sort_keys=True)
                try:
                    result = call(account, method, address.path, given, version)
                    response = Response(200, json.dumps(result), reply)
                except ApiError as error:
                    if not error.kept:
                        raise
                    response = _refusal(error, reply)
                if key:
                    # The response that went out is kept, also a 500.
                    sent = broken("500", reply, retry="false") if breaks else response
                    if sent:
                        account.store.keep_response(key, request, sent.status, str(sent.body), int(time.time()))
        except ApiError as error:
            return _refusal(error, reply)
        return response

    def _kept(self, key: str, path: str, given: Object) -> tuple[int, str] | None:
        if len(key) > LONGEST_KEY:
            raise ApiError("Idempotency keys are at most 255 characters.", kind="idempotency_error")
        if not (known := self._account.store.response(key, int(time.time()))):
            return None
        request, status, body = known
        if json.loads(request) != [path, given]:
            raise ApiError(
                "Keys for idempotent requests can only be used with the same parameters they were first used with. Try"
                f" using a key other than '{key}' if you meant to execute a different request.",
                kind="idempotency_error",
            )
        return status, body

    def _authorise(self, headers: Mapping[str, str]) -> None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            key = base64.b64decode(key).decode(errors="replace").partition(":")[0]
        if key != self._key:
            message = f"Invalid API Key provided: {key[:8]}****{key[-4:]}" if key else "You did not provide an API key."
            raise ApiError(message, status=401)
        if headers.get("stripe-account"):
            raise ApiError("The double does not imitate Connect: remove the header Stripe-Account.", status=403)


def _refusal(error: ApiError, headers: dict[str, str]) -> Response:
    return Response(error.status, json.dumps({"error": error.error}), headers)


def _conflict(key: str | None) -> ApiError:
    return ApiError(
        f"There is currently another in-progress request using this Idempotent Key: {key}.",
        status=409,
        kind="idempotency_error",
        code="idempotency_key_in_use",
    )


def broken(how: str, headers: dict[str, str], *, retry: str) -> Response | None:
    if how == "429":
        return _refusal(ApiError("Too many requests hit the API too quickly.", status=429, code="rate_limit"), headers)
    if how == "500":
        error = ApiError("An unknown error occurred.", status=500, kind="api_error")
        return _refusal(error, {**headers, "stripe-should-retry": retry})
    return None
