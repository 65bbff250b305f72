"""Two new GROWTH agencies in a running Strive, and calls of their members."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from postgrest.exceptions import APIError

from supabase import Client
from tests.support.platform import PASSWORD

RUN = uuid4().hex


def email_of(name: str) -> str:
    return f"{name}-{RUN}@people.test"


def account(server: Client, name: str) -> str:
    user = server.auth.admin.create_user(
        {"email": email_of(name), "password": PASSWORD, "email_confirm": True}
    ).user  # fmt: skip
    return str(user.id)


def open_agencies(server: Client, people: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Ids by name, of both organizations and of their people: name → (organization, role there)."""
    made = {}
    for slug in ("agency", "rival"):
        row: Any = (
            server.table("organizations")
            .insert({"name": slug, "slug": f"{slug}-{uuid4()}", "subscription_tier": "GROWTH"})
            .execute()
            .data
        )
        made[slug] = str(row[0]["id"])
    for name, (organization, role) in people.items():
        made[name] = account(server, name)
        server.table("organization_members").insert(
            {"user_id": made[name], "organization_id": made[organization], "role": role}
        ).execute()
    return made


def call(client: Client, function: str, **arguments: Any) -> Any:
    return client.rpc(function, arguments).execute().data


def code(work: Callable[[], Any]) -> str | None:
    """The code of the refusal, or None."""
    try:
        work()
    except APIError as error:
        return error.code
    return None
