"""The answer to "is this flag on, and with what value?", in the words of OpenFeature."""

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Evaluation:
    """Made once when a flag is compiled, given to everybody it is for, and never changed."""

    key: str
    value: Any
    reason: str
    variant: str
    on: bool
    rule: str
    version: int
    error_code: str | None = None
    error_details: str | None = None
    written: bytes | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def json(self) -> bytes:
        """Written when first asked for: of all that a flag can answer, most is never asked."""
        if self.written is None:
            self.written = json.dumps(self.words(), ensure_ascii=False, separators=(",", ":")).encode()
        return self.written

    def words(self, *, stale: bool = False) -> dict[str, Any]:
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
