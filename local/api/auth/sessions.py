"""Sessions: opened by signing in, prolonged by refresh tokens that can be used once each."""

import math
import secrets
import time
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.types.json import Jsonb
from starlette.requests import Request

from local.api.auth.users import NO_INSTANCE, is_banned, shown, update_user, user_by_id
from local.api.database import Query, Row, quoted
from local.api.errors import ApiError, auth_error, is_gone
from local.api.settings import Hook
from local.api.tokens import Claims, Tokens

REUSE_SECONDS = 10  # two tabs may refresh at once
HOOK_TIMEOUT_MS = 2000
REQUIRED_CLAIMS = ("aud", "exp", "iat", "sub", "email", "phone", "role", "aal", "session_id", "is_anonymous")


class Sessions:
    def __init__(self, tokens: Tokens, api_url: str, expiry: int, hook: Hook | None) -> None:
        self._tokens, self._issuer, self._expiry, self._hook = tokens, f"{api_url}/auth/v1", expiry, hook

    async def open(self, query: Query, user: Row, method: str, request: Request) -> dict[str, Any]:
        if await is_banned(query, user):
            raise auth_error(400, "user_banned", "User is banned")
        session = str(uuid4())
        await query(
            """insert into auth.sessions (id, user_id, created_at, updated_at, aal, user_agent, ip)
               values ($1, $2, now(), now(), 'aal1', $3, $4)""",
            session,
            user["id"],
            request.headers.get("user-agent"),
            request.client.host if request.client else None,
        )
        await query(
            """insert into auth.mfa_amr_claims (id, session_id, created_at, updated_at, authentication_method)
               values ($1, $2, now(), now(), $3)""",
            str(uuid4()),
            session,
            method,
        )
        signed_in = await update_user(query, user["id"], last_sign_in_at="now")
        token = await self._new_refresh_token(query, user["id"], session, None)
        return await self._response(query, signed_in, session, token, method)

    async def refresh(self, query: Query, token: object) -> dict[str, Any] | None:
        """The renewed session; None when a used token came back and the session was ended."""
        if not isinstance(token, str) or not token:
            raise auth_error(400, "validation_failed", "Refresh token is not valid")
        # The lock makes concurrent uses of one token wait for each other.
        rows = await query(
            f"""select id, token, session_id, revoked, user_id,
                  updated_at > now() - interval '{REUSE_SECONDS} seconds' as recent
                from auth.refresh_tokens where token = $1 for update""",  # noqa: S608 - our own number
            token,
        )
        user = await user_by_id(query, rows[0]["user_id"]) if rows else None
        if not user:
            raise auth_error(400, "refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found")
        if await is_banned(query, user):
            raise auth_error(400, "user_banned", "Invalid Refresh Token: User Banned")
        [found] = rows
        following = await (self._reused(query, found) if found["revoked"] else self._rotated(query, found))
        if following is None:
            return None
        session = found["session_id"]
        await query("update auth.sessions set refreshed_at = now(), updated_at = now() where id = $1", session)
        return await self._response(query, user, session, following, "token_refresh")

    async def _rotated(self, query: Query, found: Row) -> str:
        await query("update auth.refresh_tokens set revoked = true, updated_at = now() where id = $1", found["id"])
        return await self._new_refresh_token(query, found["user_id"], found["session_id"], found["token"])

    async def _reused(self, query: Query, found: Row) -> str | None:
        """Shortly after its use a token still gets its successor; later it was stolen, and the session ends."""
        session = found["session_id"]
        active = await query(
            """select token, parent from auth.refresh_tokens where session_id = $1 and not revoked
               order by id desc limit 1""",
            session,
        )
        if active and found["recent"] and active[0]["parent"] == found["token"]:
            return str(active[0]["token"])
        await query("update auth.refresh_tokens set revoked = true, updated_at = now() where session_id = $1", session)
        return None

    async def _new_refresh_token(self, query: Query, user_id: str, session: str, parent: str | None) -> str:
        token = secrets.token_urlsafe(9)
        await query(
            """insert into auth.refresh_tokens
                 (instance_id, token, user_id, session_id, parent, revoked, created_at, updated_at)
               values ($1, $2, $3, $4, $5, false, now(), now())""",
            NO_INSTANCE,
            token,
            user_id,
            session,
            parent,
        )
        return token

    async def _response(self, query: Query, user: Row, session: str, refresh_token: str, method: str) -> dict[str, Any]:
        claims = await self._claims(query, user, session, method)
        return {
            "access_token": self._tokens.sign(claims),
            "token_type": "bearer",
            "expires_in": claims["exp"] - claims["iat"],
            "expires_at": claims["exp"],
            "refresh_token": refresh_token,
            "user": await shown(query, user),
            "weak_password": None,
        }

    async def _claims(self, query: Query, user: Row, session: str, method: str) -> Claims:
        amr = await query(
            """select authentication_method as method, floor(extract(epoch from updated_at))::int as timestamp
               from auth.mfa_amr_claims where session_id = $1 order by updated_at desc""",
            session,
        )
        now = math.floor(time.time())
        claims = {
            "iss": self._issuer,
            "sub": user["id"],
            "aud": user["aud"] or "authenticated",
            "exp": now + self._expiry,
            "iat": now,
            "email": user["email"] or "",
            "phone": user["phone"] or "",
            "app_metadata": user["raw_app_meta_data"] or {},
            "user_metadata": user["raw_user_meta_data"] or {},
            "role": user["role"] or "authenticated",
            "aal": "aal1",
            "amr": amr,
            "session_id": session,
            "is_anonymous": user["is_anonymous"],
        }
        return await self._hooked(query, self._hook, claims, method) if self._hook else claims

    async def _hooked(self, query: Query, hook: Hook, claims: Claims, method: str) -> Claims:
        """The project's own function may change the claims, or refuse."""
        name = f"{quoted(hook.schema)}.{quoted(hook.name)}"
        event = {"user_id": claims["sub"], "claims": claims, "authentication_method": method}
        try:
            await query(f"set local statement_timeout = {HOOK_TIMEOUT_MS}")
            [row] = await query(f"select {name}($1::jsonb) as output", Jsonb(event))
            await query("set local statement_timeout to default")
        except psycopg.Error as error:
            if is_gone(error):
                raise
            print(f"access token hook {name}: {error}", flush=True)
            where = f"pg-functions://postgres/{hook.schema}/{hook.name}"
            raise auth_error(500, "unexpected_failure", f"Error running hook URI: {where}") from None
        output = row["output"] if isinstance(row["output"], dict) else {}
        if output.get("error"):
            refusal = output["error"] if isinstance(output["error"], dict) else {}
            status = refusal.get("http_code") or 500
            message = refusal.get("message") or "The access token hook refused."
            raise auth_error(status, "hook_refused", message)
        changed = output.get("claims")
        found = changed if isinstance(changed, dict) else {}
        missing = [claim for claim in REQUIRED_CLAIMS if found.get(claim) is None]
        if missing:
            message = f"output claims do not conform to the expected schema: (root): {', '.join(missing)} is required"
            raise auth_error(500, "unexpected_failure", message)
        return found


def already_used() -> ApiError:
    return auth_error(400, "refresh_token_already_used", "Invalid Refresh Token: Already Used")


async def end_sessions(query: Query, user_id: str, session: str | None, scope: str) -> None:
    """`scope`: the caller's own session, all but it, or all. Refresh tokens end with their session."""
    if scope not in {"local", "others", "global"}:
        raise auth_error(400, "validation_failed", f'Unsupported logout scope "{scope}"')
    # A token without a session ends all of them.
    chosen = {"local": "and id = $2", "others": "and id <> $2"}.get(scope, "") if session else ""
    values = (user_id, session) if chosen else (user_id,)
    await query(f"delete from auth.sessions where user_id = $1 {chosen}", *values)  # noqa: S608 - ours
