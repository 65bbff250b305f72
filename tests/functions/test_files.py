"""Files on the whole stack, through supabase-py and, for requests it would not send, bare HTTP."""

import json
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from uuid import uuid4

import httpx
import pytest
from postgrest.exceptions import APIError
from storage3.exceptions import StorageApiError

from supabase import Client
from tests.conftest import Strive
from tests.functions.test_notifications import server as server  # noqa: PLC0414 - a fixture
from tests.support.platform import PASSWORD, connect

MIB = 2**20


@dataclass(frozen=True)
class Person:
    client: Client
    id: str
    org: str
    headers: dict[str, str]

    def path(self, file: str, org: str | None = None) -> str:
        return f"{org or self.org}/tasks/{uuid4()}/{file}"

    def row(self, path: str) -> dict[str, Any] | None:
        rows: Any = self.client.table("attachments").select("*").eq("file_path", path).execute().data
        return rows[0] if rows else None

    def announce(self, path: str, size: int) -> Any:
        org, kind, entity, name = path.split("/")
        row = {"organization_id": org, "entity_type": kind, "entity_id": entity, "file_name": name}
        row |= {"file_size": str(size), "mime_type": "text/plain", "file_path": path}
        return self.client.table("attachments").insert(dict(row)).execute()


@pytest.fixture(scope="module")
def people(stack: Strive, server: Client) -> Iterator[tuple[Person, Person]]:
    """The owners of two new organizations, on the plan FREE."""
    with httpx.Client(timeout=30) as first, httpx.Client(timeout=30) as second:
        yield sign_up(stack, server, first), sign_up(stack, server, second)


def sign_up(stack: Strive, server: Client, http: httpx.Client) -> Person:
    slug = f"files-{uuid4().hex[:12]}"
    email = f"{slug}@strive.test"
    user = server.auth.admin.create_user({"email": email, "password": PASSWORD, "email_confirm": True}).user
    made: Any = server.table("organizations").insert({"name": slug, "slug": slug}).execute().data
    server.table("organization_members").insert(
        {"user_id": user.id, "organization_id": made[0]["id"], "role": "OWNER"}
    ).execute()
    client = connect(stack, http)
    session = client.auth.sign_in_with_password({"email": email, "password": PASSWORD}).session
    assert session
    headers = {"apikey": stack.publishable_key, "authorization": f"Bearer {session.access_token}"}
    return Person(client, user.id, made[0]["id"], headers)


def sync(stack: Strive) -> dict[str, int]:
    answer = httpx.post(
        f"{stack.api_url}/functions/v1/sync-attachments", json={}, headers={"apikey": stack.secret_key}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    result: dict[str, int] = answer.json()["result"]
    return result


def test_file_and_row_are_created_and_deleted_together(people: tuple[Person, Person]) -> None:
    me, _ = people
    path = me.path("plan.txt")
    files = me.client.storage.from_("attachments")
    files.upload(path, b"hello", {"content-type": "text/plain"})
    row = me.row(path)
    assert row
    assert (row["file_size"], row["mime_type"], row["uploaded_by_id"]) == (5, "text/plain", me.id)
    files.upload(path, b"hello again", {"content-type": "text/plain", "upsert": "true"})
    assert (me.row(path) or {})["file_size"] == 11
    moved = me.path("moved.txt")
    files.move(path, moved)
    assert (me.row(path), (me.row(moved) or {})["id"]) == (None, row["id"])
    files.remove([moved])
    assert me.row(moved) is None


def test_next_job_run_deletes_the_file_of_a_deleted_row(people: tuple[Person, Person], stack: Strive) -> None:
    me, _ = people
    kept, deleted = me.path("kept.txt"), me.path("gone.txt")
    files = me.client.storage.from_("attachments")
    for path in (kept, deleted):
        files.upload(path, b"hello", {"content-type": "text/plain"})
    me.client.table("attachments").delete().eq("file_path", deleted).execute()
    assert sync(stack)["deleted"] >= 1
    with pytest.raises(StorageApiError, match="not found"):
        files.download(deleted)
    assert files.download(kept) == b"hello"
    assert me.row(kept)
    assert sync(stack)["deleted"] == 0


def test_an_upload_that_fails_leaves_neither_file_nor_row(people: tuple[Person, Person], stack: Strive) -> None:
    me, _ = people
    path = me.path("broken.bin")

    def broken() -> Iterator[bytes]:
        yield b"x" * 1000
        raise ConnectionError

    with pytest.raises(ConnectionError):
        httpx.post(
            f"{stack.api_url}/storage/v1/object/attachments/{path}",
            content=broken(),
            headers=me.headers | {"content-type": "a/b", "content-length": "5000"},
        )
    assert me.row(path) is None
    with pytest.raises(StorageApiError, match="not found"):
        me.client.storage.from_("attachments").download(path)
    # The place is free.
    me.client.storage.from_("attachments").upload(path, b"whole", {"content-type": "a/b"})
    assert (me.row(path) or {})["file_size"] == 5


def test_a_signed_address_is_good_for_an_hour(people: tuple[Person, Person], stack: Strive) -> None:
    me, other = people
    path = me.path("secret.txt")
    me.client.storage.from_("attachments").upload(path, b"secret", {"content-type": "text/plain"})
    signed = str(me.client.storage.from_("attachments").create_signed_url(path, 3600)["signedURL"])
    assert httpx.get(signed).content == b"secret"
    claims = signed.partition("token=")[2].split(".")[1]
    payload = json.loads(urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert payload["exp"] - payload["iat"] == 3600
    assert httpx.get(signed.replace("secret.txt", "other.txt")).status_code == 400
    with pytest.raises(StorageApiError, match="not found"):
        other.client.storage.from_("attachments").create_signed_url(path, 3600)
    assert httpx.get(f"{stack.api_url}/storage/v1/object/public/attachments/{path}").status_code == 400


def test_attack_reach_into_another_organizations_folder(people: tuple[Person, Person]) -> None:
    me, other = people
    path = me.path("mine.txt")
    me.client.storage.from_("attachments").upload(path, b"mine", {"content-type": "text/plain"})
    files = other.client.storage.from_("attachments")
    stolen = other.path("stolen.txt")
    for attempt in (
        lambda: files.download(path),
        lambda: files.copy(path, stolen),
        lambda: files.move(path, stolen),
        lambda: files.update(path, b"yours", {"content-type": "text/plain"}),
        lambda: files.upload(path, b"yours", {"content-type": "text/plain", "upsert": "true"}),
        lambda: files.upload(me.path("planted.txt"), b"yours", {"content-type": "text/plain"}),
        lambda: files.create_signed_upload_url(me.path("planted.txt")),
    ):
        with pytest.raises(StorageApiError):
            attempt()
    assert files.remove([path]) == []
    assert files.list(me.org) == []
    assert files.list("") == [entry for entry in files.list("") if entry["name"] == other.org]
    assert other.row(path) is None
    with pytest.raises(APIError) as caught:
        other.announce(me.path("planted.txt"), 1)
    assert caught.value.code == "42501"
    assert me.client.storage.from_("attachments").download(path) == b"mine"


@pytest.mark.parametrize(
    "steps",
    [
        "{mine}/tasks/{entity}/../../../{theirs}/x",
        "{mine}/tasks/{entity}/%2e%2e/x",
        "{mine}/../{theirs}/tasks/{entity}/x",
        "{mine}%2f..%2f{theirs}/tasks/{entity}/x",
        "{mine}/tasks/{entity}/..",
        "{mine}/tasks/{entity}/a%5cb",
        "{mine}/tasks/{entity}/%00",
        "{mine}//{entity}/x",
        "{mine}/x",
        "./{mine}/tasks/{entity}/x",
    ],
)
def test_attack_a_path_that_leads_elsewhere(people: tuple[Person, Person], stack: Strive, steps: str) -> None:
    me, other = people
    path = steps.format(mine=me.org, theirs=other.org, entity=uuid4())
    # Not by httpx, which would follow the dots itself.
    connection = HTTPConnection(stack.api_url.removeprefix("http://"), timeout=30)
    headers = me.headers | {"content-type": "text/plain"}
    connection.request("POST", f"/storage/v1/object/attachments/{path}", b"x", headers)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["error"] in {"InvalidKey", "Unauthorized"}) == (400, True)
    connection.close()


def test_bucket_limits_types_and_sizes(people: tuple[Person, Person]) -> None:
    me, other = people
    avatars = me.client.storage.from_("avatars")
    avatars.upload(f"{me.id}/face.png", b"png", {"content-type": "image/png"})
    for path, content, kind, why in (
        (f"{me.id}/page.html", b"<script>", "text/html", "mime type text/html is not supported"),
        (f"{me.id}/face.svg", b"<svg/>", "image/svg+xml", "not supported"),
        (f"{me.id}/large.png", b"x" * (5 * MIB + 1), "image/png", "exceeded the maximum"),
        (f"{other.id}/face.png", b"png", "image/png", "row-level security"),
    ):
        with pytest.raises(StorageApiError, match=why):
            avatars.upload(path, content, {"content-type": kind})
    with pytest.raises(StorageApiError, match="row-level security"):
        me.client.storage.from_("public-assets").upload("logo.png", b"png", {"content-type": "image/png"})
    assert [entry["name"] for entry in avatars.list(me.id)] == ["face.png"]
    assert avatars.list(other.id) == []


def test_storage_quota_is_402_before_upload_and_enforced_after(stack: Strive, server: Client) -> None:
    with httpx.Client(timeout=30) as http:
        me = sign_up(stack, server, http)
        for n in range(20):
            me.announce(me.path(f"{n}.txt"), 50 * MIB)
        with pytest.raises(APIError) as caught:
            me.announce(me.path("too-much.txt"), 50 * MIB)
        assert (caught.value.code, caught.value.message) == ("PT402", "Your plan allows no more storage bytes")
        assert "STARTER" in str(caught.value.hint)
        path = me.path("last.txt")
        me.announce(path, 24 * MIB)
        with pytest.raises(StorageApiError, match="allows no more storage"):
            me.client.storage.from_("attachments").upload(me.path("x.txt"), b"x", {"content-type": "text/plain"})
        me.client.storage.from_("attachments").upload(path, b"fits", {"content-type": "text/plain"})
        me.client.storage.from_("attachments").upload(me.path("x.txt"), b"x", {"content-type": "text/plain"})
