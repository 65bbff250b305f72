"""Verify a request of the mail provider by Standard Webhooks: HMAC-SHA256 over id, time and body."""

import base64
import binascii
import hmac
import re
import time
from collections.abc import Mapping
from http import HTTPStatus

from shared.errors import ApiError
from shared.settings import Settings

TOLERANCE_SECONDS = 300
MOST_SIGNATURES = 20


def signed_by_provider(settings: Settings, headers: Mapping[bytes, bytes], body: bytes) -> None:
    if not settings.mail_webhook_secrets:
        raise ApiError(503, "mail_off", "The mail webhook is not configured", hint="Set MAIL_WEBHOOK_SECRETS.")
    given = {
        name: headers.get(b"webhook-" + name) or headers.get(b"svix-" + name, b"") for name in (b"id", b"timestamp")
    }
    signatures = (headers.get(b"webhook-signature") or headers.get(b"svix-signature", b"")).split()[:MOST_SIGNATURES]
    if not given[b"id"] or not re.fullmatch(rb"[0-9]{1,12}", given[b"timestamp"]) or not signatures:
        raise _refused(
            "malformed_signature", "webhook-id, webhook-timestamp or webhook-signature is missing or malformed"
        )
    signed = b".".join([given[b"id"], given[b"timestamp"], body])
    expected = [
        b"v1," + base64.b64encode(hmac.digest(_key(one), signed, "sha256")) for one in settings.mail_webhook_secrets
    ]
    matches = [hmac.compare_digest(one, sent) for one in expected for sent in signatures]  # no early exit
    if not any(matches):
        raise _refused("invalid_signature", "The signature is not the mail provider's")
    if abs(time.time() - int(given[b"timestamp"])) > TOLERANCE_SECONDS:
        raise _refused("stale_signature", f"The signature is more than {TOLERANCE_SECONDS} seconds old or ahead")


def _key(secret: str) -> bytes:
    text = secret.removeprefix("whsec_")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return text.encode()


def _refused(code: str, message: str) -> ApiError:
    return ApiError(HTTPStatus.BAD_REQUEST, code, message)
