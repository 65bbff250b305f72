"""Typed client of Strive's functions. Tables, Auth and Storage are reached with supabase-py."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter

Body = TypeVar("Body")
Result = TypeVar("Result")


class ApiError(Exception):
    """A function refused the request."""

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {error.get('code')}: {error.get('message')}")
        self.status = status
        self.code: str = error.get("code", "")
        self.message: str = error.get("message", "")
        self.details: Any = error.get("details")
        self.hint: str | None = error.get("hint")


@dataclass(frozen=True)
class Operation(Generic[Body, Result]):
    path: str
    body: type[Body]
    result: type[Result]


class Functions:
    """The functions of one project, called as one person (`token`) or as a server (a secret key)."""

    def __init__(self, url: str, key: str, *, token: str | None = None, organization: str | None = None) -> None:
        headers = {"apikey": key}
        if token:
            headers["authorization"] = f"Bearer {token}"
        if organization:
            headers["x-org-id"] = organization
        self._http = httpx.Client(base_url=f"{url.rstrip('/')}/functions/v1", headers=headers, timeout=30)

    def call(
        self, operation: Operation[Body, Result], body: Body | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Result:
        request = TypeAdapter(operation.body).validate_python(body) if isinstance(body, Mapping) else body
        content = (
            request.model_dump_json(exclude_unset=True)
            if isinstance(request, BaseModel)
            else TypeAdapter(operation.body).dump_json(request, exclude_unset=True)
        )
        headers = {"content-type": "application/json"}
        if idempotency_key:
            headers["idempotency-key"] = idempotency_key
        response = self._http.post(operation.path, content=content, headers=headers)
        if response.is_error:
            raise ApiError(response.status_code, response.json())
        return TypeAdapter(operation.result).validate_json(response.content)

    def close(self) -> None:
        self._http.close()
