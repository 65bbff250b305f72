"""The auth service at /auth/v1, which answers as GoTrue does."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit

import psycopg
from starlette.requests import Request
from starlette.responses import Response

from local.api.auth.admin import Admin
from local.api.auth.mail import Mail
from local.api.auth.pkce import PREFIX, begin, exchange, issue_code
from local.api.auth.sessions import Sessions, already_used, end_sessions
from local.api.auth.users import (
    change_email,
    checked_email,
    checked_metadata,
    checked_password,
    create_user,
    hash_of,
    is_uuid,
    merged,
    password_fits,
    presented,
    refuse_taken,
    shown,
    update_user,
    user_by,
    user_by_id,
)
from local.api.auth.users import is_banned as user_is_banned
from local.api.callers import Caller, Callers
from local.api.database import Database, Query, Row, literal
from local.api.errors import HOSTED, ApiError, auth_error
from local.api.http import JSON, json_response, raw_path, read_object
from local.api.settings import Settings
from local.api.tokens import Claims, TokenError, Tokens, bearer

PATH = "/auth/v1/"
REQUEST_SECONDS = 10
IN_ADDRESS = "%:/?#[]@!$&'()*+,;=~"
CHOSEN_STATUS = re.compile(r"PT[45]\d\d\Z", re.ASCII)
METHODS = {"recovery": "recovery", "magiclink": "magiclink"}
NOT_SERVED = re.compile(
    r"(factors|sso|saml|authorize|callback|passkeys|oauth|user/oauth|user/identities/authorize"
    r"|admin/(oauth|sso|audit|custom-providers|users/[^/]+/(factors|passkeys)))(/|\Z)"
)
FIRST_OF_TWO = "Confirmation link accepted. Please proceed to confirm link sent to the other email"
SETTINGS = {
    "external": {"anonymous_users": True, "email": True, "phone": False},
    "disable_signup": False,
    "mailer_autoconfirm": True,
    "phone_autoconfirm": False,
    "sms_provider": "",
    "saml_enabled": False,
    "passkeys_enabled": False,
}

Handler = Callable[[Request, Caller | None], Awaitable[Response]]


def bad_json(message: str) -> ApiError:
    return auth_error(400, "bad_json", message)


def _registered() -> ApiError:
    return auth_error(422, "user_already_exists", "User already registered")


def not_served(path: str) -> ApiError:
    return auth_error(501, "not_served", f"/auth/v1/{path} is not part of the local API. {HOSTED}")


class Auth:
    def __init__(self, database: Database, tokens: Tokens, callers: Callers, settings: Settings) -> None:
        self._database, self._tokens, self._callers = database, tokens, callers
        self._password_length = settings.password_length
        self._sessions = Sessions(tokens, settings.api_url, settings.jwt_expiry, settings.access_token_hook)
        self.mail = Mail(settings.api_url, settings.site_url, settings.redirect_urls)
        self._admin = Admin(database, self.mail, settings.password_length, bad_json)
        self._routes: dict[tuple[str, str], Handler] = {
            ("GET", "health"): self._health,
            ("GET", "settings"): self._settings,
            ("GET", ".well-known/jwks.json"): self._jwks,
            ("POST", "signup"): self._sign_up,
            ("POST", "token"): self._token,
            ("POST", "otp"): self._otp,
            ("POST", "magiclink"): self._otp,
            ("POST", "recover"): self._recover,
            ("POST", "resend"): self._resend,
            ("POST", "verify"): self._verify,
            ("GET", "verify"): self._verify_link,
            ("GET", "user"): self._user,
            ("PUT", "user"): self._change_user,
            ("GET", "reauthenticate"): self._reauthenticate,
            ("POST", "logout"): self._sign_out,
            ("POST", "invite"): self._admin_only,
        }
        self._known = {path for _, path in self._routes}
        self._key_set = bytes(json_response(tokens.jwks).body)

    async def respond(self, request: Request) -> Response:
        path = unquote(raw_path(request).removeprefix(PATH)).removesuffix("/")
        caller = None if self._is_open(request, path) else self._callers.caller(request)
        if NOT_SERVED.match(path):
            raise not_served(path)
        handler = self._routes.get((request.method, path))
        if not handler and path.startswith("admin/"):
            handler = self._admin_only
        elif not handler and path.startswith("user/identities/"):
            handler = self._unlink
        elif not handler and path in self._known:
            raise auth_error(405, "bad_method", f"{request.method} is not allowed here")
        elif not handler:
            raise auth_error(404, "not_found", f"There is nothing at /auth/v1/{path}")
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await handler(request, caller)
        except TimeoutError:
            message = "Processing this request timed out, please retry after a moment."
            raise auth_error(504, "request_timeout", message) from None
        except psycopg.Error as error:
            # As GoTrue: a trigger chooses the status by PTxxx, which clients of the newer form of errors do not see.
            code = error.sqlstate or ""
            if not CHOSEN_STATUS.match(code) or "x-supabase-api-version" in request.headers:
                raise
            diagnostic = error.diag
            about = {
                "message": diagnostic.message_primary,
                "hint": diagnostic.message_hint,
                "detail": diagnostic.message_detail,
            }
            body = {"code": code} | {name: text for name, text in about.items() if text}
            raise ApiError(int(code[2:]), body, {"x-sb-error-code": "unexpected_failure"}) from None

    @staticmethod
    def _is_open(request: Request, path: str) -> bool:
        """Links in mails are opened in browsers, and everyone may have the keys that verify signatures."""
        return path.startswith(".well-known/") or (request.method == "GET" and path == "verify")

    def failure(self, error: Exception) -> ApiError | None:
        """The response to an error of tokens or of the database."""
        if isinstance(error, TokenError):
            return _bad_token(error)
        if not isinstance(error, psycopg.Error):
            return None
        if error.sqlstate == "23505" and error.diag.constraint_name == "users_email_partial_key":
            return _registered()
        print(f"auth: {error} {error.diag.message_detail or ''}", flush=True)
        # 22…: what the client sent can't be stored. Otherwise a trigger or constraint of the project refused.
        if error.sqlstate is None or error.sqlstate.startswith("22"):
            return auth_error(400, "validation_failed", str(error))
        return auth_error(500, "unexpected_failure", "Database error saving new user")

    # About the service -----------------------------------------------------------------------------------------------

    async def _health(self, _request: Request, _caller: Caller | None) -> Response:
        return json_response({"version": "strive", "name": "GoTrue", "description": "Auth of the local stack"})

    async def _settings(self, _request: Request, _caller: Caller | None) -> Response:
        return json_response(SETTINGS)

    async def _jwks(self, _request: Request, _caller: Caller | None) -> Response:
        headers = {"content-type": JSON, "cache-control": "public, max-age=600"}
        return Response(self._key_set, 200, headers)

    # Signing up and in -----------------------------------------------------------------------------------------------

    async def _sign_up(self, request: Request, _caller: Caller | None) -> Response:
        body = await read_object(request, bad_json)
        metadata = checked_metadata(body.get("data"), "data")
        if body.get("phone"):
            raise auth_error(400, "phone_provider_disabled", "Phone signups are disabled")
        if not body.get("email") and not body.get("password"):
            async with self._database.as_auth() as query:
                user = await create_user(query, user_metadata=metadata)
                return json_response(await self._sessions.open(query, user, "anonymous", request))
        email = checked_email(body.get("email"))
        password = checked_password(body.get("password"), self._password_length)
        async with self._database.as_auth() as query:
            known = await user_by(query, "email", email)
            if known and known["email_confirmed_at"]:
                raise _registered()
            hashed = await hash_of(query, password)
            if known:
                changed = merged(known["raw_user_meta_data"], metadata)
                user = await update_user(
                    query,
                    known["id"],
                    encrypted_password=hashed,
                    email_confirmed_at="now",
                    raw_user_meta_data=changed,
                )
            else:
                user = await create_user(query, email, hashed=hashed, user_metadata=metadata, confirmed=True)
            session = await self._sessions.open(query, user, "password", request)
        return json_response(session)

    async def _token(self, request: Request, _caller: Caller | None) -> Response:
        grant = request.query_params.get("grant_type", "")
        if grant in {"id_token", "web3"}:
            raise not_served(f"token?grant_type={grant}")
        body = await read_object(request, bad_json)
        if grant not in {"password", "refresh_token", "pkce"}:
            raise auth_error(400, "invalid_credentials", "unsupported_grant_type")
        session: dict[str, Any] | None
        async with self._database.as_auth() as query:
            if grant == "password":
                session = await self._by_password(query, body, request)
            elif grant == "refresh_token":
                session = await self._sessions.refresh(query, body.get("refresh_token"))
            else:
                user, method = await exchange(query, body.get("auth_code"), body.get("code_verifier"))
                session = await self._sessions.open(query, user, method, request)
        # Ending the session of a stolen token was committed; only then is the request refused.
        if session is None:
            raise already_used()
        return json_response(session)

    async def _by_password(self, query: Query, body: dict[str, Any], request: Request) -> dict[str, Any]:
        if body.get("phone"):
            raise auth_error(400, "phone_provider_disabled", "Phone logins are disabled")
        user = await user_by(query, "email", str(body.get("email") or "").strip().lower().replace("\0", ""))
        if not await password_fits(query, user, body.get("password")) or not user:
            raise auth_error(400, "invalid_credentials", "Invalid login credentials")
        if not user["email_confirmed_at"]:
            raise auth_error(400, "email_not_confirmed", "Email not confirmed")
        return await self._sessions.open(query, user, "password", request)

    # Mail ------------------------------------------------------------------------------------------------------------

    async def _otp(self, request: Request, _caller: Caller | None) -> Response:
        body = await read_object(request, bad_json)
        if body.get("phone"):
            raise auth_error(400, "phone_provider_disabled", "Unsupported phone provider")
        email = checked_email(body.get("email"))
        metadata = checked_metadata(body.get("data"), "data")
        async with self._database.as_auth() as query:
            user = await user_by(query, "email", email)
            if not user and body.get("create_user") is False:
                raise auth_error(422, "otp_disabled", "Signups not allowed for otp")
            user = user or await create_user(query, email, user_metadata=metadata)
            prefix = await begin(query, user, "magiclink", body)
            back = request.query_params.get("redirect_to")
            await self.mail.send(query, user, "magiclink", redirect_to=back, prefix=prefix)
        return json_response({})

    async def _recover(self, request: Request, _caller: Caller | None) -> Response:
        """The same response whether the address is known or not."""
        body = await read_object(request, bad_json)
        if not body.get("email"):
            raise auth_error(400, "validation_failed", "Password recovery requires an email")
        email = checked_email(body.get("email"))
        async with self._database.as_auth() as query:
            if user := await user_by(query, "email", email):
                prefix = await begin(query, user, "recovery", body)
                back = request.query_params.get("redirect_to")
                await self.mail.send(query, user, "recovery", redirect_to=back, prefix=prefix)
        return json_response({})

    async def _resend(self, request: Request, _caller: Caller | None) -> Response:
        body = await read_object(request, bad_json)
        kind = body.get("type")
        if kind not in ("signup", "email_change"):
            message = "Missing one of these types: signup, email_change, sms, phone_change"
            raise auth_error(400, "validation_failed", message)
        email = checked_email(body.get("email"))
        async with self._database.as_auth() as query:
            # `email` is the user's present address in both cases.
            user = await user_by(query, "email", email)
            back = request.query_params.get("redirect_to")
            if user and kind == "signup" and not user["email_confirmed_at"]:
                await self.mail.send(query, user, "signup", redirect_to=back)
            elif user and kind == "email_change" and user["email_change"]:
                await self._mail_change(query, user, user["email_change"], back)
        return json_response({})

    async def _mail_change(self, query: Query, user: Row, email: str, back: str | None, prefix: str = "") -> None:
        """A change of the address is confirmed at both addresses, as hosted projects have it by default."""
        if user["email"]:
            await self.mail.send(query, user, "email_change_current", redirect_to=back, prefix=prefix)
        await self.mail.send(query, user, "email_change", to=email, redirect_to=back, prefix=prefix)

    async def _verify(self, request: Request, _caller: Caller | None) -> Response:
        body = await read_object(request, bad_json)
        kind = str(body.get("type") or "")
        if not kind:
            raise auth_error(400, "validation_failed", "Verify requires a verification type")
        hashed = self.mail.hashed(body)
        async with self._database.as_auth() as query:
            user, purpose = await self._redeemed(query, kind, hashed)
            session = await self._sessions.open(query, user, METHODS.get(purpose, "otp"), request) if user else None
        return json_response(session or {"code": "200", "msg": FIRST_OF_TWO})

    async def _verify_link(self, request: Request, _caller: Caller | None) -> Response:
        """A mailed link: redirects with a session in the fragment, or with a code for the client that requested it."""
        parameters = request.query_params
        token, kind = parameters.get("token") or parameters.get("token_hash") or "", parameters.get("type", "")
        back = urlsplit(self.mail.allowed(parameters.get("redirect_to")))
        try:
            if not kind or not token:
                missing = "a token or a token hash" if kind else "a verification type"
                raise auth_error(400, "validation_failed", f"Verify requires {missing}")
            async with self._database.as_auth() as query:
                user, purpose = await self._redeemed(query, kind, token)
                if not user:
                    back = back._replace(fragment=urlencode({"message": FIRST_OF_TWO}))
                elif token.startswith(PREFIX):
                    code = urlencode({"code": await issue_code(query, user)})
                    back = back._replace(query="&".join(part for part in (back.query, code) if part))
                else:
                    session = await self._sessions.open(query, user, METHODS.get(purpose, "otp"), request)
                    shared = {name: value for name, value in session.items() if name not in {"user", "weak_password"}}
                    back = back._replace(fragment=urlencode(shared | {"type": kind}))
        except (ApiError, psycopg.Error) as error:
            refusal = error if isinstance(error, ApiError) else self.failure(error)
            if not refusal or "error_code" not in refusal.body:
                raise
            about = {"error_code": refusal.body["error_code"], "error_description": refusal.body["msg"]}
            back = back._replace(fragment=urlencode({"error": "access_denied"} | about))
        return Response(None, 303, {"location": quote(urlunsplit(back), safe=IN_ADDRESS)})

    async def _redeemed(self, query: Query, kind: str, hashed: str) -> tuple[Row | None, str]:
        """Opening a mail proves that the address belongs to its reader. None: the other address is still to confirm."""
        user, purpose = await self.mail.redeem(query, kind, hashed)
        if purpose in {"email_change", "email_change_current"}:
            other = "email_change_token_current" if purpose == "email_change" else "email_change_token_new"
            if user[other]:
                await update_user(query, user["id"], email_change_confirm_status=1)
                return None, purpose
            return await change_email(query, user, user["email_change"], confirmed=True), purpose
        if not user["email_confirmed_at"]:
            user = await update_user(query, user["id"], email_confirmed_at="now")
        return user, purpose

    # The signed-in user ----------------------------------------------------------------------------------------------

    async def _present(self, query: Query, request: Request) -> tuple[Row, str | None]:
        """The user of the request and their session, as they are now and not as the token has them."""
        claims = self._user_claims(request)
        found = await user_by_id(query, claims["sub"])
        user = _refuse_absent(found, is_banned=bool(found and await user_is_banned(query, found)))
        session = claims.get("session_id")
        if session and not await query(
            "select id from auth.sessions where id::text = $1 and user_id = $2", str(session), user["id"]
        ):
            raise _ended()
        return user, str(session) if session else None

    def _user_claims(self, request: Request) -> Claims:
        token = bearer(request.headers.get("authorization"))
        if token is None or token.startswith("sb_"):
            raise auth_error(401, "no_authorization", "This endpoint requires a valid Bearer token")
        claims = self._callers.bearer(token).claims
        if not claims.get("sub"):
            raise auth_error(403, "bad_jwt", "invalid claim: missing sub claim")
        if not is_uuid(claims["sub"]):
            _refuse_absent(None, is_banned=False)
        return claims

    async def _user(self, request: Request, _caller: Caller | None) -> Response:
        claims = self._user_claims(request)
        user_id, session = str(claims["sub"]), claims.get("session_id")
        user_value, session_value = literal(user_id), literal(str(session))
        users, sessions, identities = await self._database.read_auth(
            f"select *, banned_until > now() as is_banned from auth.users where id = {user_value}",  # noqa: S608 - quoted
            f"select id from auth.sessions where user_id = {user_value} and id::text = {session_value}",  # noqa: S608 - as above
            f"select * from auth.identities where user_id = {user_value} order by created_at",  # noqa: S608 - as above
        )
        found = users[0] if users and not users[0]["is_sso_user"] else None
        user = _refuse_absent(found, is_banned=bool(found and found["is_banned"]))
        if session and not sessions:
            raise _ended()
        return json_response(presented(user, identities))

    async def _change_user(self, request: Request, _caller: Caller | None) -> Response:
        body = await read_object(request, bad_json)
        if body.get("phone"):
            raise auth_error(400, "phone_provider_disabled", "Phone signups are disabled")
        metadata = checked_metadata(body.get("data"), "data")
        async with self._database.as_auth() as query:
            user, session = await self._present(query, request)
            if body.get("app_metadata") is not None:
                raise auth_error(403, "not_admin", "Updating app_metadata requires admin privileges")
            changes: dict[str, Any] = {}
            if metadata:
                changes["raw_user_meta_data"] = merged(user["raw_user_meta_data"], metadata)
            if body.get("password") is not None:
                changes["encrypted_password"] = await self._new_password(query, user, body)
                await end_sessions(query, user["id"], session, "others" if session else "global")
            updated = await update_user(query, user["id"], **changes)
            if body.get("email"):
                updated = await self._new_email(query, updated, body, request)
            return json_response(await shown(query, updated))

    async def _new_password(self, query: Query, user: Row, body: dict[str, Any]) -> str:
        password = checked_password(body["password"], self._password_length)
        if user["is_anonymous"] and not body.get("email"):
            message = "Updating password of an anonymous user without an email or phone is not allowed"
            raise auth_error(422, "validation_failed", message)
        if user["encrypted_password"] and await password_fits(query, user, password):
            raise auth_error(422, "same_password", "New password should be different from the old password.")
        return await hash_of(query, password)

    async def _new_email(self, query: Query, user: Row, body: dict[str, Any], request: Request) -> Row:
        email = checked_email(body["email"])
        if email == user["email"]:
            return user
        await refuse_taken(query, email)
        if user["is_anonymous"]:
            return await change_email(query, user, email, confirmed=True)
        prefix = await begin(query, user, "email_change", body)
        user = await update_user(query, user["id"], email_change=email, email_change_confirm_status=0)
        await self._mail_change(query, user, email, request.query_params.get("redirect_to"), prefix)
        return await user_by_id(query, user["id"]) or user

    async def _unlink(self, request: Request, _caller: Caller | None) -> Response:
        """Every account here has at most one identity, and the last one is never removed."""
        if request.method != "DELETE":
            raise auth_error(405, "bad_method", f"{request.method} is not allowed here")
        async with self._database.as_auth() as query:
            await self._present(query, request)
        message = "User must have at least 1 identity after unlinking"
        raise auth_error(422, "single_identity_not_deletable", message)

    async def _reauthenticate(self, request: Request, _caller: Caller | None) -> Response:
        async with self._database.as_auth() as query:
            user, _ = await self._present(query, request)
            if not user["email"]:
                message = "Reauthentication requires the user to have an email or a phone number"
                raise auth_error(400, "validation_failed", message)
            await self.mail.send(query, user, "reauthentication")
        return json_response({})

    async def _sign_out(self, request: Request, _caller: Caller | None) -> Response:
        async with self._database.as_auth() as query:
            user, session = await self._present(query, request)
            await end_sessions(query, user["id"], session, request.query_params.get("scope") or "global")
        return Response(None, 204)

    async def _admin_only(self, request: Request, caller: Caller | None) -> Response:
        if not caller or caller.role != "service_role":
            raise auth_error(403, "not_admin", "User not allowed")
        return await self._admin.respond(request, unquote(raw_path(request).removeprefix(PATH)).removesuffix("/"))


def _refuse_absent(user: Row | None, *, is_banned: bool) -> Row:
    if not user:
        raise auth_error(403, "user_not_found", "User from sub claim in JWT does not exist")
    if is_banned:
        raise auth_error(403, "user_banned", "User is banned")
    return user


def _ended() -> ApiError:
    return auth_error(403, "session_not_found", "Session from session_id claim in JWT does not exist")


def _bad_token(error: TokenError) -> ApiError:
    found = {
        "expired": "token has invalid claims: token is expired",
        "malformed": f"token is malformed: {error.message}",
    }
    reason = found.get(error.reason, "token signature is invalid")
    return auth_error(403, "bad_jwt", f"invalid JWT: unable to parse or verify signature, {reason}")
