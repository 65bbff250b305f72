"""Settings of Schemathesis.

An Idempotency-Key is for one request, but it would reuse one for many. A 5xx is right only where the document names it:
503 everywhere, 501 where a function needs a setting that this stack does not have.
"""

import re
from typing import Any
from uuid import uuid4

import schemathesis


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    headers = case.headers or {}
    if re.fullmatch(r"[\x21-\x7e]{1,255}", headers.get("Idempotency-Key") or ""):
        headers["Idempotency-Key"] = str(uuid4())


@schemathesis.check
def no_undocumented_server_error(_context: Any, response: Any, case: Any) -> None:
    documented = case.operation.definition.raw.get("responses", {})
    assert response.status_code < 500 or str(response.status_code) in documented, response.text[:300]
