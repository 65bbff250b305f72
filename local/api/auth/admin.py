"""What the secret key may do with accounts: /admin/users, /admin/generate_link, /invite."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from local.api.auth.mail import Mail
from local.api.auth.sessions import end_sessions
from local.api.auth.users import (
    all_shown,
    change_email,
    checked_email,
    checked_metadata,
    checked_password,
    create_user,
    email_taken,
    hash_of,
    is_uuid,
    merged,
    shown,
    update_user,
    user_by,
    user_by_id,
)
from local.api.database import Database, Query, Row
from local.api.errors import ApiError, auth_error
from local.api.http import json_response, read_object

HIGHEST_PAGE_SIZE = 1000
LONGEST_DURATION = 100
SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
DURATION_PART = re.compile(r"(\d{1,10}(?:\.\d{1,9})?)(ns|us|ms|s|m|h)")
PAGE = re.compile(r"[1-9]\d{0,8}\Z")


class Admin:
    def __init__(
        self, database: Database, mail: Mail, password_length: int, refused: Callable[[str], ApiError]
    ) -> None:
        self._database, self._mail, self._password_length, self._refused = database, mail, password_length, refused

    async def respond(self, request: Request, path: str) -> Response:
        match (request.method, *path.split("/")):
            case ("POST", "invite"):
                answer = await self._invite(request)
            case ("POST", "admin", "generate_link"):
                answer = await self._generate_link(request)
            case ("GET", "admin", "users"):
                return await self._list(request)
            case ("POST", "admin", "users"):
                answer = await self._create(request)
            case ("GET" | "PUT" | "DELETE" as method, "admin", "users", user_id):
                answer = await self._one(request, method, user_id)
            case (_, "admin", "users") | (_, "admin", "users", _) | (_, "admin", "generate_link"):
                raise auth_error(405, "bad_method", f"{request.method} is not allowed here")
            case _:
                raise auth_error(404, "not_found", f"There is nothing at /auth/v1/{path}")
        return json_response(answer)

    async def _one(self, request: Request, method: str, user_id: str) -> dict[str, Any]:
        if not is_uuid(user_id):
            raise auth_error(404, "validation_failed", "user_id must be an UUID")
        body = await read_object(request, self._refused) if method != "GET" else {}
        async with self._database.as_auth() as query:
            user = await user_by_id(query, user_id)
            if not user:
                raise auth_error(404, "user_not_found", "User not found")
            if method == "GET":
                return await shown(query, user)
            if method == "PUT":
                return await self._update(query, user, body)
            await _remove(query, user, soft=body.get("should_soft_delete") is True)
            return {}

    async def _list(self, request: Request) -> Response:
        page = _positive(request, "page", 1)
        size = min(_positive(request, "per_page", 50), HIGHEST_PAGE_SIZE)
        async with self._database.as_auth() as query:
            [row] = await query("select count(*) from auth.users")
            found = await query(
                "select * from auth.users order by created_at desc, id limit $1 offset $2", size, (page - 1) * size
            )
            users = await all_shown(query, found)
        total = row["count"]
        last = max(1, -(-total // size))
        links = [(page + 1, "next"), (last, "last")] if page < last else [(last, "last")]
        link = ", ".join(f'</admin/users?page={to}&per_page={size}>; rel="{rel}"' for to, rel in links)
        headers = {"x-total-count": str(total), "link": link}
        return json_response({"users": users, "aud": "authenticated"}, headers=headers)

    async def _create(self, request: Request) -> dict[str, Any]:
        body = await read_object(request, self._refused)
        if not body.get("email"):
            raise auth_error(400, "validation_failed", "Cannot create a user without either an email or phone")
        email = checked_email(body["email"])
        if "id" in body and not is_uuid(body["id"]):
            raise auth_error(400, "validation_failed", "ID must conform to the uuid v4 format")
        password = checked_password(body["password"], self._password_length) if body.get("password") else None
        banned_until = _banned_until(body["ban_duration"]) if body.get("ban_duration") else None
        async with self._database.as_auth() as query:
            if await user_by(query, "email", email):
                raise email_taken()
            user = await create_user(
                query,
                email,
                user_id=body.get("id"),
                confirmed=body.get("email_confirm") is True,
                hashed=await hash_of(query, password) if password else str(body.get("password_hash") or ""),
                user_metadata=checked_metadata(body.get("user_metadata"), "user_metadata"),
                app_metadata=checked_metadata(body.get("app_metadata"), "app_metadata"),
                aud=str(body.get("aud") or "authenticated"),
                role=str(body.get("role") or "authenticated"),
            )
            if banned_until:
                user = await update_user(query, user["id"], banned_until=banned_until)
            return await shown(query, user)

    async def _update(self, query: Query, user: Row, body: dict[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {name: str(body[name]) for name in ("role", "aud") if body.get(name)}
        if body.get("password"):
            password = checked_password(body["password"], self._password_length)
            changes["encrypted_password"] = await hash_of(query, password)
            await end_sessions(query, user["id"], None, "global")
        elif body.get("password_hash"):
            changes["encrypted_password"] = str(body["password_hash"])
        for name, column in (("app_metadata", "raw_app_meta_data"), ("user_metadata", "raw_user_meta_data")):
            if body.get(name):
                changes[column] = merged(user[column], checked_metadata(body[name], name))
        if body.get("email_confirm") is True and not user["email_confirmed_at"]:
            changes["email_confirmed_at"] = "now"
        if body.get("ban_duration"):
            changes["banned_until"] = _banned_until(body["ban_duration"])
        changed = await update_user(query, user["id"], **changes)
        if body.get("email"):
            changed = await change_email(query, changed, checked_email(body["email"]), confirmed=True)
        return await shown(query, changed)

    async def _invite(self, request: Request) -> dict[str, Any]:
        body = await read_object(request, self._refused)
        email = checked_email(body.get("email"))
        async with self._database.as_auth() as query:
            user = await self._invited(query, email, checked_metadata(body.get("data"), "data"))
            await self._mail.send(query, user, "invite", redirect_to=request.query_params.get("redirect_to"))
            return await shown(query, await user_by_id(query, user["id"]) or user)

    async def _invited(self, query: Query, email: str, metadata: dict[str, Any]) -> Row:
        known = await user_by(query, "email", email)
        if known and known["email_confirmed_at"]:
            raise email_taken()
        return known or await create_user(query, email, invited=True, user_metadata=metadata)

    async def _generate_link(self, request: Request) -> dict[str, Any]:
        body = await read_object(request, self._refused)
        email, kind = checked_email(body.get("email")), str(body.get("type"))
        back = request.query_params.get("redirect_to") or body.get("redirect_to")
        purpose, to = kind, email
        async with self._database.as_auth() as query:
            user = await self._linked(query, kind, email, body)
            if kind in {"email_change_current", "email_change_new"}:
                changed = checked_email(body.get("new_email"))
                await update_user(query, user["id"], email_change=changed)
                if kind == "email_change_new":
                    purpose, to = "email_change", changed
            link = await self._mail.link(
                query, user, purpose, to=to, redirect_to=back if isinstance(back, str) else None
            )
            account = await shown(query, await user_by_id(query, user["id"]) or user)
            return account | link | {"verification_type": kind}

    async def _linked(self, query: Query, kind: str, email: str, body: dict[str, Any]) -> Row:
        known = await user_by(query, "email", email)
        metadata = checked_metadata(body.get("data"), "data")
        match kind:
            case "recovery" | "email_change_current" | "email_change_new":
                if not known:
                    raise auth_error(404, "user_not_found", "User with this email not found")
                return known
            case "magiclink":
                return known or await create_user(query, email, user_metadata=metadata)
            case "invite":
                return await self._invited(query, email, metadata)
            case "signup":
                if known:
                    raise email_taken()
                password = checked_password(body.get("password"), self._password_length)
                return await create_user(query, email, user_metadata=metadata, hashed=await hash_of(query, password))
        raise auth_error(400, "validation_failed", f"Invalid email action link type requested: {kind}")


async def _remove(query: Query, user: Row, *, soft: bool) -> None:
    if not soft:
        await query("delete from auth.users where id = $1", user["id"])
        return
    await end_sessions(query, user["id"], None, "global")
    await query("delete from auth.identities where user_id = $1", user["id"])
    nothing = merged({}, {})
    await update_user(
        query,
        user["id"],
        email=None,
        phone=None,
        encrypted_password="",
        raw_app_meta_data=nothing,
        raw_user_meta_data=nothing,
        deleted_at="now",
    )


def _banned_until(text: object) -> str | None:
    """Durations as Go writes them: 24h, 1h30m; `none` ends a ban."""
    if text == "none":
        return None
    parts = DURATION_PART.findall(str(text)[:LONGEST_DURATION])
    if not parts or "".join(count + unit for count, unit in parts) != text:
        raise auth_error(400, "validation_failed", f"invalid format for ban duration: {text}")
    try:
        seconds = sum(float(count) * SECONDS[unit] for count, unit in parts)
        return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    except OverflowError:
        raise auth_error(400, "validation_failed", f"ban duration is too long: {text}") from None


def _positive(request: Request, name: str, otherwise: int) -> int:
    text = request.query_params.get(name) or str(otherwise)
    if not PAGE.match(text):
        raise auth_error(400, "validation_failed", f"Bad Pagination Parameters: {name} is '{text}'")
    return int(text)
