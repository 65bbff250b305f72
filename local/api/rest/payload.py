"""The body of a write or of a call."""

import json
import re
from dataclasses import dataclass
from typing import Any

from local.api.http import strict_json
from local.api.rest import media
from local.api.rest.errors import RestError
from local.api.rest.parsec import shown
from local.api.rest.query import read_pairs

FIELD = re.compile(r'"((?:[^"]++|"")*+)("?)|([^",\r\n]*+)')
LINE_END = re.compile(r"\r\n|\n|\r")
SHOWN_LENGTH = 100


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
        text = body.decode(errors="replace").removeprefix("?")
        pairs = tuple((name, value or "") for name, value in read_pairs(text))
        keys = frozenset(name for name, _ in pairs)
        return Payload(b"", keys, pairs) if call else Payload(_dumped(dict(pairs)), keys)
    if call and content in {media.TEXT, media.XML, media.OCTETS}:
        return Payload(body)
    raise invalid(f"Content-Type not acceptable: {content}")


def _json(body: bytes) -> Any:
    try:
        return strict_json(body.decode())
    except ValueError:
        raise invalid("Empty or invalid json") from None


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _uniform(raw: bytes, value: Any, otherwise: str) -> Payload:
    """The payload of an object or of a list of objects with the same keys; anything else is an empty list."""
    if isinstance(value, dict):
        return Payload(raw, frozenset(value))
    if not isinstance(value, list) or not value:
        return Payload(b"[]")
    keys = value[0].keys() if isinstance(value[0], dict) else None
    if keys is None or not all(isinstance(row, dict) and row.keys() == keys for row in value):
        raise invalid(otherwise)
    return Payload(raw, frozenset(keys))


def _csv(body: bytes) -> list[dict[str, str | None]]:
    """Rows by the names of the first line. NULL is null, a line may be shorter or longer, blank lines don't count.

    PostgREST's grammar differs from that of Python's module: only the first character of a value may begin a quotation,
    a quotation that nothing closes ends at the end, without its last character, and the errors are shown to clients.
    """
    text = body.decode("latin-1")  # a character for each byte
    names, at = _record(text, 0)
    rows: list[list[str]] = []
    while found := LINE_END.match(text, at):
        row, at = _record(text, found.end())
        rows.append(row)
    if at < len(text) or not rows:
        reason = "Failed reading: satisfy" if at < len(text) else "not enough input"
        rest = shown(text[at:]) if len(text) - at <= SHOWN_LENGTH else f"{text[at:][:SHOWN_LENGTH]} (truncated)"
        raise invalid(f"parse error ({reason}) at {rest}")
    return [
        {name: None if value == "NULL" else value for name, value in zip(names, row, strict=False)}
        for row in rows
        if row != [""]
    ]


def _record(text: str, at: int) -> tuple[list[str], int]:
    """The values of the line that begins at a position, and where it ends."""
    values = []
    while found := FIELD.match(text, at):
        quoted, closing, value = found.groups()
        if value is None:
            value = (quoted if closing else quoted[:-1]).replace('""', '"')
        values.append(value.encode("latin-1").decode(errors="replace"))
        at = found.end()
        if not text.startswith(",", at):
            break
        at += 1
    return values, at
