"""The body of a write or of a call."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from local.api.errors import gateway_error
from local.api.http import beside_loop, strict_elements, strict_json
from local.api.rest import media
from local.api.rest.errors import RestError
from local.api.rest.parsec import shown
from local.api.rest.query import read_pairs

FIELD = re.compile(r'"((?:[^"]++|"")*+)("?)|([^",\r\n]*+)')
LINE_END = re.compile(r"\r\n|\n|\r")
SHOWN_LENGTH = 100
PARTS_LIMIT = 200_000  # a real PostgREST has no bound
PART_WEIGHT = 32
ENCODER = json.JSONEncoder(ensure_ascii=False)


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


async def read_payload(body: bytes, content: str, columns: frozenset[str] | None, *, call: bool) -> Payload:
    separators = {media.CSV: b"\n\r", media.FORM: b"&;"}.get(content, b"")
    parts = sum(body.count(each) for each in separators)
    if parts > PARTS_LIMIT:
        raise gateway_error(413, "body_too_large", f"The request body has more than {PARTS_LIMIT} lines or fields.")
    return await beside_loop(len(body) + PART_WEIGHT * parts, lambda: _read(body, content, columns, call))


def _read(body: bytes, content: str, columns: frozenset[str] | None, call: bool) -> Payload:
    if content == media.JSON:
        if columns is not None:
            return Payload(body, columns)
        return _json(body) if body or not call else Payload()
    if content == media.CSV:
        return _csv(body)
    if content == media.FORM:
        text = body.decode(errors="replace").removeprefix("?")
        pairs = tuple((name, value or "") for name, value in read_pairs(text))
        keys = frozenset(name for name, _ in pairs)
        return Payload(b"", keys, pairs) if call else Payload(_dumped(dict(pairs)), keys)
    if call and content in {media.TEXT, media.XML, media.OCTETS}:
        return Payload(body)
    raise invalid(f"Content-Type not acceptable: {content}")


def _dumped(value: Any) -> bytes:
    return ENCODER.encode(value).encode()


def _json(body: bytes) -> Payload:
    """An object or a list of objects with the same keys; anything else is an empty list."""
    try:
        text = body.decode()
        if text.lstrip(" \t\n\r").startswith("["):
            keys = _common_keys(strict_elements(text), "All object keys must match")
            return Payload(b"[]") if keys is None else Payload(body, keys)
        value = strict_json(text, keep=False)
    except ValueError:
        raise invalid("Empty or invalid json") from None
    return Payload(body, frozenset(value)) if isinstance(value, dict) else Payload(b"[]")


def _csv(body: bytes) -> Payload:
    objects: list[bytes] = []

    def kept() -> Iterator[dict[str, str | None]]:
        for row in _csv_rows(body):
            objects.append(_dumped(row))
            yield row

    keys = _common_keys(kept(), "All lines must have same number of fields")
    return Payload(b"[]") if keys is None else Payload(b"[" + b",".join(objects) + b"]", keys)


def _common_keys(rows: Iterable[Any], otherwise: str) -> frozenset[str] | None:
    """The keys of every row, None without rows. Rows that differ are refused at the end, after any broken syntax."""
    keys, same = None, True
    for row in rows:
        found = row.keys() if isinstance(row, dict) else None
        keys = frozenset(found or ()) if keys is None else keys
        same = same and found == keys
    if not same:
        raise invalid(otherwise)
    return keys


def _csv_rows(body: bytes) -> Iterator[dict[str, str | None]]:
    """Rows by the names of the first line. NULL is null, a line may be shorter or longer, blank lines don't count.

    PostgREST's grammar differs from that of Python's module: only the first character of a value may begin a quotation,
    a quotation that nothing closes ends at the end, without its last character, and the errors are shown to clients.
    """
    text = body.decode("latin-1")  # a character for each byte
    names, at = _record(text, 0)
    lines = 0
    while found := LINE_END.match(text, at):
        row, at = _record(text, found.end())
        lines += 1
        if row != [""]:
            yield {name: None if value == "NULL" else value for name, value in zip(names, row, strict=False)}
    if at < len(text) or not lines:
        reason = "Failed reading: satisfy" if at < len(text) else "not enough input"
        rest = shown(text[at:]) if len(text) - at <= SHOWN_LENGTH else f"{text[at:][:SHOWN_LENGTH]} (truncated)"
        raise invalid(f"parse error ({reason}) at {rest}")


def _record(text: str, at: int) -> tuple[list[str], int]:
    """The values of the line that begins at a position, and where it ends."""
    values = []
    while found := FIELD.match(text, at):
        quoted, closing, value = found.groups()
        if value is None:
            value = (quoted if closing else quoted[:-1]).replace('""', '"')
        values.append(value if value.isascii() else value.encode("latin-1").decode(errors="replace"))
        at = found.end()
        if not text.startswith(",", at):
            break
        at += 1
    return values, at
