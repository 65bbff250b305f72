"""Sockets, the channels they have joined, and the one way in which messages reach them."""

import asyncio
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from local.api.realtime.protocol import Frame, compact, encode
from local.api.realtime.subscriptions import Subscription
from local.api.tokens import Claims

# The limits of the hosted service.
CHANNELS_PER_SOCKET = 100
JOINS = MESSAGES = (500, 1)  # calls, seconds; of a socket
PRESENCE_CALLS = (5, 30)  # of a channel
PAYLOAD_BYTES = 3_000_000
OUTBOX_BYTES = 4 * 1024 * 1024
# Claims that differ between two tokens of one session.
OF_ONE_TOKEN = {"iat", "exp", "nbf", "jti"}

Rights = dict[str, dict[str, bool]]
Key = tuple[bool, str]  # a private and a public channel of one name are two channels
AudienceKey = tuple[str, str, tuple[Subscription, ...]]  # topic, identity


class Limit:
    """At most so many calls within some seconds."""

    def __init__(self, calls: int, seconds: float) -> None:
        self._seconds = seconds
        self._calls: deque[float] = deque(maxlen=calls)

    def exceeded(self) -> bool:
        now = time.monotonic()
        exceeded = len(self._calls) == self._calls.maxlen and self._calls[0] > now - self._seconds
        self._calls.append(now)
        return exceeded


class Socket:
    """One connection. Frames go straight to its transport; a client that does not read them is dropped."""

    def __init__(self, version: str, claims: Claims, headers: dict[str, str], transport: asyncio.Transport) -> None:
        self.version, self.claims, self.headers = version, claims, headers
        self.channels: dict[str, Channel] = {}
        self.joins, self.messages = Limit(*JOINS), Limit(*MESSAGES)
        self._transport = transport

    def reply(self, request: Frame, status: str, response: dict[str, Any]) -> None:
        text = compact({"status": status, "response": response})
        self.write(encode(self.version, request.topic, "phx_reply", text, request.ref, request.join_ref))

    def write(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > OUTBOX_BYTES:
            print("realtime: a client that does not read was dropped", flush=True)
            self._transport.abort()


@dataclass(eq=False)
class Audience:
    """Channels that get the same messages for the same changes: policies show the same rows to them."""

    identity: str
    role: str
    claims: str
    subscriptions: tuple[Subscription, ...]
    channels: dict["Channel", None] = field(default_factory=dict)


@dataclass(eq=False)
class Channel:
    socket: Socket
    topic: str
    join_ref: str | None
    is_private: bool
    sends_to_itself: bool
    acknowledges: bool
    has_presence: bool
    presence_key: str
    claims: Claims
    token: str | None = None
    rights: Rights | None = None
    presence: dict[str, Any] | None = None
    presence_calls: Limit = field(default_factory=lambda: Limit(*PRESENCE_CALLS))
    audience: AudienceKey | None = None
    expiry: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        return self.topic.removeprefix("realtime:")

    @property
    def key(self) -> Key:
        return self.is_private, self.name

    def may(self, extension: str, action: str) -> bool:
        return not self.is_private or bool(self.rights and self.rights[extension][action])

    def push(self, event: str, payload: Any, ref: str | None = None) -> None:
        self.socket.write(encode(self.socket.version, self.topic, event, compact(payload), ref, self.join_ref))

    def system(self, extension: str, status: str, message: str) -> None:
        about = {"channel": self.name, "extension": extension, "message": message, "status": status}
        self.push("system", about)


def deliver(channels: Iterable[Channel], event: str, payload: str | bytes) -> None:
    """To channels of one topic: the message is encoded once per version."""
    frames: dict[str, bytes] = {}
    for channel in channels:
        version = channel.socket.version
        if version not in frames:
            frames[version] = encode(version, channel.topic, event, payload)
        channel.socket.write(frames[version])


class Hub:
    """All channels of all sockets."""

    def __init__(self) -> None:
        self.sockets: set[Socket] = set()
        self.deserted_at = time.monotonic()
        self.audiences: dict[AudienceKey, Audience] = {}
        self._channels: dict[Key, dict[Channel, None]] = defaultdict(dict)

    def add(self, channel: Channel) -> None:
        self._channels[channel.key][channel] = None
        channel.socket.channels[channel.topic] = channel

    def remove(self, channel: Channel) -> None:
        if channel.expiry:
            channel.expiry.cancel()
        self.subscribe(channel, ())
        members = self._channels[channel.key]
        members.pop(channel, None)
        if not members:
            del self._channels[channel.key]
        channel.socket.channels.pop(channel.topic, None)
        self.track(channel, None)

    def drop(self, socket: Socket) -> None:
        for channel in list(socket.channels.values()):
            self.remove(channel)
        self.sockets.discard(socket)
        self.deserted_at = time.monotonic()

    def subscribe(self, channel: Channel, subscriptions: tuple[Subscription, ...]) -> None:
        """Also after a new token, which may be another identity."""
        if before := channel.audience:
            self.audiences[before].channels.pop(channel)
            if not self.audiences[before].channels:
                del self.audiences[before]
        channel.audience = None
        if subscriptions:
            claims, topic = channel.claims, channel.topic
            identity = compact({name: claims[name] for name in sorted(claims) if name not in OF_ONE_TOKEN})
            new = Audience(identity, claims["role"], compact(claims), subscriptions)
            channel.audience = topic, identity, subscriptions
            self.audiences.setdefault(channel.audience, new).channels[channel] = None

    def broadcast(
        self, key: Key, event: str, payload: str | bytes, *, sender: Channel | None = None, meta: object = None
    ) -> None:
        """`payload` is JSON, or what is sent as it is."""
        heard = [
            each
            for each in self._channels.get(key, ())
            if (each is not sender or each.sends_to_itself) and each.may("broadcast", "read")
        ]
        if isinstance(payload, bytes):
            deliver(heard, event, payload)
        else:
            more = f',"meta":{compact(meta)}' if meta else ""
            body = f'{{"event":{compact(event)},"payload":{payload},"type":"broadcast"{more}}}'
            deliver(heard, "broadcast", body)

    def presence_state(self, channel: Channel) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for each in self._channels[channel.key]:
            if each.presence is not None:
                state.setdefault(each.presence_key, {"metas": []})["metas"].append(each.presence)
        return state

    def track(self, channel: Channel, state: dict[str, Any] | None) -> None:
        """`None` ends the presence."""
        before, after = channel.presence, None
        if state is not None:
            previous = {"phx_ref_prev": before["phx_ref"]} if before else {}
            after = {**state, "phx_ref": secrets.token_urlsafe(9), **previous}
            channel.has_presence = True
        if _without_references(before) == _without_references(after):
            return
        channel.presence = after
        leaves, joins = ({channel.presence_key: {"metas": [meta]}} if meta else {} for meta in (before, after))
        seen = [each for each in self._channels.get(channel.key, ()) if each.has_presence]
        seen = [each for each in seen if each.may("presence", "read")]
        deliver(seen, "presence_diff", compact({"joins": joins, "leaves": leaves}))


def _without_references(meta: dict[str, Any] | None) -> dict[str, Any] | None:
    return meta and {name: value for name, value in meta.items() if name not in {"phx_ref", "phx_ref_prev"}}
