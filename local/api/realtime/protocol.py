"""Frames of Phoenix channels: version 1.0.0 (JSON objects) and 2.0.0 (JSON arrays and binary broadcasts)."""

import json
from typing import Any, NamedTuple

from websockets.frames import Frame as WebSocketFrame
from websockets.frames import Opcode

from local.api.http import SMALL_BODY, strict_json

VERSIONS = {"1.0.0", "2.0.0"}
USER_BROADCAST_PUSH, USER_BROADCAST, BINARY = 3, 4, 0

ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
compact = ENCODER.encode


class Frame(NamedTuple):
    join_ref: str | None
    ref: str | None
    topic: str
    event: str
    payload: dict[str, Any]  # that of a broadcast has its own payload as JSON text, or as bytes


def json_text(value: Any, size: int) -> str:
    """What comes from a large message is written in Python: other threads run meanwhile."""
    return compact(value) if size <= SMALL_BODY else "".join(ENCODER.iterencode(value))


def encode(
    version: str, topic: str, event: str, payload: str | bytes, ref: str | None = None, join_ref: str | None = None
) -> bytes:
    """As it goes over the wire. A text is JSON; bytes are a broadcast, which version 1.0.0 does not have."""
    if isinstance(payload, bytes):
        names = [topic.encode()[:255], event.encode()[:255]]
        sizes = bytes([USER_BROADCAST, *map(len, names), 0, BINARY])
        data = b"".join([sizes, *names, payload])
        return WebSocketFrame(Opcode.BINARY, data).serialize(mask=False) if version == "2.0.0" else b""
    name, kind = compact(topic), compact(event)
    if version == "2.0.0":
        text = f"[{compact(join_ref)},{compact(ref)},{name},{kind},{payload}]"
    else:
        joined = f',"join_ref":{compact(join_ref)}' if join_ref is not None else ""
        text = f'{{"topic":{name},"event":{kind},"payload":{payload},"ref":{compact(ref)}{joined}}}'
    return WebSocketFrame(Opcode.TEXT, text.encode()).serialize(mask=False)


def decode(version: str, message: str | bytes) -> Frame:
    """Raises ValueError for what is no frame."""
    if isinstance(message, bytes):
        return _decode_binary(message)
    found = strict_json(message)
    if version == "1.0.0" and isinstance(found, dict):
        found = [found.get(name) for name in Frame._fields]
    match found:
        case [join_ref, ref, str(topic), str(event), payload, *_]:
            join_ref, ref = (None if each is None else str(each) for each in (join_ref, ref))
            content = payload if isinstance(payload, dict) else {}
            if event == "broadcast":
                content["payload"] = json_text(content.get("payload", {}), len(message))
            return Frame(join_ref, ref, topic, event, content)
    raise ValueError("no frame")


def _decode_binary(message: bytes) -> Frame:
    if len(message) < 7 or message[0] != USER_BROADCAST_PUSH:  # noqa: PLR2004 - the kind and six sizes
        raise ValueError("unknown kind of binary frame")
    parts, at = [], 7
    for size in message[1:6]:
        parts.append(message[at : at + size].decode())
        at += size
    join_ref, ref, topic, event, _metadata = parts
    content: Any = message[at:]
    if message[6] != BINARY:
        content = json_text(strict_json(content.decode() or "{}"), len(content))
    return Frame(join_ref or None, ref or None, topic, "broadcast", {"event": event, "payload": content})


def section(value: dict[str, Any], name: str) -> dict[str, Any]:
    """An object in a payload; as hosted, anything else in its place counts as left out."""
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def is_on(value: dict[str, Any], name: str) -> bool:
    return str(value.get(name)).lower() == "true"
