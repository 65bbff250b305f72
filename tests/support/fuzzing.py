"""Settings of Schemathesis: an Idempotency-Key is for one request, but it would reuse one for many."""

import re
from typing import Any
from uuid import uuid4

import schemathesis


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    headers = case.headers or {}
    if re.fullmatch(r"[\x21-\x7e]{1,255}", headers.get("Idempotency-Key") or ""):
        headers["Idempotency-Key"] = str(uuid4())
