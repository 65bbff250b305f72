"""Accounts: rows of auth.users and auth.identities, and how the auth API shows them."""

import re
from typing import Any
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from local.api.database import Query, Row
from local.api.errors import ApiError, auth_error

LONGEST_PASSWORD = 72  # bcrypt reads no further
LONGEST_EMAIL = 255
EMAIL = re.compile(r"[^\s@\"(),:;<>\[\\\]]+@[^\s@]+\.[^\s@.]+\Z")
NO_INSTANCE = "00000000-0000-0000-0000-000000000000"
TIMES = (
    "email_confirmed_at",
    "phone_confirmed_at",
    "confirmed_at",
    "invited_at",
    "confirmation_sent_at",
    "recovery_sent_at",
    "email_change_sent_at",
    "last_sign_in_at",
    "banned_until",
    "deleted_at",
)
NEVER = "0001-01-01T00:00:00Z"


async def user_by(query: Query, column: str, value: object) -> Row | None:
    rows = await query(f"select * from auth.users where {column} = $1 and not is_sso_user", value)  # noqa: S608 - our own column
    return rows[0] if rows else None


async def user_by_id(query: Query, user_id: object) -> Row | None:
    return await user_by(query, "id", user_id) if is_uuid(user_id) else None


def is_uuid(text: object) -> bool:
    try:
        return str(UUID(str(text))) == str(text).lower()
    except ValueError:
        return False


def checked_email(text: object) -> str:
    email = str(text or "").strip().lower()
    if len(email) <= LONGEST_EMAIL and EMAIL.match(email):
        return email
    raise auth_error(400, "validation_failed", "Unable to validate email address: invalid format")


def checked_password(password: object, shortest: int) -> str:
    if not isinstance(password, str) or not password:
        raise auth_error(400, "validation_failed", "Signup requires a valid password")
    if len(password.encode()) > LONGEST_PASSWORD:
        raise auth_error(400, "validation_failed", f"Password cannot be longer than {LONGEST_PASSWORD} characters")
    if len(password) < shortest:
        message = f"Password should be at least {shortest} characters."
        raise auth_error(422, "weak_password", message, weak_password={"reasons": ["length"]})
    return password


def checked_metadata(value: object, name: str) -> dict[str, Any]:
    if value is None or isinstance(value, dict):
        return value or {}
    raise auth_error(400, "bad_json", f"Could not parse request body as JSON: {name} must be an object")


async def hash_of(query: Query, password: str) -> str:
    """Bcrypt runs in the database: the event loop stays free, and hosted projects store the same kind of hash."""
    [row] = await query("select extensions.crypt($1, extensions.gen_salt('bf', 10)) as hash", password)
    return str(row["hash"])


async def password_fits(query: Query, user: Row | None, password: object) -> bool:
    """Takes as long for an unknown user, or one without a password, as for a known one."""
    stored = (user or {}).get("encrypted_password") or None
    text = password if isinstance(password, str) else ""
    if "\0" in text:
        return False
    [row] = await query(
        "select extensions.crypt($1, coalesce($2, extensions.gen_salt('bf', 10))) = $2 as fits", text, stored
    )
    return row["fits"] is True


async def create_user(
    query: Query,
    email: str | None = None,
    *,
    user_id: str | None = None,
    confirmed: bool = False,
    invited: bool = False,
    hashed: str = "",
    user_metadata: dict[str, Any] | None = None,
    app_metadata: dict[str, Any] | None = None,
    aud: str = "authenticated",
    role: str = "authenticated",
) -> Row:
    """An account without an address is anonymous."""
    user_id = user_id or str(uuid4())
    provider = {"provider": "email", "providers": ["email"]} if email else {}
    claimed = _claimed(user_id, email, confirmed=confirmed) if email else {}
    row = {
        "instance_id": NO_INSTANCE,
        "id": user_id,
        "email": email,
        "aud": aud,
        "role": role,
        "encrypted_password": hashed,
        "email_confirmed_at": "now" if email and confirmed else None,
        "raw_app_meta_data": Jsonb(provider | (app_metadata or {})),
        "raw_user_meta_data": Jsonb((user_metadata or {}) | claimed),
        "is_anonymous": email is None,
        "invited_at": "now" if invited else None,
        "created_at": "now",
        "updated_at": "now",
    }
    user = await _insert(query, "auth.users", row)
    if email:
        await _create_identity(query, user_id, email, confirmed=confirmed)
    return user


async def _create_identity(query: Query, user_id: str, email: str, *, confirmed: bool) -> None:
    row = {
        "provider": "email",
        "provider_id": user_id,
        "user_id": user_id,
        "identity_data": Jsonb(_claimed(user_id, email, confirmed=confirmed)),
        "last_sign_in_at": "now",
        "created_at": "now",
        "updated_at": "now",
    }
    await _insert(query, "auth.identities", row)


def _claimed(user_id: str, email: str, *, confirmed: bool) -> dict[str, Any]:
    return {"sub": user_id, "email": email, "email_verified": confirmed, "phone_verified": False}


async def _insert(query: Query, table: str, row: Row) -> Row:
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    [stored] = await query(
        f"insert into {table} ({', '.join(row)}) values ({places}) returning *",  # noqa: S608 - our own names
        *row.values(),
    )
    return stored


async def update_user(query: Query, user_id: str, **changes: Any) -> Row:
    """Set columns of one user; their names are ours, never the client's."""
    assigned = "".join(f", {name} = ${number}" for number, name in enumerate(changes, 2))
    [user] = await query(
        f"update auth.users set updated_at = now(){assigned} where id = $1 returning *",  # noqa: S608 - our own names
        user_id,
        *changes.values(),
    )
    return user


def merged(before: dict[str, Any] | None, changes: dict[str, Any]) -> Jsonb:
    """Metadata is merged key by key; null removes a key."""
    return Jsonb({name: value for name, value in ((before or {}) | changes).items() if value is not None})


async def change_email(query: Query, user: Row, email: str, *, confirmed: bool) -> Row:
    """The address belongs to the user from now on; an anonymous user becomes a permanent one."""
    if email == user["email"]:
        return user
    await refuse_taken(query, email)
    user_id = user["id"]
    claimed = _claimed(user_id, email, confirmed=confirmed)
    identity = await query("select id from auth.identities where user_id = $1 and provider = 'email'", user_id)
    if identity:
        await query(
            "update auth.identities set identity_data = identity_data || $2, updated_at = now() where id = $1",
            identity[0]["id"],
            Jsonb(claimed),
        )
    else:
        await _create_identity(query, user_id, email, confirmed=confirmed)
    return await update_user(
        query,
        user_id,
        email=email,
        is_anonymous=False,
        email_confirmed_at="now" if confirmed else None,
        email_change="",
        email_change_token_new="",
        email_change_token_current="",
        email_change_confirm_status=0,
        raw_app_meta_data=merged(user["raw_app_meta_data"], {"provider": "email", "providers": ["email"]}),
        raw_user_meta_data=merged(user["raw_user_meta_data"], claimed),
    )


async def refuse_taken(query: Query, email: str) -> None:
    if await user_by(query, "email", email):
        raise email_taken()


def email_taken() -> ApiError:
    return auth_error(422, "email_exists", "A user with this email address has already been registered")


async def is_banned(query: Query, user: Row) -> bool:
    if not user["banned_until"]:
        return False
    [row] = await query("select $1::timestamptz > now() as banned", user["banned_until"])
    return bool(row["banned"])


async def shown(query: Query, user: Row) -> dict[str, Any]:
    return (await all_shown(query, [user]))[0]


async def all_shown(query: Query, users: list[Row]) -> list[dict[str, Any]]:
    ids = [user["id"] for user in users]
    rows = await query("select * from auth.identities where user_id = any($1::uuid[]) order by created_at", ids)
    return [presented(user, [row for row in rows if row["user_id"] == user["id"]]) for user in users]


def presented(user: Row, identities: list[Row]) -> dict[str, Any]:
    return {
        "id": user["id"],
        "aud": user["aud"] or "authenticated",
        "role": user["role"] or "authenticated",
        "email": user["email"] or "",
        "phone": user["phone"] or "",
        **{name: iso(user[name]) for name in TIMES if user[name]},
        "created_at": iso(user["created_at"]) or NEVER,
        "updated_at": iso(user["updated_at"]) or NEVER,
        **({"new_email": user["email_change"]} if user["email_change"] else {}),
        "app_metadata": user["raw_app_meta_data"] or {},
        "user_metadata": user["raw_user_meta_data"] or {},
        "identities": [
            {
                "identity_id": each["id"],
                "id": each["provider_id"],
                "user_id": each["user_id"],
                "identity_data": each["identity_data"],
                "provider": each["provider"],
                "last_sign_in_at": iso(each["last_sign_in_at"]),
                "created_at": iso(each["created_at"]) or NEVER,
                "updated_at": iso(each["updated_at"]) or NEVER,
                "email": each["email"],
            }
            for each in identities
        ],
        "is_anonymous": user["is_anonymous"],
    }


def iso(text: str | None) -> str | None:
    """`2026-11-20 08:06:47.37376+00` as Postgres prints it in UTC becomes 2026-11-20T08:06:47.37376Z."""
    return text.replace(" ", "T").removesuffix("+00") + ("Z" if text.endswith("+00") else "") if text else None
