"""Sockets, the channels they have joined, and who gets a message."""

import asyncio
import json
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from local.api.realtime.protocol import Frame, compact, encode, encode_binary, frame
from local.api.realtime.subscriptions import Subscription
from local.api.tokens import Claims

OUTBOX_BYTES = 4 * 1024 * 1024
PRESENCE_CALLS, PRESENCE_SECONDS = 5, 30
# Claims that differ between two tokens of one session.
OF_ONE_TOKEN = {"iat", "exp", "nbf", "jti"}

Rights = dict[str, dict[str, bool]]
Key = tuple[bool, str]


class Socket:
    """One connection. Frames go straight to its transport; a client that does not read them is dropped."""

    def __init__(self, version: str, claims: Claims, headers: dict[str, str], transport: asyncio.Transport) -> None:
        self.version, self.claims, self.headers = version, claims, headers
        self.channels: dict[str, Channel] = {}
        self._transport = transport

    def send(self, message: str) -> None:
        self.write(frame(message))

    def reply(self, request: Frame, status: str, response: dict[str, str]) -> None:
        """To a message that is about no channel of this socket."""
        text = compact({"status": status, "response": response})
        self.send(encode(self.version, request.topic, "phx_reply", text, request.ref, request.join_ref))

    def write(self, data: bytes) -> None:
        """A frame that many sockets may share."""
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > OUTBOX_BYTES:
            print("realtime: a client that does not read was dropped", flush=True)
            self._transport.abort()


@dataclass(eq=False)
class Channel:
    socket: Socket
    name: str
    join_ref: str | None
    is_private: bool
    claims: Claims
    token: str | None
    sends_to_itself: bool = False
    acknowledges: bool = False
    has_presence: bool = False
    presence_key: str = ""
    rights: Rights | None = None
    subscriptions: list[Subscription] = field(default_factory=list)
    presence: dict[str, Any] | None = None
    presence_calls: deque[float] = field(default_factory=deque)
    timer: asyncio.TimerHandle | None = None
    _identified: Claims | None = None
    _identity: str = ""

    @property
    def topic(self) -> str:
        return f"realtime:{self.name}"

    @property
    def key(self) -> Key:
        return self.is_private, self.name

    @property
    def identity(self) -> str:
        """The same for all channels to which policies show the same rows."""
        if self._identified is not self.claims:
            self._identified, self._identity = self.claims, self._make_identity()
        return self._identity

    def _make_identity(self) -> str:
        return json.dumps(
            {name: value for name, value in self.claims.items() if name not in OF_ONE_TOKEN}, sort_keys=True
        )

    def may(self, extension: str, action: str) -> bool:
        return not self.is_private or bool(self.rights and self.rights[extension][action])

    def push(self, event: str, payload: Any, ref: str | None = None) -> None:
        self.socket.send(encode(self.socket.version, self.topic, event, compact(payload), ref, self.join_ref))

    def reply(self, ref: str | None, status: str, response: Any) -> None:
        self.push("phx_reply", {"status": status, "response": response}, ref)

    def system(self, extension: str, status: str, message: str) -> None:
        about = {"channel": self.name, "extension": extension, "message": message, "status": status}
        self.push("system", about)

    def presence_limit_reached(self) -> bool:
        now = time.monotonic()
        while self.presence_calls and self.presence_calls[0] < now - PRESENCE_SECONDS:
            self.presence_calls.popleft()
        self.presence_calls.append(now)
        return len(self.presence_calls) > PRESENCE_CALLS


class Hub:
    """All channels of all sockets."""

    def __init__(self) -> None:
        self._channels: dict[Key, dict[Channel, None]] = defaultdict(dict)

    def add(self, channel: Channel) -> None:
        self._channels[channel.key][channel] = None
        channel.socket.channels[channel.topic] = channel

    def remove(self, channel: Channel) -> None:
        if channel.timer:
            channel.timer.cancel()
        self.untrack(channel)
        members = self._channels[channel.key]
        members.pop(channel, None)
        if not members:
            self._channels.pop(channel.key, None)
        if channel.socket.channels.get(channel.topic) is channel:
            channel.socket.channels.pop(channel.topic)

    def __iter__(self) -> Iterator[Channel]:
        return iter([channel for members in self._channels.values() for channel in members])

    def broadcast(
        self,
        key: Key,
        event: str,
        payload: Any,
        *,
        sender: Channel | None = None,
        meta: dict[str, Any] | None = None,
        binary: bytes | None = None,
    ) -> None:
        body = {"event": event, "payload": payload, "type": "broadcast"} | ({"meta": meta} if meta else {})
        frames: dict[str, bytes | None] = {}
        topic = f"realtime:{key[1]}"
        for channel in list(self._channels.get(key, ())):
            if (channel is sender and not channel.sends_to_itself) or not channel.may("broadcast", "read"):
                continue
            version = channel.socket.version
            if version not in frames:
                frames[version] = (
                    frame(encode(version, topic, "broadcast", compact(body)))
                    if binary is None
                    else frame(encode_binary(topic, event, binary))
                    if version == "2.0.0"
                    else None
                )
            if data := frames[version]:
                channel.socket.write(data)

    # Presence --------------------------------------------------------------------------------------------------------

    def presence_state(self, key: Key) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for channel in self._channels.get(key, ()):
            if channel.presence is not None:
                state.setdefault(channel.presence_key, {"metas": []})["metas"].append(channel.presence)
        return state

    def track(self, channel: Channel, payload: dict[str, Any]) -> None:
        before = channel.presence
        if before is not None and {**before, "phx_ref": 0, "phx_ref_prev": 0} == {
            **payload,
            "phx_ref": 0,
            "phx_ref_prev": 0,
        }:
            return
        meta = {**payload, "phx_ref": secrets.token_urlsafe(9)}
        leaves = {}
        if before is not None:
            meta["phx_ref_prev"] = before["phx_ref"]
            leaves = {channel.presence_key: {"metas": [before]}}
        channel.presence, channel.has_presence = meta, True
        self._diff(channel.key, {channel.presence_key: {"metas": [meta]}}, leaves)

    def untrack(self, channel: Channel) -> None:
        before, channel.presence = channel.presence, None
        if before is not None:
            self._diff(channel.key, {}, {channel.presence_key: {"metas": [before]}})

    def _diff(self, key: Key, joins: dict[str, Any], leaves: dict[str, Any]) -> None:
        payload = compact({"joins": joins, "leaves": leaves})
        for channel in list(self._channels.get(key, ())):
            if channel.has_presence and channel.may("presence", "read"):
                text = encode(channel.socket.version, channel.topic, "presence_diff", payload)
                channel.socket.send(text)
