"""The one shape of Stripe's errors: `{"error": {type, message, code, param, …}}`."""

from typing import Any


class ApiError(Exception):
    """A request that Stripe refuses. `kept`: the changes until then are kept, as after a declined card."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        kept: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(message)
        fields = {"type": kind, "message": message, "code": code, "param": param, **more}
        self.status = status
        self.kept = kept
        self.error = {name: value for name, value in fields.items() if value is not None}


def missing(noun: str, name: object, param: str, status: int = 400) -> ApiError:
    return ApiError(f"No such {noun}: '{name}'", status=status, code="resource_missing", param=param)
