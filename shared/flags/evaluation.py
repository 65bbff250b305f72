"""The result of evaluating a flag, in the terms of OpenFeature."""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Evaluation:
    """Created once when a flag is compiled, shared by everyone who gets this result, and never changed."""

    key: str
    value: Any
    reason: str
    variant: str
    on: bool
    rule: str
    version: int
    error_code: str | None = None
    error_details: str | None = None
    serialized: bytes | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def json(self) -> bytes:
        """Serialized on first use: most of the possible results of a flag are never sent."""
        if self.serialized is None:
            self.serialized = json.dumps(self.fields(), ensure_ascii=False, separators=(",", ":")).encode()
        return self.serialized

    def fields(self, *, stale: bool = False) -> dict[str, Any]:
        if self.error_code:
            return {"key": self.key, "errorCode": self.error_code, "errorDetails": self.error_details}
        return {
            "key": self.key,
            "value": self.value,
            "reason": "STALE" if stale else self.reason,
            "variant": self.variant,
            "metadata": {"on": self.on, "rule": self.rule, "version": self.version},
        }


def failed(key: str, code: str, details: str) -> Evaluation:
    return Evaluation(key, None, "ERROR", "", on=False, rule="error", version=0, error_code=code, error_details=details)


def not_found(key: str) -> Evaluation:
    return failed(key, "FLAG_NOT_FOUND", "There is no such flag in this environment")
