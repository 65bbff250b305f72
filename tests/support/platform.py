"""People of the whole stack, created for one test, with a session and a membership."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import psycopg

from supabase import Client, ClientOptions, create_client
from tests.conftest import Strive
from tests.support.serving import NO_TLS

PASSWORD = "strive-demo-1"
_serial = count(1)
# As the auth service makes one, but with a hash that is quick to check.
ACCOUNT = """
with made as (
  insert into auth.users (
    instance_id, id, aud, role, email, encrypted_password, email_confirmed_at, raw_app_meta_data, raw_user_meta_data,
    created_at, updated_at, confirmation_token, recovery_token, email_change, email_change_token_new
  ) values (
    '00000000-0000-0000-0000-000000000000', gen_random_uuid(), 'authenticated', 'authenticated', %(email)s,
    extensions.crypt(%(password)s, extensions.gen_salt('bf', 4)), now(), '{"provider": "email"}', '{}', now(), now(),
    '', '', '', ''
  ) returning id, email
)
insert into auth.identities (provider_id, user_id, identity_data, provider, last_sign_in_at, created_at, updated_at)
select id::text, id, jsonb_build_object('sub', id, 'email', email), 'email', now(), now(), now() from made
returning user_id
"""


@dataclass(frozen=True)
class Person:
    id: str
    email: str
    session: dict[str, Any]
    http: httpx.Client

    def call(self, function: str, **body: Any) -> httpx.Response:
        return self.http.post(f"/functions/v1/{function}", json=body)

    def rpc(self, name: str, **arguments: Any) -> httpx.Response:
        return self.http.post(f"/rest/v1/rpc/{name}", json=arguments)


def connect(stack: Strive, http: httpx.Client) -> Client:
    """As `create_client(url, key)`, but its connections are closed with the test."""
    options = ClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
    return create_client(stack.api_url, stack.publishable_key, options=options)


class Platform:
    def __init__(self, stack: Strive, opened: ExitStack) -> None:
        self.stack = stack
        self._opened = opened
        self._database = opened.enter_context(psycopg.connect(stack.db_url, autocommit=True))
        self.anonymous = self.client()
        self.server = self.client(stack.secret_key)

    def client(self, key: str | None = None, token: str | None = None, **headers: str) -> httpx.Client:
        sent = {"apikey": key or self.stack.publishable_key} | ({"authorization": f"Bearer {token}"} if token else {})
        return self._opened.enter_context(
            httpx.Client(base_url=self.stack.api_url, headers=sent | headers, timeout=60, verify=NO_TLS)
        )

    def person(self, role: str | None = None, member_of: UUID | None = None, org_role: str = "MEMBER") -> Person:
        email = f"person-{next(_serial)}-{uuid4().hex[:8]}@platform.test"
        who = str(self.sql(ACCOUNT, {"email": email, "password": PASSWORD})[0][0])
        if role:
            self.sql("update public.users set global_role = %s where id = %s", role, who)
        if member_of:
            self.sql(
                "insert into public.organization_members (user_id, organization_id, role) values (%s, %s, %s)",
                who,
                member_of,
                org_role,
            )
        session = self._sign_in(email).json()
        return Person(who, email, session, self.client(token=session["access_token"]))

    def organization(self) -> UUID:
        slug = f"org-{uuid4().hex[:12]}"
        (row,) = self.sql(
            "insert into public.organizations (name, slug, subscription_tier, subscription_status)"
            " values (%s, %s, 'GROWTH', 'ACTIVE') returning id",
            slug,
            slug,
        )
        return cast("UUID", row[0])

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        given = values[0] if values and isinstance(values[0], dict) else values or None
        cursor = self._database.execute(statement, given)
        return cursor.fetchall() if cursor.description else []

    def sign_in(self, person: Person) -> httpx.Response:
        return self._sign_in(person.email)

    def _sign_in(self, email: str) -> httpx.Response:
        credentials = {"email": email, "password": PASSWORD}
        return self.anonymous.post("/auth/v1/token?grant_type=password", json=credentials)

    def refresh(self, person: Person) -> httpx.Response:
        token = {"refresh_token": person.session["refresh_token"]}
        return self.anonymous.post("/auth/v1/token?grant_type=refresh_token", json=token)

    def log(self, target: object) -> list[dict[str, Any]]:
        """The audit log of a target, oldest first."""
        columns = "action, success, admin_id::text, acting_as_id::text, description, error, metadata"
        rows = self.sql(
            f"select {columns} from public.admin_action_logs where target_id = %s order by created_at, id", str(target)
        )
        return [dict(zip(columns.replace("::text", "").split(", "), row, strict=True)) for row in rows]


@contextmanager
def platform_of(stack: Strive) -> Iterator[Platform]:
    with ExitStack() as opened:
        yield Platform(stack, opened)
