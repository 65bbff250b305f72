"""Realtime at /realtime/v1: the socket of supabase-js and supabase-py, and broadcasts over HTTP."""

import asyncio
import time
import traceback
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import unquote

import jwt
import psycopg
from psycopg.rows import dict_row
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from local.api.callers import ROLE_OF_KEY, Callers
from local.api.database import Pool, Row, literal
from local.api.errors import ApiError, DatabaseUnavailable, gateway_error
from local.api.http import BODY_LIMIT, beside_loop, error_response, json_response, raw_path, read_object
from local.api.realtime.channels import CHANNELS_PER_SOCKET, PAYLOAD_BYTES, Channel, Hub, Rights, Socket
from local.api.realtime.feed import LOGIN, Feed
from local.api.realtime.protocol import VERSIONS, Frame, compact, decode, is_on, json_text
from local.api.realtime.subscriptions import Subscription, identified, subscription
from local.api.tokens import Claims, TokenError, Tokens

PATH = "/realtime/v1/"
REPLAY_LIMIT = 25
YEAR_10000 = 253_402_300_800_000  # in milliseconds
REPLAY = """select set_config('role', 'supabase_realtime_admin', true);
select id::text, event, payload from realtime.messages
where topic = {topic} and private and extension = 'broadcast'
  and inserted_at >= to_timestamp({since} / 1000.0) at time zone 'utc'
order by inserted_at desc limit {limit}"""
RIGHTS = "select realtime.channel_rights($1, $2, $3, $4) as rights"


class Refusal(Exception):  # noqa: N818 - a response
    """Why a channel can't be joined or has to be left: the code and the words of the hosted service."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Realtime:
    def __init__(self, database_url: str, tokens: Tokens, callers: Callers) -> None:
        options = {"row_factory": dict_row, "cursor_factory": psycopg.AsyncRawCursor}
        self._pool = Pool(LOGIN, database_url, 4, options="-c timezone=UTC -c statement_timeout=5s", **options)
        self._tokens, self._callers = tokens, callers
        self._hub = Hub()
        self._feed = Feed(self._hub, database_url)

    async def close(self) -> None:
        await self._feed.close()
        await self._pool.close()

    # The socket ------------------------------------------------------------------------------------------------------

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, send)
        version = websocket.query_params.get("vsn", "1.0.0")
        try:
            role = ROLE_OF_KEY[self._callers.kind_of_key(websocket)]
            if version not in VERSIONS:
                raise gateway_error(400, "vsn", f"vsn is '{version}', not one of {', '.join(sorted(VERSIONS))}.")
        except ApiError as error:
            await websocket.send_denial_response(error_response(error))
            return
        await websocket.accept()
        socket = Socket(version, {"role": role}, dict(websocket.headers), scope["transport"])
        self._hub.sockets.add(socket)
        try:
            while not socket.is_refused and (message := await websocket.receive())["type"] != "websocket.disconnect":
                content = message.get("text") or message.get("bytes") or b""
                with suppress(ValueError):  # as hosted, what is no frame is dropped
                    await self._receive(socket, await beside_loop(len(content), partial(decode, version, content)))
            if socket.is_refused:
                await asyncio.sleep(0)  # after the reply
                await websocket.close()
        finally:
            self._hub.drop(socket)

    async def _receive(self, socket: Socket, frame: Frame) -> None:
        channel = socket.channels.get(frame.topic)
        try:
            if frame.event == "phx_join" and frame.topic.startswith("realtime:"):
                await self._join(socket, frame, channel)
            elif channel:
                await self._handle(channel, frame)
            elif frame.topic == "phoenix" or frame.event == "phx_leave":  # of a channel that the server has closed
                socket.reply(frame, "ok", {})
            else:
                socket.reply(frame, "error", {"reason": "unmatched topic"})
        except Refusal as refusal:
            self._refuse(socket, frame, refusal)
        except (psycopg.Error, DatabaseUnavailable) as error:
            print(f"realtime: {error}", flush=True)
            words = "Realtime was unable to connect to the project database"
            self._refuse(socket, frame, Refusal("UnableToConnectToProject", words))
        except Exception:  # noqa: BLE001 - one bad message must not end the connection of its client
            traceback.print_exc()

    def _refuse(self, socket: Socket, frame: Frame, refusal: Refusal) -> None:
        if frame.event == "phx_join":
            socket.reply(frame, "error", {"reason": f"{refusal.code}: {refusal}"})
            socket.is_refused = refusal.code == "ClientJoinRateLimitReached"
        elif channel := socket.channels.get(frame.topic):
            self._shut_down(channel, str(refusal))

    async def _handle(self, channel: Channel, frame: Frame) -> None:
        if channel.socket.messages.exceeded():
            raise Refusal("ClientMessageRateLimitReached", "Too many messages per second")
        match frame.event:
            case "phx_leave":
                channel.socket.reply(frame, "ok", {})
                self._leave(channel)
            case "access_token":
                await self._refresh(channel, frame.payload.get("access_token"))
            case "broadcast":
                self._broadcast(channel, frame)
            case "presence":
                channel.socket.reply(frame, *self._presence(channel, frame.payload))

    # Joining and leaving ---------------------------------------------------------------------------------------------

    async def _join(self, socket: Socket, frame: Frame, before: Channel | None) -> None:
        if before:
            self._leave(before)
        if frame.topic == "realtime:":
            raise Refusal("TopicNameRequired", "You must provide a topic name")
        if socket.joins.exceeded():
            raise Refusal("ClientJoinRateLimitReached", "Too many joins per second")
        if len(socket.channels) >= CHANNELS_PER_SOCKET:
            raise Refusal("ChannelRateLimitReached", "Too many channels")
        channel = Channel(socket, frame)
        await self._admit(channel, frame.payload.get("user_token") or frame.payload.get("access_token"))
        replayed = await self._replayed(channel)
        subscriptions, problem = await self._subscriptions(channel)
        await self._feed.open()
        self._hub.add(channel)
        numbered = [{**each, "id": identified(each)} for each in channel.changes]
        socket.reply(frame, "ok", {"postgres_changes": numbered})
        self._hub.show_presence(channel)
        for message in replayed:
            body = {"event": message["event"], "payload": message["payload"], "type": "broadcast"}
            channel.push("broadcast", body | {"meta": {"replayed": True, "id": message["id"]}})
            channel.replayed.add(message["id"])
        if is_on(channel.broadcast, "replication_ready"):
            channel.system("system", "ok", "Replication connection established")
        if problem:
            channel.system("postgres_changes", "error", problem)
        elif subscriptions:
            self._hub.subscribe(channel, subscriptions)
            channel.system("postgres_changes", "ok", "Subscribed to PostgreSQL")

    async def _subscriptions(self, channel: Channel) -> tuple[tuple[Subscription, ...], str]:
        """All that the channel asks for, or none of them and why."""
        role = channel.claims["role"]
        try:
            return tuple([await subscription(each, role, self._pool.read_rows) for each in channel.changes]), ""
        except ValueError as error:
            if channel.waits_for_changes:
                raise Refusal("RealtimeDisabledForConfiguration", str(error)) from None
            return (), str(error)

    def _leave(self, channel: Channel) -> None:
        self._hub.remove(channel)
        channel.push("phx_close", {}, channel.join_ref)

    def _shut_down(self, channel: Channel, message: str) -> None:
        channel.system("system", "error", message)
        self._leave(channel)

    # Authorization ---------------------------------------------------------------------------------------------------

    async def _admit(self, channel: Channel, token: Any) -> None:
        """Take the claims of a token, and the rights that policies give them. Without one the API key decides."""
        if isinstance(token, str) and token and not token.startswith("sb_"):
            channel.claims, channel.token = self._verified(token), token
        if channel.is_private:
            before, about = channel.rights, f"read from this Channel topic: {channel.name}"
            channel.rights = await self._rights(channel.name, channel.claims, channel.socket.headers)
            if not channel.may("broadcast", "read") and not channel.may("presence", "read"):
                raise Refusal("Unauthorized", f"You do not have permissions to {about}")
            if before and any(before[kind]["read"] and not channel.may(kind, "read") for kind in before):
                raise Refusal("Unauthorized", f"You no longer have permission to {about}")
        if channel.expiry:
            channel.expiry.cancel()
        if channel.token:
            seconds, message = channel.claims["exp"] - time.time(), "Token has expired 0 seconds ago"
            channel.expiry = asyncio.get_running_loop().call_later(seconds, self._shut_down, channel, message)

    async def _refresh(self, channel: Channel, token: Any) -> None:
        if not isinstance(token, str) or token.startswith("sb_") or token == channel.token:
            return
        await self._admit(channel, token)
        if channel.audience:
            self._hub.subscribe(channel, channel.audience.subscriptions)

    def _verified(self, token: str) -> Claims:
        try:
            claims = self._tokens.verify(token, skew=0)
        except TokenError as error:
            if error.reason == "expired":
                ended = jwt.decode(token, options={"verify_signature": False})["exp"]
                raise Refusal("InvalidJWTToken", f"Token has expired {int(time.time() - ended)} seconds ago") from None
            malformed = "MalformedJWT", "The token provided is not a valid JWT"
            unsigned = "JwtSignatureError", "Failed to validate JWT signature"
            raise Refusal(*malformed if error.reason == "malformed" else unsigned) from None
        if not isinstance(claims.get("exp"), int) or not isinstance(claims.get("role"), str):
            raise Refusal("InvalidJWTToken", "Fields `role` and `exp` are required in JWT")
        return claims

    async def _rights(self, topic: str, claims: Claims, headers: dict[str, str]) -> Rights | None:
        """As the policies on realtime.messages have it; None if they fail."""
        values = topic, claims.get("role", "anon"), compact(claims), compact(headers)
        try:
            [[row]] = await self._pool.read_rows(RIGHTS, values)
        except psycopg.Error as error:
            print(f"realtime: RlsPolicyError: {error}", flush=True)
            return None
        rights: Rights = row["rights"]
        return rights

    # Messages of clients ---------------------------------------------------------------------------------------------

    async def _replayed(self, channel: Channel) -> list[Row]:
        if "replay" not in channel.broadcast:
            return []
        if not channel.is_private:
            raise Refusal("UnableToReplayMessages", "Replay is not allowed for public channels")
        if not channel.may("broadcast", "read"):
            about = f"read from this Channel topic: {channel.name}"
            raise Refusal("Unauthorized", f"You do not have permissions to {about}")
        replay = channel.broadcast["replay"]
        if not isinstance(replay, dict):
            return []
        since, limit = replay.get("since"), replay.get("limit") or REPLAY_LIMIT
        if not isinstance(since, int) or not isinstance(limit, int) or not 0 <= since < YEAR_10000:
            raise Refusal("UnableToReplayMessages", "Replay params are not valid")
        limit = max(1, min(limit, REPLAY_LIMIT))
        query = REPLAY.format(topic=literal(channel.name), since=since, limit=limit)
        return (await self._pool.read_rows(query))[-1][::-1]

    def _broadcast(self, channel: Channel, frame: Frame) -> None:
        if not channel.may("broadcast", "write"):
            return
        payload = frame.payload["payload"]
        is_large = len(payload) > PAYLOAD_BYTES
        if not is_large:
            self._hub.broadcast(channel.key, str(frame.payload.get("event", "")), payload, sender=channel)
        if is_on(channel.broadcast, "ack"):
            answer = ("error", {"reason": "payload_size_exceeded"}) if is_large else ("ok", {})
            channel.socket.reply(frame, *answer)

    def _presence(self, channel: Channel, payload: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        event, state = str(payload.get("event", "")).lower(), payload.get("payload", {})
        if channel.presence_calls.exceeded():
            raise Refusal("ClientPresenceRateLimitReached", "Client presence rate limit exceeded")
        if event != "untrack" and (event != "track" or not channel.may("presence", "write")):
            return "error", {}
        if not isinstance(state, dict):
            return "error", {"reason": "Presence track payload must be a map"}
        if len(compact(state)) > PAYLOAD_BYTES:
            raise Refusal("PayloadSizeExceeded", "Track message size exceeded")
        self._hub.track(channel, state if event == "track" else None)
        return "ok", {}

    # Over HTTP -------------------------------------------------------------------------------------------------------

    async def respond(self, request: Request) -> Response:
        """Messages to private channels that the caller may not write to are dropped, as hosted."""
        steps = [unquote(step) for step in raw_path(request).removeprefix(PATH).split("/")]
        if steps == ["websocket"]:
            upgrade = {"upgrade": "websocket"}
            raise gateway_error(426, "upgrade_required", "This address is for WebSockets.", headers=upgrade)
        claims, headers = self._callers.caller(request).claims, dict(request.headers)
        if request.method != "POST" or steps[:2] != ["api", "broadcast"] or len(steps) not in {2, 5}:
            raise gateway_error(404, "not_found", f"There is nothing at {raw_path(request)[:200]}.")
        body = await read_object(request, lambda message: gateway_error(422, "unprocessable", message), BODY_LIMIT)
        messages: Any = body.get("messages")
        if len(steps) > 2:  # noqa: PLR2004 - more than api/broadcast: its topic and event are in the address
            private = request.query_params.get("private") == "true"
            messages = [{"topic": steps[2], "event": steps[4], "payload": body, "private": private}]
        messages = messages if isinstance(messages, list) else []
        size = int(request.headers.get("content-length", BODY_LIMIT))
        wrong, payloads = await beside_loop(size, partial(_checked, messages, size))
        if not wrong or any(wrong):
            return json_response({"errors": {"messages": wrong or ["can't be blank"]}}, 422)
        allowed = {(False, str(each["topic"])) for each in messages}
        for topic in {each["topic"] for each in messages if each.get("private") is True}:
            rights = await self._rights(topic, claims, headers)
            if claims.get("role") == "service_role" or (rights and rights["broadcast"]["write"]):
                allowed.add((True, topic))
        for each, payload in zip(messages, payloads, strict=True):
            key = each.get("private") is True, each["topic"]
            if key in allowed:
                self._hub.broadcast(key, each["event"], payload)
        return Response(None, 202)

    def failure(self, error: Exception) -> ApiError | None:
        return gateway_error(401, "unauthorized", error.message) if isinstance(error, TokenError) else None


def _checked(messages: list[Any], size: int) -> tuple[list[dict[str, list[str]]], list[str]]:
    """What is wrong with each message, and their payloads as JSON."""
    kinds, wrong, payloads = {"topic": str, "event": str, "payload": dict}, [], []
    for message in messages:
        found = message if isinstance(message, dict) else {}
        errors = {name: ["can't be blank"] for name, kind in kinds.items() if not isinstance(found.get(name), kind)}
        payloads.append(json_text(found.get("payload"), size))
        if not errors and len(payloads[-1]) > PAYLOAD_BYTES:
            errors["payload"] = ["Payload size exceeds tenant limit"]
        wrong.append(errors)
    return wrong, payloads
