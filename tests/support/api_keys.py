"""API keys for tests, made over HTTP by an admin."""

from typing import Any

from tests.support.serving import Serving


def make_key(functions: Serving, *scopes: str, person: str = "admin", **wish: Any) -> dict[str, Any]:
    """The response of create-api-key, with the key."""
    with functions.client(person) as client:
        answer = client.post("/functions/v1/create-api-key", json={"name": "Zapier", "scopes": scopes, **wish})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made
