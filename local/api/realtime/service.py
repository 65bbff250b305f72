"""Realtime at /realtime/v1: the socket of supabase-js and supabase-py, and broadcasts over HTTP."""

import asyncio
import time
import traceback
from collections import deque
from contextlib import suppress
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import psycopg
from psycopg.rows import dict_row
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from local.api.callers import ROLE_OF_KEY, Callers
from local.api.database import Pool
from local.api.errors import ApiError, DatabaseUnavailable, gateway_error
from local.api.http import error_response, json_response, raw_path, read_object
from local.api.realtime.channels import Channel, Hub, Rights, Socket
from local.api.realtime.feed import LOGIN, Feed
from local.api.realtime.protocol import VERSIONS, Frame, compact, decode
from local.api.realtime.subscriptions import checked, identifier, parse
from local.api.tokens import Claims, TokenError, Tokens

PATH = "/realtime/v1/"
CHANNELS_PER_CLIENT = 100
JOINS_PER_SECOND = 500
EVENTS_PER_SECOND = 500
PAYLOAD_BYTES = 3_000_000
REPLAY_LIMIT = 25
CONFIRM_SECONDS = 300
READY_SECONDS = 5
QUIET_SECONDS = 60  # without any socket, before the stream of changes is closed
REPLAY = """select id::text, event, payload from realtime.messages
  where topic = $1 and private and extension = 'broadcast'
    and inserted_at >= to_timestamp($2::float8 / 1000) at time zone 'utc'
  order by inserted_at desc limit $3"""


class Refusal(Exception):  # noqa: N818 - a response
    """Why a channel can't be joined or has to be left, in the words of the hosted service."""


class Realtime:
    def __init__(self, database_url: str, tokens: Tokens, callers: Callers) -> None:
        self._tokens, self._callers = tokens, callers
        style: dict[str, Any] = {"row_factory": dict_row, "cursor_factory": psycopg.AsyncRawCursor}
        self._pool = Pool(LOGIN, database_url, 4, **style)
        # Rows are checked on connections that never carried a request's headers, as on hosted projects.
        self._feed_pool = Pool(LOGIN, database_url, 1, **style)
        self._hub = Hub()
        self._feed = Feed(self._hub, self._feed_pool, database_url)
        self._sockets: set[Socket] = set()
        self._quiet: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        await self._feed.stop()
        await self._pool.close()
        await self._feed_pool.close()

    # The socket ------------------------------------------------------------------------------------------------------

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        version = connection.query_params.get("vsn", "1.0.0")
        try:
            kind = self._callers.kind_of_key(connection)
            if version not in VERSIONS:
                raise gateway_error(400, "vsn", f"vsn is '{version}', not one of {', '.join(sorted(VERSIONS))}.")
        except ApiError as error:
            await _deny(error, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        headers = dict(connection.headers)
        socket = Socket(version, {"role": ROLE_OF_KEY[kind]}, headers, scope["transport"])
        self._opened(socket)
        try:
            await self._read(socket, receive)
        finally:
            self._closed(socket)

    def _opened(self, socket: Socket) -> None:
        self._sockets.add(socket)
        if self._quiet:
            self._quiet.cancel()
            self._quiet = None

    def _closed(self, socket: Socket) -> None:
        for channel in list(socket.channels.values()):
            self._hub.remove(channel)
        self._sockets.discard(socket)
        if not self._sockets:
            self._quiet = asyncio.get_running_loop().call_later(QUIET_SECONDS, self._stop_feed)

    def _stop_feed(self) -> None:
        task = asyncio.ensure_future(self._feed.stop())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self, socket: Socket, receive: Receive) -> None:
        events: deque[float] = deque()
        joins: deque[float] = deque()
        while (message := await receive())["type"] != "websocket.disconnect":
            try:
                frame = decode(socket.version, _content(message))
            except (ValueError, KeyError):
                continue  # as hosted: a malformed message is dropped, the connection stays
            if frame.event == "phx_join" and _limited(joins, JOINS_PER_SECOND):
                socket.reply(frame, "error", {"reason": "ClientJoinRateLimitReached: Too many joins per second"})
                continue
            channel = socket.channels.get(frame.topic)
            if channel and _limited(events, EVENTS_PER_SECOND):
                self._shut_down(channel, "Too many messages per second")
                continue
            try:
                await self._receive(socket, channel, frame)
            except (psycopg.Error, DatabaseUnavailable) as error:
                print(f"realtime: {error}", flush=True)
                if channel:
                    self._shut_down(channel, "Realtime was unable to connect to the project database")
            except Exception:  # noqa: BLE001 - as hosted: the message is dropped, the connection stays
                traceback.print_exc()

    async def _receive(self, socket: Socket, channel: Channel | None, frame: Frame) -> None:
        if frame.topic == "phoenix":
            socket.reply(frame, "ok", {})
        elif frame.event == "phx_join":
            await self._join(socket, frame)
        elif channel is None:
            socket.reply(frame, "error", {"reason": "unmatched topic"})
        elif frame.event == "phx_leave":
            channel.reply(frame.ref, "ok", {})
            self._leave(channel)
        elif frame.event == "access_token":
            await self._refresh(channel, frame.payload)
        elif frame.event == "broadcast":
            self._broadcast(channel, frame)
        elif frame.event == "presence":
            self._presence(channel, frame)

    # Joining and leaving ---------------------------------------------------------------------------------------------

    async def _join(self, socket: Socket, frame: Frame) -> None:
        payload = frame.payload if isinstance(frame.payload, dict) else {}
        name = frame.topic.removeprefix("realtime:")
        if before := socket.channels.get(frame.topic):
            self._leave(before)
        config = _object(payload, "config")
        broadcast, presence = _object(config, "broadcast"), _object(config, "presence")
        channel = Channel(
            socket,
            name,
            frame.join_ref or frame.ref,
            _is_on(config, "private"),
            socket.claims,
            None,
            sends_to_itself=_is_on(broadcast, "self"),
            acknowledges=_is_on(broadcast, "ack"),
            has_presence=_is_on(presence, "enabled"),
            presence_key=str(presence.get("key") or uuid4()),
        )
        listed = config.get("postgres_changes")
        requested = [each for each in listed if each is not None] if isinstance(listed, list) else []
        try:
            _check_topic(socket, frame.topic)
            self._take_token(channel, payload.get("user_token") or payload.get("access_token"), "InvalidJWTToken: ")
            if channel.is_private:
                await self._authorize(channel, "Unauthorized: ")
            replayed = await self._replayed(channel, broadcast.get("replay"))
            self._feed.start()
            with suppress(TimeoutError):
                async with asyncio.timeout(READY_SECONDS):
                    await self._feed.ready.wait()
        except Refusal as refusal:
            channel.reply(frame.ref, "error", {"reason": str(refusal)})
            return
        self._hub.add(channel)
        numbered = [{**(each if isinstance(each, dict) else {}), "id": identifier(each)} for each in requested]
        channel.reply(frame.ref, "ok", {"postgres_changes": numbered})
        if channel.has_presence and channel.may("presence", "read"):
            channel.push("presence_state", self._hub.presence_state(channel.key))
        for message in replayed:
            body = {"event": message["event"], "payload": message["payload"], "type": "broadcast"}
            channel.push("broadcast", body | {"meta": {"replayed": True, "id": message["id"]}})
        if requested:
            await self._subscribe(channel, requested)

    def _leave(self, channel: Channel) -> None:
        self._hub.remove(channel)
        channel.push("phx_close", {}, channel.join_ref)

    def _shut_down(self, channel: Channel, message: str) -> None:
        channel.system("system", "error", message)
        self._leave(channel)

    async def _subscribe(self, channel: Channel, requested: list[Any]) -> None:
        """All subscriptions of a channel, or none of them."""
        try:
            async with self._pool.connection("begin") as connection:

                async def query(text: str, *values: Any) -> list[dict[str, Any]]:
                    cursor = await connection.execute(text.encode(), values or None)
                    return await cursor.fetchall()

                found = [await checked(query, parse(each), channel.claims["role"]) for each in requested]
        except ValueError as error:
            channel.system("postgres_changes", "error", str(error))
            return
        channel.subscriptions = found
        channel.system("postgres_changes", "ok", "Subscribed to PostgreSQL")

    def _take_token(self, channel: Channel, token: object, prefix: str = "") -> None:
        """Without a user's token a channel has the rights of the API key."""
        if not isinstance(token, str) or not token or token.startswith("sb_"):
            return
        claims = self._verified(token, prefix)
        channel.claims, channel.token = claims, token
        if channel.timer:
            channel.timer.cancel()
        seconds = min(CONFIRM_SECONDS, max(0, claims["exp"] - time.time()))
        channel.timer = asyncio.get_running_loop().call_later(seconds, self._confirm, channel)

    def _verified(self, token: str, prefix: str) -> Claims:
        try:
            claims = self._tokens.verify(token, skew=0)
        except TokenError as error:
            if error.reason == "expired":
                raise Refusal(f"{prefix}Token has expired {_seconds_ago(token)} seconds ago") from None
            if error.reason == "malformed":
                raise Refusal(
                    "MalformedJWT: The token provided is not a valid JWT" if prefix else error.message
                ) from None
            raise Refusal("JwtSignatureError: Failed to validate JWT signature" if prefix else error.message) from None
        if not isinstance(claims.get("exp"), int) or not isinstance(claims.get("role"), str):
            raise Refusal(f"{prefix}Fields `role` and `exp` are required in JWT")
        return claims

    def _confirm(self, channel: Channel) -> None:
        try:
            channel.timer = None
            self._take_token(channel, channel.token)
        except Refusal as refusal:
            self._shut_down(channel, str(refusal))

    async def _refresh(self, channel: Channel, payload: Any) -> None:
        token = payload.get("access_token") if isinstance(payload, dict) else None
        if not isinstance(token, str) or token.startswith("sb_") or token == channel.token:
            return
        before = channel.rights
        try:
            self._take_token(channel, token)
            if channel.is_private:
                await self._authorize(channel, "")
                _check_revoked(before, channel)
        except Refusal as refusal:
            self._shut_down(channel, str(refusal))

    async def _authorize(self, channel: Channel, prefix: str) -> None:
        channel.rights = await self._rights(channel.name, channel.claims, channel.socket.headers)
        if not channel.may("broadcast", "read") and not channel.may("presence", "read"):
            message = f"You do not have permissions to read from this Channel topic: {channel.name}"
            raise Refusal(prefix + message)

    async def _rights(self, topic: str, claims: Claims, headers: dict[str, str]) -> Rights | None:
        """As the policies on realtime.messages have it; None if they fail."""
        try:
            async with self._pool.connection("begin; set local statement_timeout = '5s'") as connection:
                cursor = await connection.execute(
                    b"select realtime.channel_rights($1, $2, $3, $4) as rights",
                    [topic, claims.get("role", "anon"), compact(claims), compact(headers)],
                )
                [row] = await cursor.fetchall()
        except psycopg.Error as error:
            print(f"realtime: RlsPolicyError: {error}", flush=True)
            return None
        rights: Rights = row["rights"]
        return rights

    async def _replayed(self, channel: Channel, replay: Any) -> list[dict[str, Any]]:
        if replay is None:
            return []
        if not channel.is_private:
            raise Refusal("UnableToReplayMessages: Replay is not allowed for public channels")
        since, limit = (replay.get("since"), replay.get("limit", REPLAY_LIMIT)) if isinstance(replay, dict) else (0, 0)
        if not isinstance(since, int) or not isinstance(limit, int) or not 0 < since < 2**53:
            raise Refusal("UnableToReplayMessages: Replay params are not valid")
        async with self._pool.connection("begin; set local role supabase_realtime_admin") as connection:
            rows = await connection.execute(REPLAY.encode(), [channel.name, since, max(1, min(limit, REPLAY_LIMIT))])
            return list(reversed(await rows.fetchall()))

    # Messages of clients ---------------------------------------------------------------------------------------------

    def _broadcast(self, channel: Channel, frame: Frame) -> None:
        payload = frame.payload if isinstance(frame.payload, dict) else {}
        if not channel.may("broadcast", "write"):
            return
        size = len(frame.binary) if frame.binary is not None else len(compact(payload))
        if size > PAYLOAD_BYTES:
            if channel.acknowledges:
                channel.reply(frame.ref, "error", {"reason": "payload_size_exceeded"})
            return
        event = str(payload.get("event", ""))
        self._hub.broadcast(channel.key, event, payload.get("payload", {}), sender=channel, binary=frame.binary)
        if channel.acknowledges:
            channel.reply(frame.ref, "ok", {})

    def _presence(self, channel: Channel, frame: Frame) -> None:
        payload = frame.payload if isinstance(frame.payload, dict) else {}
        event = str(payload.get("event", "")).lower()
        state = payload.get("payload", {})
        if channel.presence_limit_reached():
            self._shut_down(channel, "Client presence rate limit exceeded")
        elif event == "untrack":
            self._hub.untrack(channel)
            channel.reply(frame.ref, "ok", {})
        elif event != "track" or not channel.may("presence", "write"):
            channel.reply(frame.ref, "error", {})
        elif not isinstance(state, dict):
            channel.reply(frame.ref, "error", {"reason": "Presence track payload must be a map"})
        elif len(compact(state)) > PAYLOAD_BYTES:
            self._shut_down(channel, "Track message size exceeded")
        else:
            self._hub.track(channel, state)
            channel.reply(frame.ref, "ok", {})

    # Over HTTP -------------------------------------------------------------------------------------------------------

    async def respond(self, request: Request) -> Response:
        steps = [unquote(step) for step in raw_path(request).removeprefix(PATH).split("/")]
        if steps == ["websocket"]:
            raise gateway_error(
                426, "upgrade_required", "This address is for WebSockets.", headers={"upgrade": "websocket"}
            )
        claims = self._callers.caller(request).claims
        match (request.method, *steps):
            case ("GET", "api", "ping"):
                return json_response({"message": "Success"})
            case ("POST", "api", "broadcast"):
                body = await read_object(request, _unprocessable)
                messages = body.get("messages")
            case ("POST", "api", "broadcast", topic, "events", event):
                body = await read_object(request, _unprocessable)
                private = request.query_params.get("private") == "true"
                messages = [{"topic": topic, "event": event, "payload": body, "private": private}]
            case _:
                raise gateway_error(404, "not_found", f"There is nothing at {raw_path(request)[:200]}.")
        if not isinstance(messages, list) or not messages:
            return json_response({"errors": {"messages": ["can't be blank"]}}, 422)
        wrong = [_errors(each) for each in messages]
        if any(wrong):
            return json_response({"errors": {"messages": wrong}}, 422)
        await self._broadcast_all(messages, claims, dict(request.headers))
        return Response(None, 202)

    async def _broadcast_all(self, messages: list[dict[str, Any]], claims: Claims, headers: dict[str, str]) -> None:
        """Messages to private channels that the caller may not write to are dropped, as hosted."""
        rights: dict[str, bool] = {}
        for message in messages:
            topic, private = message["topic"], message.get("private") is True
            if private and topic not in rights:
                found = await self._rights(topic, claims, headers)
                rights[topic] = claims.get("role") == "service_role" or bool(found and found["broadcast"]["write"])
            if not private or rights[topic]:
                self._hub.broadcast((private, topic), message["event"], message["payload"])

    def failure(self, error: Exception) -> ApiError | None:
        if isinstance(error, TokenError):
            return gateway_error(401, "unauthorized", error.message)
        return None


def _check_revoked(before: Rights | None, channel: Channel) -> None:
    if before and before["broadcast"]["read"] and not channel.may("broadcast", "read"):
        raise Refusal(f"You no longer have permission to read from this Channel topic: {channel.name}")


def _check_topic(socket: Socket, topic: str) -> None:
    if not topic.startswith("realtime:") or topic == "realtime:":
        raise Refusal("TopicNameRequired: You must provide a topic name")
    if len(socket.channels) >= CHANNELS_PER_CLIENT:
        raise Refusal("ChannelRateLimitReached: Too many channels")


def _errors(message: Any) -> dict[str, list[str]]:
    found = message if isinstance(message, dict) else {}
    errors = {name: ["can't be blank"] for name in ("topic", "event") if not isinstance(found.get(name), str)}
    if not isinstance(found.get("payload"), dict):
        errors["payload"] = ["can't be blank"]
    elif len(compact(found["payload"])) > PAYLOAD_BYTES:
        errors["payload"] = ["Payload size exceeds tenant limit"]
    return errors


def _unprocessable(message: str) -> ApiError:
    return gateway_error(422, "unprocessable", message)


def _content(message: Message) -> str | bytes:
    text: str | None = message.get("text")
    binary: bytes = message.get("bytes") or b""
    return text if text is not None else binary


def _object(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _is_on(value: dict[str, Any], name: str) -> bool:
    return value.get(name) is True or value.get(name) == "true"


def _limited(moments: deque[float], limit: int) -> bool:
    """Whether more than `limit` came within the last second."""
    now = time.monotonic()
    moments.append(now)
    while moments[0] < now - 1:
        moments.popleft()
    return len(moments) > limit


def _seconds_ago(token: str) -> int:
    import jwt  # noqa: PLC0415 - only for this message

    expires = jwt.decode(token, options={"verify_signature": False}).get("exp", 0)
    return max(0, int(time.time() - expires))


async def _deny(error: ApiError, send: Send) -> None:
    response = error_response(error)
    start = {"type": "websocket.http.response.start", "status": response.status_code, "headers": response.raw_headers}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": bytes(response.body)})
