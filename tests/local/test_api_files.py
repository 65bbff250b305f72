"""Files as in the Storage API, through supabase-py or over HTTP."""

import hashlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from storage3.exceptions import StorageApiError

from tests.local.api import Api

POLICIES = """
create policy test_read on storage.objects for select to authenticated
  using (bucket_id like 'test-%' and (storage.foldername(name))[1] = (select auth.uid())::text);
create policy test_add on storage.objects for insert to authenticated
  with check (bucket_id like 'test-%' and (storage.foldername(name))[1] = (select auth.uid())::text);
create policy test_change on storage.objects for update to authenticated
  using (bucket_id like 'test-%' and (storage.foldername(name))[1] = (select auth.uid())::text);
create policy test_remove on storage.objects for delete to authenticated
  using (bucket_id like 'test-%' and owner_id = (select auth.uid())::text);
"""

Person = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def _policies(api: Api) -> None:
    api.sql(POLICIES)


@pytest.fixture
def bucket(api: Api) -> str:
    return make_bucket(api)


def make_bucket(api: Api, **settings: Any) -> str:
    name = f"test-{uuid4()}"
    answer = api.admin().post("/storage/v1/bucket", json={"id": name, "name": name} | settings)
    assert answer.status_code == 200, answer.text
    return name


@pytest.fixture(scope="module")
def person(api: Api) -> Person:
    return api.sign_up("filer")


@pytest.fixture
def files(api: Api, person: Person) -> httpx.Client:
    return api.http(token=person["access_token"])


@pytest.fixture
def folder(person: Person) -> str:
    return str(person["user"]["id"])


def put(client: httpx.Client, path: str, content: bytes = b"hello", **headers: str) -> httpx.Response:
    return client.post(f"/storage/v1/object/{path}", content=content, headers={"content-type": "text/plain"} | headers)


def refused(answer: httpx.Response) -> tuple[str, str]:
    assert answer.status_code == 400, answer.text
    return answer.json()["statusCode"], answer.json()["error"]


def blobs(api: Api) -> set[Path]:
    return {path for path in (api.home / "storage").rglob("*") if path.is_file()}


# Storing and fetching ------------------------------------------------------------------------------------------------


def test_supabase_py_keeps_files(api: Api, bucket: str) -> None:
    client = api.supabase()
    email = f"{uuid4()}@api.test"
    user = client.auth.sign_up({"email": email, "password": "correct-horse-1"}).user
    assert user
    store = client.storage.from_(bucket)
    path = f"{user.id}/reports/Q1 (final).txt"
    uploaded = store.upload(
        path, b"one", {"content-type": "text/plain", "cache-control": "60", "metadata": {"by": "py"}}
    )
    assert (uploaded.path, uploaded.full_path) == (path, f"{bucket}/{path}")
    assert store.download(path) == b"one"
    store.upload(path, b"two", {"content-type": "text/plain", "upsert": "true"})
    store.update(path, b"three", {"content-type": "text/markdown"})
    assert store.download(path) == b"three"
    assert store.exists(path)
    assert store.info(path)["content_type"] == "text/markdown"
    assert [entry["name"] for entry in store.list(f"{user.id}")] == ["reports"]
    assert [entry["name"] for entry in store.list(f"{user.id}/reports")] == ["Q1 (final).txt"]
    signed = store.create_signed_url(path, 60)["signedURL"]
    assert api.plain.get(str(signed)).content == b"three"
    several = store.create_signed_urls([path, f"{user.id}/missing.txt"], 60)
    assert (api.plain.get(str(several[0]["signedURL"])).content, bool(several[1]["error"])) == (b"three", True)
    offered = store.create_signed_upload_url(f"{user.id}/later.txt")
    store.upload_to_signed_url(f"{user.id}/later.txt", offered["token"], b"later", {"content-type": "text/plain"})
    assert store.download(f"{user.id}/later.txt") == b"later"
    store.move(path, f"{user.id}/moved.txt")
    store.copy(f"{user.id}/moved.txt", f"{user.id}/copied.txt")
    assert store.download(f"{user.id}/copied.txt") == b"three"
    assert {deleted["name"] for deleted in store.remove([f"{user.id}/moved.txt", f"{user.id}/never.txt"])} == {
        f"{user.id}/moved.txt"
    }
    with pytest.raises(StorageApiError, match="not found"):
        store.download(f"{user.id}/moved.txt")


def test_file_is_returned_unchanged_with_its_metadata(files: httpx.Client, bucket: str, folder: str) -> None:
    content = bytes(range(256)) * 5000
    answer = put(
        files, f"{bucket}/{folder}/all.bin", content, **{"content-type": "image/png", "cache-control": "max-age=9"}
    )
    assert answer.json()["Key"] == f"{bucket}/{folder}/all.bin"
    fetched = files.get(f"/storage/v1/object/authenticated/{bucket}/{folder}/all.bin")
    assert fetched.content == content
    assert fetched.headers["content-type"] == "image/png"
    assert fetched.headers["cache-control"] == "max-age=9"
    assert fetched.headers["etag"] == f'"{hashlib.md5(content).hexdigest()}"'  # noqa: S324 - as S3 names contents
    known = {"if-none-match": fetched.headers["etag"]}
    assert files.get(f"/storage/v1/object/{bucket}/{folder}/all.bin", headers=known).status_code == 304
    head = files.head(f"/storage/v1/object/{bucket}/{folder}/all.bin")
    assert (head.headers["content-length"], head.content) == (str(len(content)), b"")
    save = files.get(f"/storage/v1/object/{bucket}/{folder}/all.bin?download=ü.bin").headers["content-disposition"]
    assert save == "attachment; filename=\"_.bin\"; filename*=UTF-8''%C3%BC.bin"


@pytest.mark.parametrize(
    ("requested", "status", "content"),
    [
        ("bytes=0-1", 206, b"01"),
        ("bytes=8-", 206, b"89"),
        ("bytes=-3", 206, b"789"),
        ("bytes=0-99", 206, b"0123456789"),
        ("bytes=20-", 416, b""),
        ("bytes=5-2", 416, b""),
        ("lines=1", 200, b"0123456789"),
    ],
)
def test_a_part_of_a_file(
    files: httpx.Client, bucket: str, folder: str, requested: str, status: int, content: bytes
) -> None:
    put(files, f"{bucket}/{folder}/digits", b"0123456789")
    answer = files.get(f"/storage/v1/object/{bucket}/{folder}/digits", headers={"range": requested})
    assert (answer.status_code, answer.content) == (status, content)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 300_001])
def test_form_upload_keeps_bytes_that_look_like_boundaries(
    files: httpx.Client, bucket: str, folder: str, size: int
) -> None:
    boundary = "frontier"
    content = (b"\r\n--frontie\r\n--" * (size // 15 + 1))[:size]
    fields = f'--{boundary}\r\ncontent-disposition: form-data; name="cacheControl"\r\n\r\n77\r\n'.encode()
    fields += f'--{boundary}\r\nContent-Disposition: form-data; name=""; filename="x"\r\n'.encode()
    body = fields + b"Content-Type: text/x-odd\r\n\r\n" + content + f"\r\n--{boundary}--\r\n".encode()

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 1021):
            yield body[start : start + 1021]

    sent = {"content-type": f"multipart/form-data; boundary={boundary}"}
    address = f"/storage/v1/object/{bucket}/{folder}/form-{size}"
    assert files.post(address, content=pieces(), headers=sent).status_code == 200
    fetched = files.get(address)
    assert fetched.content == content
    assert (fetched.headers["content-type"], fetched.headers["cache-control"]) == ("text/x-odd", "max-age=77")


def test_existing_name_is_refused_without_upsert(files: httpx.Client, bucket: str, folder: str) -> None:
    path = f"{bucket}/{folder}/once.txt"
    assert put(files, path, b"first").status_code == 200
    assert refused(put(files, path, b"second")) == ("409", "Duplicate")
    assert put(files, path, b"third", **{"x-upsert": "true"}).status_code == 200
    assert files.get(f"/storage/v1/object/{path}").content == b"third"
    assert files.put(f"/storage/v1/object/{bucket}/{folder}/new.txt", content=b"x").status_code == 200


def test_uploads_of_one_name_at_once_leave_one_whole_file(api: Api, person: Person, bucket: str, folder: str) -> None:
    address = f"{api.url}/storage/v1/object/{bucket}/{folder}/race"
    headers = {
        "apikey": api.keys.publishable_key,
        "authorization": f"Bearer {person['access_token']}",
        "x-upsert": "true",
    }
    contents = [bytes([65 + n]) * 50_000 for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda content: api.plain.post(address, content=content, headers=headers), contents))
    assert {answer.status_code for answer in answers} == {200}
    assert api.plain.get(address, headers=headers).content in contents


def test_replaced_and_removed_files_leave_no_bytes(api: Api, files: httpx.Client, bucket: str, folder: str) -> None:
    before = blobs(api)
    put(files, f"{bucket}/{folder}/a", b"1")
    put(files, f"{bucket}/{folder}/a", b"2", **{"x-upsert": "true"})
    assert len(blobs(api) - before) == 1
    files.request("DELETE", f"/storage/v1/object/{bucket}", json={"prefixes": [f"{folder}/a"]})
    assert blobs(api) == before
    assert refused(files.delete(f"/storage/v1/object/{bucket}/{folder}/a")) == ("404", "not_found")


def test_a_name_never_reaches_the_disk(api: Api, files: httpx.Client, bucket: str, folder: str) -> None:
    before = blobs(api)
    put(files, f"{bucket}/{folder}/evil.sh", b"#!/bin/sh")
    [made] = blobs(api) - before
    assert "evil" not in str(made)
    assert made.stat().st_mode & 0o777 == 0o600


def test_storage_row_without_upload_serves_no_file(api: Api, bucket: str) -> None:
    (api.home / "secret").write_text("secret")
    for version in ("../../secret", None, ""):
        api.sql(
            "insert into storage.objects (bucket_id, name, version) values (%s, %s, %s)", bucket, f"x{version}", version
        )
    for entry in api.admin().post(f"/storage/v1/object/list/{bucket}", json={}).json():
        assert refused(api.admin().get(f"/storage/v1/object/{bucket}/{entry['name']}")) == ("404", "not_found")
    assert api.admin().post(f"/storage/v1/bucket/{bucket}/empty").status_code == 200
    assert (api.home / "secret").exists()


# Listing -------------------------------------------------------------------------------------------------------------


def test_a_folder_is_listed_one_level_deep_in_pages(files: httpx.Client, bucket: str, folder: str) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/d/e.txt", "also_50%/f.txt", "Zed.txt"):
        put(files, f"{bucket}/{folder}/{name.replace('%', '')}", name.encode())

    def listed(**requested: Any) -> list[str]:
        answer = files.post(f"/storage/v1/object/list/{bucket}", json=requested)
        assert answer.status_code == 200, answer.text
        return [entry["name"] for entry in answer.json()]

    assert listed(prefix="") == [folder]
    everything = listed(prefix=folder)
    assert everything == ["also_50", "sub", "Zed.txt", "a.txt", "b.txt"]
    assert listed(prefix=f"{folder}/") == everything
    assert listed(prefix=folder, limit=2, offset=1) == everything[1:3]
    assert listed(prefix=folder, sortBy={"column": "name", "order": "desc"})[2:] == ["b.txt", "a.txt", "Zed.txt"]
    assert listed(prefix=folder, sortBy={"column": "created_at", "order": "asc"})[2:] == ["b.txt", "a.txt", "Zed.txt"]
    assert listed(prefix=f"{folder}/sub") == ["d", "c.txt"]
    assert listed(prefix=folder, search="z") == ["Zed.txt"]
    assert listed(prefix=f"{folder}/nothing") == []
    assert listed(prefix=folder[:-1]) == []
    assert listed(prefix="%") == []
    entries = files.post(f"/storage/v1/object/list/{bucket}", json={"prefix": f"{folder}/sub"}).json()
    assert (entries[0]["id"], entries[0]["metadata"]) == (None, None)
    assert (entries[1]["metadata"]["size"], entries[1]["metadata"]["mimetype"]) == (9, "text/plain")
    assert (
        refused(files.post(f"/storage/v1/object/list/{bucket}", json={"sortBy": {"column": "version; --"}}))[0] == "400"
    )
    assert refused(files.post(f"/storage/v1/object/list/{bucket}", json={"limit": "all"}))[0] == "400"


# Who may -------------------------------------------------------------------------------------------------------------


def test_policies_apply_to_other_users_and_strangers(api: Api, files: httpx.Client, bucket: str, folder: str) -> None:
    path = f"{bucket}/{folder}/mine.txt"
    put(files, path, b"mine")
    for other in (api.http(), api.http(token=api.sign_up("nosy")["access_token"])):
        assert refused(other.get(f"/storage/v1/object/{path}")) == ("404", "not_found")
        assert refused(other.get(f"/storage/v1/object/info/{path}")) == ("404", "not_found")
        assert refused(put(other, f"{bucket}/{folder}/theirs.txt")) == ("403", "Unauthorized")
        assert refused(put(other, path, b"over", **{"x-upsert": "true"})) == ("403", "Unauthorized")
        assert refused(other.put(f"/storage/v1/object/{path}", content=b"over")) == ("403", "Unauthorized")
        assert refused(other.post(f"/storage/v1/object/sign/{path}", json={"expiresIn": 60})) == ("404", "not_found")
        assert refused(other.post(f"/storage/v1/object/upload/sign/{bucket}/{folder}/x", json={})) == (
            "403",
            "Unauthorized",
        )
        keys = {"bucketId": bucket, "sourceKey": f"{folder}/mine.txt", "destinationKey": f"{folder}/existing.txt"}
        assert refused(other.post("/storage/v1/object/move", json=keys)) == ("404", "not_found")
        assert refused(other.post("/storage/v1/object/copy", json=keys)) == ("404", "not_found")
        removed = other.request("DELETE", f"/storage/v1/object/{bucket}", json={"prefixes": [f"{folder}/mine.txt"]})
        assert removed.json() == []
        assert other.post(f"/storage/v1/object/list/{bucket}", json={"prefix": folder}).json() == []
        assert refused(other.post("/storage/v1/bucket", json={"name": "theirs"})) == ("403", "Unauthorized")
        assert refused(other.delete(f"/storage/v1/bucket/{bucket}"))[0] in {"404", "409"}
    assert files.get(f"/storage/v1/object/{path}").content == b"mine"


def test_forbidden_upload_is_refused_before_its_body(api: Api, bucket: str, folder: str) -> None:
    address = httpx.URL(api.url)
    with socket.create_connection((address.host, address.port), timeout=60) as connection:
        head = (
            f"POST /storage/v1/object/{bucket}/{folder}/x HTTP/1.1\r\nhost: x\r\napikey: {api.keys.publishable_key}\r\n"
        )
        connection.sendall(f"{head}content-type: text/plain\r\ncontent-length: 2000000\r\n\r\n".encode())
        answer = connection.recv(65_536)  # and not one byte of the two million was sent
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["statusCode"] == "403"


def test_policies_see_the_request_and_the_operation(api: Api, person: Person, bucket: str) -> None:
    api.sql("""
        create policy test_org on storage.objects for insert to authenticated with check (
          (storage.foldername(name))[1] = current_setting('request.headers', true)::json ->> 'x-org-id'
          and storage.operation() = 'storage.object.upload'
        )
    """)
    client = api.http(token=person["access_token"], **{"x-org-id": "org-7"})
    assert put(client, f"{bucket}/org-7/plan.txt").status_code == 200
    assert refused(put(client, f"{bucket}/org-8/plan.txt")) == ("403", "Unauthorized")


def test_the_owner_is_the_caller(api: Api, files: httpx.Client, bucket: str, folder: str) -> None:
    put(files, f"{bucket}/{folder}/owned.txt")
    [(owner, owner_id)] = api.sql("select owner::text, owner_id from storage.objects where bucket_id = %s", bucket)
    assert (owner, owner_id) == (folder, folder)


def test_only_public_buckets_are_readable_without_credentials(api: Api, bucket: str) -> None:
    public = make_bucket(api, public=True)
    for name in (public, bucket):
        assert put(api.admin(), f"{name}/logo.txt", b"logo").status_code == 200
    assert api.plain.get(f"{api.url}/storage/v1/object/public/{public}/logo.txt").content == b"logo"
    assert api.plain.get(api.supabase().storage.from_(public).get_public_url("logo.txt")).content == b"logo"
    assert refused(api.plain.get(f"{api.url}/storage/v1/object/public/{bucket}/logo.txt"))[0] == "404"
    assert api.plain.post(f"{api.url}/storage/v1/object/public/{public}/new.txt", content=b"x").status_code == 401


def test_signed_url_opens_one_file_until_it_expires(api: Api, files: httpx.Client, bucket: str, folder: str) -> None:
    for name in ("a", "b"):
        put(files, f"{bucket}/{folder}/{name}", name.encode())
    signed = files.post(f"/storage/v1/object/sign/{bucket}/{folder}/a", json={"expiresIn": 60}).json()["signedURL"]
    address = f"{api.url}/storage/v1{signed}"
    assert api.plain.get(address).content == b"a"
    assert refused(api.plain.get(address.replace(f"{folder}/a?", f"{folder}/b?"))) == ("400", "InvalidSignature")
    assert refused(api.plain.get(address[:-4] + "AAAA")) == ("400", "InvalidJWT")
    assert refused(api.plain.get(address.split("?", maxsplit=1)[0] + "?token=")) == ("400", "InvalidSignature")
    expired = api.mint(url=f"{bucket}/{folder}/a", use="read", exp=1)
    assert refused(api.plain.get(address.split("?", maxsplit=1)[0], params={"token": expired})) == ("400", "InvalidJWT")
    upload = api.plain.put(address.replace("/object/sign/", "/object/upload/sign/"), content=b"over")
    assert refused(upload) == ("400", "InvalidSignature")
    assert (
        refused(
            api.plain.get(
                f"{api.url}/storage/v1/object/{bucket}/{folder}/a?token=x", headers={"apikey": api.keys.publishable_key}
            )
        )[0]
        == "404"
    )
    user = files.headers["authorization"].split()[1]
    assert refused(api.plain.get(address.split("?", maxsplit=1)[0], params={"token": user})) == (
        "400",
        "InvalidSignature",
    )
    for wrong in ({}, {"expiresIn": 0}, {"expiresIn": "1h"}):
        assert refused(files.post(f"/storage/v1/object/sign/{bucket}/{folder}/a", json=wrong))[0] == "400"


def test_a_signed_upload_stores_one_file_as_its_signer(api: Api, files: httpx.Client, bucket: str, folder: str) -> None:
    answer = files.post(f"/storage/v1/object/upload/sign/{bucket}/{folder}/offered", json={}).json()
    address = f"{api.url}/storage/v1{answer['url']}"
    assert api.plain.put(address, content=b"given", headers={"content-type": "text/plain"}).status_code == 200
    assert refused(api.plain.put(address, content=b"again")) == ("409", "Duplicate")
    assert refused(api.plain.put(address.replace("offered", "other"), content=b"x")) == ("400", "InvalidSignature")
    assert refused(api.plain.get(address.replace("/upload/sign/", "/sign/"))) == ("400", "InvalidSignature")
    assert api.sql("select owner_id from storage.objects where bucket_id = %s", bucket) == [(folder,)]


# Limits and names ----------------------------------------------------------------------------------------------------


def test_a_bucket_limits_size_and_type(api: Api, folder: str, files: httpx.Client) -> None:
    bucket = make_bucket(api, file_size_limit="1KB", allowed_mime_types=["text/plain", "image/*"])
    path = f"{bucket}/{folder}"
    before = blobs(api)
    assert put(files, f"{path}/fits", b"x" * 1000).status_code == 200
    assert refused(put(files, f"{path}/big", b"x" * 1001)) == ("413", "Payload too large")
    assert refused(put(files, f"{path}/pdf", b"x", **{"content-type": "application/pdf"})) == (
        "415",
        "invalid_mime_type",
    )
    assert put(files, f"{path}/png", b"x", **{"content-type": "image/png"}).status_code == 200
    assert put(files, f"{path}/charset", b"x", **{"content-type": "text/plain; charset=utf-8"}).status_code == 200
    assert files.get(f"/storage/v1/object/{path}/charset").headers["content-type"] == "text/plain; charset=utf-8"
    form = {"file": ("x", b"x" * 5000, "text/plain")}
    assert refused(files.post(f"/storage/v1/object/{path}/form", files=form)) == ("413", "Payload too large")

    def endless() -> Iterator[bytes]:
        yield from (b"x" * 1000 for _ in range(5))

    streamed = files.post(
        f"/storage/v1/object/{path}/chunked", content=endless(), headers={"content-type": "text/plain"}
    )
    assert refused(streamed) == ("413", "Payload too large")
    assert len(blobs(api) - before) == 3


@pytest.mark.parametrize(
    "name",
    [
        "../other/x",
        "a/../../x",
        "a/./x",
        "a//x",
        "/etc/passwd",
        "a/",
        "%2e%2e/x",
        "..%2fx",
        "a%2f..%2f..%2fx",
        "%00",
        "a%00.txt",
        "a\\..\\x",
        "..",
        ".",
        "a%0ab",
        "ü.txt",
        "a%5c..%5cx",
        "%2Fetc%2Fpasswd",
        "x" * 1100,
    ],
)
def test_path_cannot_leave_its_bucket(api: Api, bucket: str, name: str) -> None:
    admin = api.admin()
    other = make_bucket(api)
    put(admin, f"{other}/x", b"secret")
    target = f"/storage/v1/object/{bucket}/{name.replace('other', other)}".encode()
    for method in ("GET", "POST", "PUT", "DELETE"):
        status, content = bare(api, method, target, api.keys.secret_key)
        assert 400 <= status < 500, (method, content)
        assert b"secret" not in content
    assert api.sql("select count(*) from storage.objects where bucket_id = %s", bucket) == [(0,)]
    plain = httpx.URL(f"http://x/{name}").path.lstrip("/") if "%" in name else name
    keys = {"bucketId": bucket, "sourceKey": "x", "destinationKey": plain}
    if plain not in {"x", "etc/passwd", "other/x"}:
        assert refused(admin.post("/storage/v1/object/copy", json=keys))[0] in {"400", "404"}


def test_a_way_into_storage_through_another_service_is_no_way(api: Api, bucket: str) -> None:
    put(api.admin(), f"{bucket}/x", b"secret")
    for path in (f"/rest/v1/../../storage/v1/object/{bucket}/x", f"/storage/v1/object/public/../{bucket}/x"):
        status, content = bare(api, "GET", path.encode(), api.keys.secret_key)
        assert 400 <= status < 500, content
        assert b"secret" not in content


def bare(api: Api, method: str, target: bytes, key: str) -> tuple[int, bytes]:
    """Sent raw: an HTTP client would normalize the path first."""
    address = httpx.URL(api.url)
    with socket.create_connection((address.host, address.port)) as connection:
        head = b"%s %s HTTP/1.1\r\nhost: x\r\napikey: %s\r\n" % (method.encode(), target, key.encode())
        connection.sendall(head + b"content-length: 1\r\nconnection: close\r\n\r\nx")
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    return int(answer.split(b" ", 2)[1]), answer


def test_move_between_buckets_checks_both_policies(api: Api, files: httpx.Client, bucket: str, folder: str) -> None:
    put(files, f"{bucket}/{folder}/a", b"a")
    closed = f"closed-{uuid4()}"
    api.admin().post("/storage/v1/bucket", json={"name": closed})
    keys = {
        "bucketId": bucket,
        "sourceKey": f"{folder}/a",
        "destinationBucket": closed,
        "destinationKey": f"{folder}/a",
    }
    for way in ("move", "copy"):
        assert refused(files.post(f"/storage/v1/object/{way}", json=keys)) == ("403", "Unauthorized")
    second = make_bucket(api)
    assert files.post("/storage/v1/object/move", json=keys | {"destinationBucket": second}).status_code == 200
    assert files.get(f"/storage/v1/object/{second}/{folder}/a").content == b"a"
    assert refused(files.post("/storage/v1/object/move", json=keys | {"destinationBucket": "none"})) == (
        "404",
        "Bucket not found",
    )


# Buckets -------------------------------------------------------------------------------------------------------------


def test_supabase_py_administers_buckets(api: Api) -> None:
    storage = api.supabase(api.keys.secret_key).storage
    name = f"test-{uuid4()}"
    storage.create_bucket(name, options={"public": True, "file_size_limit": 1024, "allowed_mime_types": ["image/png"]})
    made = storage.get_bucket(name)
    assert (made.public, made.file_size_limit, made.allowed_mime_types) == (True, 1024, ["image/png"])
    storage.update_bucket(name, {"public": False})
    assert storage.get_bucket(name).public is False
    assert name in {bucket.name for bucket in storage.list_buckets()}
    storage.from_(name).upload("x.png", b"x", {"content-type": "image/png"})
    with pytest.raises(StorageApiError, match="not empty"):
        storage.delete_bucket(name)
    storage.empty_bucket(name)
    storage.delete_bucket(name)
    with pytest.raises(StorageApiError, match="Bucket not found"):
        storage.get_bucket(name)


@pytest.mark.parametrize("name", ["", "a/b", "..", "ü", " x", "x" * 101, None])
def test_a_bucket_has_a_plain_name(api: Api, name: str | None) -> None:
    assert refused(api.admin().post("/storage/v1/bucket", json={"name": name})) == ("400", "Invalid Input")


@pytest.mark.parametrize("size", ["big", [1], {"a": 1}])
def test_size_limit_of_a_bucket_is_a_size(api: Api, size: object) -> None:
    answer = api.admin().post("/storage/v1/bucket", json={"name": "sized", "file_size_limit": size})
    assert refused(answer) == ("400", "InvalidRequest")


def test_a_form_has_few_fields_before_its_file(files: httpx.Client, bucket: str, folder: str) -> None:
    part = '--B\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'
    file = part.replace('"a"', '""; filename="a"')
    for fields, status in ((10, 200), (11, 400)):
        headers = {"content-type": "multipart/form-data; boundary=B", "x-upsert": "true"}
        body = f"{part * fields}{file}--B--\r\n"
        assert (
            files.post(f"/storage/v1/object/{bucket}/{folder}/form", content=body, headers=headers).status_code
            == status
        )


def test_buckets_exist_once(api: Api, bucket: str) -> None:
    assert refused(api.admin().post("/storage/v1/bucket", json={"name": bucket})) == ("409", "Duplicate")
    assert refused(api.admin().post("/storage/v1/bucket", json={"name": "x", "file_size_limit": "huge"}))[0] == "400"
    assert (
        refused(api.admin().post("/storage/v1/bucket", json={"name": "x", "allowed_mime_types": ["image"]}))[0] == "415"
    )
    assert refused(put(api.admin(), "no-such-bucket/x")) == ("404", "Bucket not found")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"", "multipart/form-data; boundary=x"),
        (b"", "multipart/form-data; boundary=" + "x" * 300),
        (b"hello", "multipart/form-data"),
        (b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n', "multipart/form-data; boundary=x"),
        (
            b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n' + b"1" * 3_000_000,
            "multipart/form-data; boundary=x",
        ),
    ],
)
def test_a_malformed_form_is_the_clients_fault(api: Api, bucket: str, content: bytes, kind: str) -> None:
    before = blobs(api)
    answer = api.admin().post(f"/storage/v1/object/{bucket}/x", content=content, headers={"content-type": kind})
    assert refused(answer) == ("400", "InvalidRequest")
    assert blobs(api) == before


def test_invalid_token_is_rejected_not_anonymous(api: Api) -> None:
    public = make_bucket(api, public=True)
    put(api.admin(), f"{public}/x")
    answer = api.http(token="not.a.token").get(f"/storage/v1/object/{public}/x")
    assert refused(answer) == ("403", "Unauthorized")
    assert api.http().get("/storage/v1/bucket", headers={"apikey": "sb_publishable_wrong"}).status_code == 401


@pytest.mark.parametrize("path", ["upload/resumable", "render/image/public/b/x", "s3/b/x", "object/list-v2/b"])
def test_unsupported_feature_is_reported(api: Api, path: str) -> None:
    answer = api.admin().post(f"/storage/v1/{path}", json={})
    assert (answer.status_code, json.loads(answer.content)["error"]) == (501, "not_served")
