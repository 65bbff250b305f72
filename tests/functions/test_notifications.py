"""Notifications of an app and a server on the whole stack, through supabase-py."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from postgrest.exceptions import APIError

from supabase import Client, ClientOptions, create_client
from tests.conftest import Strive
from tests.support.platform import PASSWORD, connect


@pytest.fixture(scope="module")
def server(stack: Strive) -> Iterator[Client]:
    with httpx.Client(timeout=30) as http:
        options = ClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        yield create_client(stack.api_url, stack.secret_key, options=options)


@pytest.fixture
def reader(stack: Strive, server: Client) -> Iterator[Client]:
    """Somebody new in an organization of their own."""
    email = f"reader-{uuid4().hex[:12]}@strive.test"
    user = server.auth.admin.create_user({"email": email, "password": PASSWORD, "email_confirm": True}).user
    slug = email.partition("@")[0]
    org: Any = server.table("organizations").insert({"name": slug, "slug": slug}).execute().data[0]
    server.table("organization_members").insert(
        {"user_id": user.id, "organization_id": org["id"], "role": "OWNER"}
    ).execute()
    with httpx.Client(timeout=30) as http:
        client = connect(stack, http)
        client.auth.sign_in_with_password({"email": email, "password": PASSWORD})
        yield client


def notify(server: Client, reader: Client, count: int) -> None:
    (org,) = _rows(reader.rpc("my_organizations").execute())
    for n in range(count):
        sent = server.rpc(
            "notify_members",
            {"organization_id": org["id"], "type": "INFO", "title": f"No. {n}", "message": "Hello", "action_url": "/x"},
        ).execute()
        assert sent.data == 1


def unread(reader: Client) -> int:
    count: Any = reader.rpc("unread_notification_count").execute().data
    return int(count)


def test_a_reader_pages_counts_marks_and_deletes(server: Client, reader: Client) -> None:
    notify(server, reader, 5)
    assert unread(reader) == 5
    first: Any = reader.rpc("notifications_page", {"page_size": 2}).execute().data
    assert [row["title"] for row in first] == ["No. 4", "No. 3"]
    rest: Any = (
        reader.rpc(
            "notifications_page", {"before": first[-1]["created_at"], "before_id": first[-1]["id"], "unread_only": True}
        )
        .execute()
        .data
    )
    assert [row["title"] for row in rest] == ["No. 2", "No. 1", "No. 0"]
    assert reader.rpc("mark_notifications_read", {"ids": [first[0]["id"]]}).execute().data == 1
    assert unread(reader) == 4
    marked: Any = reader.table("notifications").update({"read": True}).eq("id", first[1]["id"]).execute().data
    assert [row["read"] for row in marked] == [True]
    assert unread(reader) == 3
    assert reader.rpc("delete_notifications", {"ids": [rest[0]["id"]]}).execute().data == 1
    assert reader.rpc("mark_all_notifications_read").execute().data == 2
    assert unread(reader) == 0
    left: Any = reader.table("notifications").select("title").eq("read", True).order("created_at").execute().data
    assert [row["title"] for row in left] == ["No. 0", "No. 1", "No. 3", "No. 4"]


def test_attack_change_notifications_of_another_user(server: Client, reader: Client, stack: Strive) -> None:
    notify(server, reader, 1)
    (sent,) = _rows(reader.table("notifications").select("*").execute())
    with httpx.Client(timeout=30) as http:
        stranger = connect(stack, http)
        stranger.auth.sign_in_with_password({"email": "member@acme.test", "password": PASSWORD})
        assert _rows(stranger.table("notifications").select("*").eq("id", sent["id"]).execute()) == []
        assert _rows(stranger.table("notifications").delete().eq("id", sent["id"]).execute()) == []
        for operation in ("mark_notifications_read", "delete_notifications"):
            with pytest.raises(APIError) as caught:
                stranger.rpc(operation, {"ids": [sent["id"]]}).execute()
            assert caught.value.code == "PT404"
        with pytest.raises(APIError) as caught:
            stranger.rpc(
                "notify_members",
                {"organization_id": sent["organization_id"], "type": "INFO", "title": "Pay", "message": "now"},
            ).execute()
        assert caught.value.code == "42501"
    with pytest.raises(APIError) as caught:
        reader.table("notifications").insert({"title": "x", "message": "x", "user_id": sent["user_id"]}).execute()
    assert caught.value.code == "42501"
    assert unread(reader) == 1


def _rows(answer: Any) -> list[dict[str, Any]]:
    return list(answer.data)
