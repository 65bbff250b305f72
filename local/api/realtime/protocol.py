"""Frames of Phoenix channels: version 1.0.0 (JSON objects) and 2.0.0 (JSON arrays and binary broadcasts)."""

import json
from dataclasses import dataclass
from typing import Any

from local.api.http import strict_json

USER_BROADCAST_PUSH, USER_BROADCAST = 3, 4
BINARY, JSON = 0, 1
VERSIONS = {"1.0.0", "2.0.0"}


@dataclass(frozen=True)
class Frame:
    topic: str
    event: str
    payload: Any
    ref: str | None = None
    join_ref: str | None = None
    binary: bytes | None = None  # the payload of a broadcast that is not JSON


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def encode(
    version: str, topic: str, event: str, payload: str, ref: str | None = None, join_ref: str | None = None
) -> str:
    """`payload` is JSON already: many sockets share it."""
    name, kind = compact(topic), compact(event)
    if version == "2.0.0":
        return f"[{compact(join_ref)},{compact(ref)},{name},{kind},{payload}]"
    joined = f',"join_ref":{compact(join_ref)}' if join_ref is not None else ""
    return f'{{"topic":{name},"event":{kind},"payload":{payload},"ref":{compact(ref)}{joined}}}'


def encode_binary(topic: str, event: str, payload: bytes) -> bytes:
    """A broadcast whose payload is binary; only version 2.0.0 has it."""
    topic_bytes, event_bytes = topic.encode()[:255], event.encode()[:255]
    sizes = bytes([USER_BROADCAST, len(topic_bytes), len(event_bytes), 0, BINARY])
    return sizes + topic_bytes + event_bytes + payload


def frame(message: str | bytes) -> bytes:
    """As a server sends it: unmasked and whole (RFC 6455, 5.2)."""
    kind, data = (0x81, message.encode()) if isinstance(message, str) else (0x82, message)
    size = len(data)
    if size < 126:  # noqa: PLR2004 - fits into seven bits
        return bytes((kind, size)) + data
    if size < 1 << 16:
        return bytes((kind, 126)) + size.to_bytes(2) + data
    return bytes((kind, 127)) + size.to_bytes(8) + data


def decode(version: str, message: str | bytes) -> Frame:
    """Raises ValueError for what is no frame."""
    if isinstance(message, bytes):
        return _decode_binary(message)
    found = strict_json(message)
    if version == "1.0.0" and isinstance(found, dict):
        found = [found.get(name) for name in ("join_ref", "ref", "topic", "event", "payload")]
    if not isinstance(found, list) or len(found) < 5:  # noqa: PLR2004 - join_ref, ref, topic, event, payload
        raise ValueError("no frame")
    join_ref, ref, topic, event, payload = found[:5]
    if not isinstance(topic, str) or not isinstance(event, str):
        raise ValueError("no topic or event")  # noqa: TRY004 - of the message, not of a value
    return Frame(topic, event, payload, _text(ref), _text(join_ref))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _decode_binary(message: bytes) -> Frame:
    if len(message) < 7 or message[0] != USER_BROADCAST_PUSH:  # noqa: PLR2004 - the kind and six sizes
        raise ValueError("unknown kind of binary frame")
    parts, at = [], 7
    for size in message[1:6]:
        parts.append(message[at : at + size].decode())
        at += size
    join_ref, ref, topic, event, _metadata = parts
    body = message[at:]
    payload: dict[str, Any] = {"type": "broadcast", "event": event}
    if message[6] == JSON:
        payload["payload"] = strict_json(body.decode() or "{}")
        return Frame(topic, "broadcast", payload, ref or None, join_ref or None)
    return Frame(topic, "broadcast", payload, ref or None, join_ref or None, body)
