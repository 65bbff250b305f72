"""The body of a write or of a call."""

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

from local.api.rest import media
from local.api.rest.errors import RestError
from local.api.rest.query import read_pairs

EMPTY_OR_INVALID = "Empty or invalid json"


@dataclass(frozen=True)
class Payload:
    """`keys` are the names in the body or those of `columns`; `pairs` are the fields of a form for a function."""

    raw: bytes = b""
    keys: frozenset[str] = frozenset()
    pairs: tuple[tuple[str, str], ...] | None = None

    @property
    def is_object(self) -> bool:
        return self.raw.lstrip(b" \t\n\r").startswith(b"{")


def invalid(message: str) -> RestError:
    return RestError(400, "PGRST102", message)


def read_payload(body: bytes, content: str, columns: frozenset[str] | None, *, call: bool) -> Payload:
    if content == media.JSON:
        if columns is not None:
            return Payload(body, columns)
        return _uniform(body, _json(body if body or not call else b"{}"), "All object keys must match")
    if content == media.CSV:
        rows = _csv(body)
        return _uniform(_dumped(rows), rows, "All lines must have same number of fields")
    if content == media.FORM:
        pairs = tuple((name, value or "") for name, value in read_pairs(body.decode(errors="replace")))
        keys = frozenset(name for name, _ in pairs)
        return Payload(b"", keys, pairs) if call else Payload(_dumped(dict(reversed(pairs))), keys)
    if call and content in {media.TEXT, media.XML, media.OCTETS}:
        return Payload(body)
    raise invalid(f"Content-Type not acceptable: {content}")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise invalid(EMPTY_OR_INVALID) from None


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _uniform(raw: bytes, value: Any, otherwise: str) -> Payload:
    """The payload of an object or of a list of objects with the same keys; anything else is an empty list."""
    if isinstance(value, dict):
        return Payload(raw or b"{}", frozenset(value))
    if not isinstance(value, list) or not value:
        return Payload(b"[]")
    keys = value[0].keys() if isinstance(value[0], dict) else None
    if keys is None or not all(isinstance(row, dict) and row.keys() == keys for row in value):
        raise invalid(otherwise)
    return Payload(raw, frozenset(keys))


def _csv(body: bytes) -> list[dict[str, str | None]]:
    """Rows by the names of the first line. NULL is null, a line may be shorter or longer, blank lines don't count."""
    if not body:
        raise invalid('parse error (not enough input) at ""')
    text = body.decode(errors="replace")
    try:
        lines = _lines(text)
    except csv.Error:
        try:  # a quote that nothing closes ends at the end, without its last character
            lines = _lines(f'{text[:-1]}"')
        except csv.Error as error:
            raise invalid(f"parse error ({error})") from None
    names, *rows = lines or [[""]]
    return [
        {name: None if value == "NULL" else value for name, value in zip(names, row, strict=False)}
        for row in rows
        if row not in ([], [""])
    ]


def _lines(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))
