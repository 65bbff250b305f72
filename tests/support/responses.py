"""Checks of error responses."""

import httpx

WORDS = {"code", "message", "details", "hint"}


def refused(answer: httpx.Response, status: int, code: str) -> httpx.Response:
    """Check status, code, the four fields of an error, and the common headers."""
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json().keys() == WORDS
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["x-request-id"]
    return answer
