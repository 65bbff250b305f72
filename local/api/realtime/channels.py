"""Sockets, the channels they have joined, and the one way in which messages reach them."""

import asyncio
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from local.api.realtime.protocol import Frame, compact, encode, is_on, section
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
    """One connection. Frames go to its transport; a client that does not read them is dropped."""

    def __init__(self, version: str, claims: Claims, headers: dict[str, str], transport: asyncio.Transport) -> None:
        self.version, self.claims, self.headers = version, claims, headers
        self.channels: dict[str, Channel] = {}
        self.joins, self.messages = Limit(*JOINS), Limit(*MESSAGES)
        self.is_refused = False
        self._transport = transport
        self._frames: list[bytes] = []

    def reply(self, request: Frame, status: str, response: dict[str, Any]) -> None:
        text = compact({"status": status, "response": response})
        self.write(encode(self.version, request.topic, "phx_reply", text, request.ref, request.join_ref))

    def write(self, frame: bytes) -> None:
        """Frames of one turn of the event loop go out together."""
        if not self._frames:
            asyncio.get_running_loop().call_soon(self._flush)
        self._frames.append(frame)

    def _flush(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"".join(self._frames))
            if self._transport.get_write_buffer_size() > OUTBOX_BYTES:
                print("realtime: a client that does not read was dropped", flush=True)
                self._transport.abort()
        self._frames.clear()


@dataclass(frozen=True)
class Identity:
    """Subscribers to whom policies show the same rows."""

    role: str
    lasting: str  # claims
    claims: str = field(compare=False)


@dataclass(frozen=True)
class Audience:
    """Channels that get the same messages for the same changes."""

    topic: str
    identity: Identity
    subscriptions: tuple[Subscription, ...]


class Channel:
    """One that a socket joins, as its configuration wants it."""

    def __init__(self, socket: Socket, request: Frame) -> None:
        config = section(request.payload, "config")
        presence, changes = section(config, "presence"), config.get("postgres_changes")
        self.socket, self.claims, self.broadcast = socket, socket.claims, section(config, "broadcast")
        self.changes = [each for each in changes if isinstance(each, dict)] if isinstance(changes, list) else []
        self.waits_for_changes = is_on(section(config, "postgres_changes_options"), "wait")
        self.topic, self.name = request.topic, request.topic.removeprefix("realtime:")
        self.join_ref = request.join_ref or request.ref
        self.is_private = is_on(config, "private")
        self.key: Key = self.is_private, self.name
        self.has_presence = is_on(presence, "enabled")
        self.presence_key = str(presence.get("key") or uuid4())
        self.tracked: dict[str, Any] | None = None
        self.presence: dict[str, Any] | None = None  # with references, as others see it
        self.presence_calls = Limit(*PRESENCE_CALLS)
        self.token: str | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self.rights: Rights | None = None
        self.audience: Audience | None = None
        self.replayed: set[str] = set()  # ids of messages that do not arrive a second time

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
        self.audiences: dict[Audience, dict[Channel, None]] = defaultdict(dict)
        self._channels: dict[Key, dict[Channel, None]] = defaultdict(dict)

    def add(self, channel: Channel) -> None:
        self._channels[channel.key][channel] = None
        channel.socket.channels[channel.topic] = channel

    def remove(self, channel: Channel) -> None:
        if channel.expiry:
            channel.expiry.cancel()
        self.subscribe(channel, ())
        self._channels[channel.key].pop(channel, None)
        channel.socket.channels.pop(channel.topic, None)
        self.track(channel, None)
        if not self._channels[channel.key]:
            del self._channels[channel.key]

    def drop(self, socket: Socket) -> None:
        for channel in list(socket.channels.values()):
            self.remove(channel)
        self.sockets.discard(socket)
        self.deserted_at = time.monotonic()

    def subscribe(self, channel: Channel, subscriptions: tuple[Subscription, ...]) -> None:
        """Also after a new token, which may be another identity."""
        if before := channel.audience:
            self.audiences[before].pop(channel)
            if not self.audiences[before]:
                del self.audiences[before]
        channel.audience = None
        if subscriptions:
            claims = channel.claims
            lasting = compact({name: claims[name] for name in sorted(claims) if name not in OF_ONE_TOKEN})
            identity = Identity(claims["role"], lasting, compact(claims))
            channel.audience = Audience(channel.topic, identity, subscriptions)
            self.audiences[channel.audience][channel] = None

    def broadcast(
        self, key: Key, event: str, payload: str | bytes, *, sender: Channel | None = None, number: str | None = None
    ) -> None:
        """`payload` is JSON, or what is sent as it is. Messages of the database have a number."""
        skipped = None if sender and is_on(sender.broadcast, "self") else sender
        listeners = [each for each in self._channels.get(key, ()) if each.may("broadcast", "read")]
        heard = (each for each in listeners if each is not skipped and number not in each.replayed)
        if isinstance(payload, bytes):
            deliver(heard, event, payload)
        else:
            meta = f',"meta":{compact({"id": number})}' if number else ""
            deliver(heard, "broadcast", f'{{"event":{compact(event)},"payload":{payload},"type":"broadcast"{meta}}}')

    def show_presence(self, channel: Channel) -> None:
        if channel.has_presence and channel.may("presence", "read"):
            state: dict[str, Any] = {}
            for each in self._channels[channel.key]:
                if each.presence is not None:
                    state.setdefault(each.presence_key, {"metas": []})["metas"].append(each.presence)
            channel.push("presence_state", state)

    def track(self, channel: Channel, state: dict[str, Any] | None) -> None:
        """`None` ends the presence."""
        if state is not None and not channel.has_presence:
            channel.has_presence = True
            self.show_presence(channel)
        if state == channel.tracked:
            return
        before, after = channel.presence, None
        if state is not None:
            previous = {"phx_ref_prev": before["phx_ref"]} if before else {}
            after = {**state, "phx_ref": secrets.token_urlsafe(9), **previous}
        channel.tracked, channel.presence = state, after
        leaves, joins = ({channel.presence_key: {"metas": [meta]}} if meta else {} for meta in (before, after))
        seen = (each for each in self._channels[channel.key] if each.has_presence and each.may("presence", "read"))
        deliver(seen, "presence_diff", compact({"joins": joins, "leaves": leaves}))
