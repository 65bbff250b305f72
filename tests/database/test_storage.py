"""Permissions of files in the folders of the three buckets."""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from local import ROOT
from tests.database.attacks.race import Attempt, both
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, Row, fixed_id

TASK = fixed_id("a task")
REFUSED = psycopg.errors.InsufficientPrivilege


def attachment(org: object = ACME, file: str = "plan.pdf") -> str:
    return f"{org}/tasks/{TASK}/{file}"


def upload(cursor: psycopg.Cursor[Row], bucket: str, path: str, owner: str) -> None:
    cursor.execute(
        "insert into storage.objects (bucket_id, name, owner_id) values (%s, %s, %s)",
        [bucket, path, str(PEOPLE[owner])],
    )


def test_config_toml_has_the_buckets_of_the_migrations(database: Database) -> None:
    """The official stack creates the buckets of config.toml when it starts."""
    configured = tomllib.loads((ROOT / "supabase/config.toml").read_text())["storage"]["buckets"]
    with database.connect() as connection:
        rows = connection.execute(
            "select id, public, file_size_limit, allowed_mime_types from storage.buckets"
        ).fetchall()
    assert {
        name: (
            each["public"],
            int(each["file_size_limit"].removesuffix("MiB")) * 1024**2,
            each.get("allowed_mime_types"),
        )
        for name, each in configured.items()
    } == {row[0]: tuple(row[1:]) for row in rows}


@pytest.fixture(autouse=True, scope="module")
def _files(database: Database) -> None:
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into storage.objects (bucket_id, name, owner_id) values (%s, %s, %s)",
            [
                ("attachments", attachment(), str(PEOPLE["member"])),
                ("attachments", attachment(GLOBEX), str(PEOPLE["globex_member"])),
                ("avatars", f"{PEOPLE['member']}/face.png", str(PEOPLE["member"])),
                ("avatars", f"{PEOPLE['admin']}/face.png", str(PEOPLE["admin"])),
                ("public-assets", "logo.png", str(PEOPLE["platform_admin"])),
            ],
        )


def test_buckets_have_the_specified_privacy_and_limits(database: Database) -> None:
    with database.connect() as connection:
        rows = connection.execute(
            "select id, public, file_size_limit, allowed_mime_types from storage.buckets order by id"
        )
        assert rows.fetchall() == [
            ("attachments", False, 52_428_800, None),
            ("avatars", True, 5_242_880, ["image/jpeg", "image/png", "image/webp", "image/gif"]),
            ("exports", False, 52_428_800, ["application/x-ndjson", "text/csv", "application/json"]),
            (
                "public-assets",
                True,
                10_485_760,
                ["image/jpeg", "image/png", "image/webp", "application/pdf", "video/mp4"],
            ),
        ]


# Files each person sees without any filter.
SEES = {
    "owner": {attachment()},
    "admin": {attachment(), f"{PEOPLE['admin']}/face.png"},
    "member": {attachment(), f"{PEOPLE['member']}/face.png"},
    "viewer": {attachment()},
    "globex_owner": {attachment(GLOBEX)},
    "suspended": set(),
    "removed": set(),
    "outsider": set(),
    "platform_admin": {"logo.png"},
    None: set(),
}


@pytest.mark.parametrize("person", SEES)
def test_everyone_lists_only_their_own_folders(database: Database, person: str | None) -> None:
    with database.acting_as(person) as cursor:
        seen = {row["name"] for row in cursor.execute("select name from storage.objects")}
    assert seen == SEES[person]


def test_platform_admin_reads_files_of_the_current_organization(database: Database) -> None:
    with database.acting_as("platform_admin", org=GLOBEX) as cursor:
        seen = {row["name"] for row in cursor.execute("select name from storage.objects")}
    assert seen == {attachment(GLOBEX), "logo.png"}


@pytest.mark.parametrize(
    ("person", "bucket", "path"),
    [
        ("member", "attachments", attachment(file="new.pdf")),
        ("admin", "attachments", attachment(file="new.pdf")),
        ("viewer", "avatars", f"{PEOPLE['viewer']}/new.png"),
        ("outsider", "avatars", f"{PEOPLE['outsider']}/old/new.png"),
        ("platform_admin", "public-assets", "terms/2026.pdf"),
    ],
)
def test_people_upload_into_their_own_folders(database: Database, person: str, bucket: str, path: str) -> None:
    with database.acting_as(person) as cursor:
        upload(cursor, bucket, path, person)
        assert cursor.execute("select from storage.objects where name = %s", [path]).rowcount == 1


@pytest.mark.parametrize(
    ("person", "bucket", "path"),
    [
        pytest.param("viewer", "attachments", attachment(file="x"), id="a viewer writes"),
        pytest.param("suspended", "attachments", attachment(file="x"), id="a suspended member writes"),
        pytest.param("removed", "attachments", attachment(file="x"), id="a removed member writes"),
        pytest.param("platform_admin", "attachments", attachment(file="x"), id="a platform admin writes"),
        pytest.param("member", "attachments", attachment(GLOBEX, "x"), id="into another organization"),
        pytest.param("member", "attachments", f"{ACME}/../{GLOBEX}/{TASK}/x", id="climb into another organization"),
        pytest.param("member", "attachments", f"{ACME}/tasks/{TASK}/..", id="a file named dot dot"),
        pytest.param("member", "attachments", f"/{ACME}/tasks/{TASK}/x", id="an empty first folder"),
        pytest.param("member", "attachments", f"{ACME}/x", id="outside of an entity's folder"),
        pytest.param("member", "attachments", "x", id="outside of any folder"),
        pytest.param("member", "avatars", f"{PEOPLE['admin']}/x.png", id="another's avatar"),
        pytest.param("member", "avatars", str(PEOPLE["member"]), id="a file in place of the folder"),
        pytest.param("suspended", "avatars", f"{PEOPLE['suspended']}/x.png", id="a suspended user's avatar"),
        pytest.param("owner", "public-assets", "x.png", id="a public asset by an organization's owner"),
    ],
)
def test_attack_upload_where_one_may_not(database: Database, person: str, bucket: str, path: str) -> None:
    with database.acting_as(person) as cursor, pytest.raises(REFUSED):
        upload(cursor, bucket, path, person)


def test_attack_upload_without_a_token(database: Database) -> None:
    with database.acting_as(None) as cursor, pytest.raises(REFUSED):
        upload(cursor, "public-assets", "x.png", "member")


def test_attack_upload_in_the_name_of_another(database: Database) -> None:
    with database.acting_as("member") as cursor, pytest.raises(REFUSED):
        upload(cursor, "attachments", attachment(file="x"), "admin")


# Who may delete the member's attachment; all others may not.
DELETES = {
    "member": 1,
    "admin": 1,
    "owner": 1,
    "viewer": 0,
    "globex_owner": 0,
    "removed": 0,
    "suspended": 0,
    "platform_admin": 0,
    None: 0,
}


@pytest.mark.parametrize("person", DELETES)
def test_the_uploader_or_an_admin_deletes_and_overwrites(database: Database, person: str | None) -> None:
    for change in ("delete from storage.objects", "update storage.objects set metadata = '{}'"):
        with database.acting_as(person) as cursor:
            cursor.execute(f"{change} where name = %s", [attachment()])
            assert cursor.rowcount == DELETES[person], change


def test_other_members_read_but_never_delete_a_file(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        connection.execute(
            "insert into storage.objects (bucket_id, name, owner_id) values ('attachments', %s, %s)",
            [attachment(), str(PEOPLE["admin"])],
        )
    with fresh_database.acting_as("member") as cursor:
        assert cursor.execute("select from storage.objects").rowcount == 1
        assert cursor.execute("delete from storage.objects").rowcount == 0
        takeover = cursor.execute("update storage.objects set owner_id = %s", [str(PEOPLE["member"])])
        assert takeover.rowcount == 0


def test_attack_move_a_file_into_another_organization(database: Database) -> None:
    with database.acting_as("member") as cursor, pytest.raises(REFUSED):
        cursor.execute("update storage.objects set name = %s where name = %s", [attachment(GLOBEX, "x"), attachment()])


def test_attack_assign_a_file_to_another_user(database: Database) -> None:
    with database.acting_as("member") as cursor, pytest.raises(REFUSED):
        cursor.execute(
            "update storage.objects set owner_id = %s where name = %s", [str(PEOPLE["viewer"]), attachment()]
        )


# Files and their rows ------------------------------------------------------------------------------------------------

ROW = (
    "select file_size, mime_type, uploaded_by_id, stored_at is not null as stored from public.attachments"
    " where file_path = %s"
)
ANNOUNCED = (
    "insert into public.attachments"
    " (organization_id, entity_type, entity_id, file_name, file_size, mime_type, file_path)"
    " values (%s, 'tasks', %s, %s, %s, 'text/plain', %s)"
)


def store(cursor: psycopg.Cursor[Row], path: str, size: int | None, owner: str = "member", kind: str = "a/b") -> None:
    """Insert as the storage service does: without metadata when it only checks permission."""
    metadata = None if size is None else Jsonb({"size": size, "mimetype": kind})
    cursor.execute(
        "insert into storage.objects (bucket_id, name, owner_id, metadata) values ('attachments', %s, %s, %s)"
        " on conflict (bucket_id, name) do update set metadata = excluded.metadata, owner_id = excluded.owner_id",
        [path, str(PEOPLE[owner]), metadata],
    )


def announce(cursor: psycopg.Cursor[Row], path: str, size: int = 7) -> None:
    cursor.execute(ANNOUNCED, [ACME, TASK, path.rpartition("/")[2], size, path])


@contextmanager
def limited(database: Database, storage_bytes: int | None) -> Iterator[None]:
    """The plan of both organizations allows so many bytes."""
    change = (
        "update public.plans set limits = jsonb_set(limits, '{storage_bytes}', %s) where tier = 'GROWTH'"
        " returning limits -> 'storage_bytes'"
    )
    with database.connect() as connection:
        (usual,) = connection.execute(
            "select limits -> 'storage_bytes' from public.plans where tier = 'GROWTH'"
        ).fetchone() or (0,)
        connection.execute(change, [Jsonb(storage_bytes)])
        try:
            yield
        finally:
            connection.execute(change, [Jsonb(usual)])


def test_upload_creates_and_deletion_removes_the_row(database: Database) -> None:
    path = attachment(file="one.txt")
    with database.acting_as("member") as cursor:
        store(cursor, path, 12, kind="Text/Plain; charset=utf-8")
        expected = {"file_size": 12, "mime_type": "text/plain", "uploaded_by_id": PEOPLE["member"], "stored": True}
        assert cursor.execute(ROW, [path]).fetchall() == [expected]
        store(cursor, path, 40, kind="nonsense")
        assert cursor.execute(ROW, [path]).fetchall() == [
            expected | {"file_size": 40, "mime_type": "application/octet-stream"}
        ]
        cursor.execute("delete from storage.objects where name = %s", [path])
        assert cursor.execute(ROW, [path]).fetchall() == []


def test_asking_for_permission_makes_no_row(database: Database) -> None:
    with database.acting_as("member") as cursor:
        store(cursor, attachment(file="checked.txt"), None)
        assert cursor.execute(ROW, [attachment(file="checked.txt")]).fetchall() == []


def test_row_made_before_the_upload_reserves_its_storage(database: Database) -> None:
    path = attachment(file="announced.txt")
    with database.acting_as("member") as cursor:
        announce(cursor, path)
        assert [row["stored"] for row in cursor.execute(ROW, [path])] == [False]
        store(cursor, path, 9)
        (row,) = cursor.execute(ROW, [path]).fetchall()
        assert (row["file_size"], row["mime_type"], row["stored"]) == (9, "a/b", True)


def test_moving_a_file_moves_its_row(database: Database) -> None:
    old, new = attachment(file="old.txt"), f"{ACME}/projects/{TASK}/new.txt"
    find = "select id, entity_type, file_name, file_size from public.attachments where file_path = %s"
    with database.acting_as("member") as cursor:
        store(cursor, old, 5)
        (before,) = cursor.execute(find, [old]).fetchall()
        cursor.execute("update storage.objects set name = %s where name = %s", [new, old])
        assert cursor.execute(find, [old]).fetchall() == []
        (after,) = cursor.execute(find, [new]).fetchall()
        assert after == before | {"entity_type": "projects", "file_name": "new.txt"}


def refused_for_room() -> pytest.RaisesExc[psycopg.Error]:
    return pytest.raises(psycopg.Error, match="allows no more storage")


def test_the_plan_limits_what_an_organization_stores(database: Database) -> None:
    with limited(database, 100), database.acting_as("member") as cursor:
        announce(cursor, attachment(file="a"), 60)
        with refused_for_room() as caught, cursor.connection.transaction():
            announce(cursor, attachment(file="b"), 41)
        assert caught.value.sqlstate == "PT402"
        assert caught.value.diag.message_detail == "GROWTH allows 100, and 60 are used. They do not renew."
        assert "ELITE allows" in str(caught.value.diag.message_hint)
        announce(cursor, attachment(file="b"), 40)
        with refused_for_room():
            announce(cursor, attachment(file="c"), 1)


def test_upload_beyond_the_plan_is_refused_with_a_message(database: Database) -> None:
    with limited(database, 100), database.acting_as("member") as cursor:
        store(cursor, attachment(file="a"), 60)
        for size in (41, 50 * 2**20):
            with refused_for_room() as caught, cursor.connection.transaction():
                store(cursor, attachment(file="b"), size)
            assert caught.value.sqlstate == "42501"
        store(cursor, attachment(file="a"), 100)  # in the place of the 60
        with refused_for_room(), cursor.connection.transaction():
            store(cursor, attachment(file="b"), None)  # before the body is read
    with limited(database, None), database.acting_as("member") as cursor:
        store(cursor, attachment(file="a"), 50 * 2**20)


def test_attack_announce_little_and_upload_much(database: Database) -> None:
    with limited(database, 100), database.acting_as("member") as cursor:
        announce(cursor, attachment(file="a"), 0)
        with refused_for_room():
            store(cursor, attachment(file="a"), 101)


def test_attack_exceed_storage_with_concurrent_uploads(fresh_database: Database) -> None:
    with limited(fresh_database, 100):

        def uploading(person: str) -> tuple[str, Attempt]:
            return person, lambda connection: connection.execute(
                "insert into storage.objects (bucket_id, name, owner_id, metadata) values ('attachments', %s, %s, %s)",
                [attachment(file=person), str(PEOPLE[person]), Jsonb({"size": 60, "mimetype": "a/b"})],
            )

        assert both(fresh_database, uploading("member"), uploading("admin")) == ["done", "42501"]


def test_attack_learn_by_uploading_how_full_another_organization_is(database: Database) -> None:
    with limited(database, 0), database.acting_as("member") as cursor:
        with pytest.raises(REFUSED) as caught:
            store(cursor, attachment(GLOBEX, "x"), 1)
        assert "storage" not in str(caught.value.diag.message_primary)
    with limited(database, 0), database.acting_as("member") as cursor, pytest.raises(REFUSED, match="row-level"):
        cursor.execute(ANNOUNCED, [GLOBEX, TASK, "x", 1, attachment(GLOBEX, "x")])


@pytest.mark.parametrize(
    "path",
    [
        f"{ACME}/Task/{TASK}/x",
        f"{ACME}/task/{TASK}/x",
        f"{ACME}/tasks/{'-' * 36}/x",
        f"{'-' * 36}/tasks/{TASK}/x",
        f"{ACME}/tasks/{TASK}/a\\b",
        f"{ACME}/tasks/{TASK}/{'x' * 256}",
        f"{ACME}/tasks/{TASK}/.",
        f"{ACME}/tasks/{TASK}/a/b",
        f"{str(ACME).upper()}/tasks/{TASK}/x",
    ],
)
def test_attack_upload_to_a_path_without_a_valid_row(database: Database, path: str) -> None:
    with database.acting_as("member") as cursor, pytest.raises(REFUSED):
        store(cursor, path, 1)


def test_server_files_outside_the_scheme_have_no_row(database: Database) -> None:
    with database.acting_as("owner", role="service_role") as cursor:
        for path in ("exports/all.zip", attachment(fixed_id("unknown"))):
            store(cursor, path, 1)
            assert cursor.execute(ROW, [path]).fetchall() == []
        store(cursor, attachment(file="moves"), 1)
        cursor.execute("update storage.objects set name = 'exports/x' where name = %s", [attachment(file="moves")])
        assert cursor.execute(ROW, [attachment(file="moves")]).fetchall() == []


def to_delete(cursor: psycopg.Cursor[Row]) -> set[str]:
    return {row["name"] for row in cursor.execute("select name from private.files_to_delete")}


@pytest.fixture
def server(fresh_database: Database) -> Iterator[psycopg.Cursor[Row]]:
    with fresh_database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        yield cursor


def repair(cursor: psycopg.Cursor[Row]) -> tuple[int, int, int]:
    (row,) = cursor.execute("select private.repair_attachments() as it").fetchall()
    return row["it"]["adopted"], row["it"]["forgotten"], row["it"]["to_delete"]


def claim(cursor: psycopg.Cursor[Row]) -> Any:
    (row,) = cursor.execute("select private.claim_files_to_delete(10) as it").fetchall()
    return row["it"]


def test_job_deletes_files_of_deleted_rows(server: psycopg.Cursor[Row]) -> None:
    kept, deleted = attachment(file="kept"), attachment(file="gone")
    for path in (kept, deleted):
        store(server, path, 1)
    server.execute("delete from public.attachments where file_path = %s", [deleted])
    assert claim(server) == {"attachments": [deleted]}
    with pytest.raises(REFUSED, match="being deleted"):
        store(server, deleted, 2)
    forget = "select private.forget_deleted_files('attachments', %s) as n"
    assert server.execute(forget, [[deleted, attachment(file="never")]]).fetchall() == [{"n": 1}]
    server.execute("delete from storage.objects where name = %s", [deleted])
    assert claim(server) == {}
    store(server, deleted, 2)
    assert repair(server) == (0, 0, 0)


def test_job_keeps_a_file_that_was_stored_again(server: psycopg.Cursor[Row]) -> None:
    path = attachment(file="again")
    store(server, path, 1)
    server.execute("delete from public.attachments where file_path = %s", [path])
    assert to_delete(server) == {path}
    store(server, path, 2)
    assert to_delete(server) == set()
    assert server.execute(ROW, [path]).rowcount == 1


def test_job_repairs_files_without_rows_and_rows_without_files(server: psycopg.Cursor[Row]) -> None:
    """As when the storage service had no trigger for a while."""
    found, lost, waiting, late = (attachment(file=name) for name in ("found", "lost", "waiting", "late"))
    server.execute("alter table storage.objects disable trigger user")
    store(server, found, 5)
    store(server, attachment(fixed_id("unknown")), 5)
    server.execute(
        "insert into storage.objects (bucket_id, name) values ('avatars', %s), ('avatars', %s)",
        [f"{PEOPLE['member']}/face.png", f"{fixed_id('unknown')}/face.png"],
    )
    for path in (lost, waiting, late):
        announce(server, path)
    server.execute("update public.attachments set stored_at = now() where file_path = %s", [lost])
    server.execute(
        "update public.attachments set created_at = now() - interval '25 hours' where file_path = %s", [late]
    )
    assert repair(server) == (1, 2, 2)
    rows = server.execute(
        "select file_path, stored_at is null as awaited from public.attachments order by 2"
    ).fetchall()
    assert rows == [{"file_path": found, "awaited": False}, {"file_path": waiting, "awaited": True}]
    assert to_delete(server) == {attachment(fixed_id("unknown")), f"{fixed_id('unknown')}/face.png"}
    assert repair(server) == (0, 0, 0)


def test_files_are_deleted_with_their_organization_or_person(server: psycopg.Cursor[Row]) -> None:
    store(server, attachment(), 5)
    server.execute(
        "insert into storage.objects (bucket_id, name) values ('avatars', %s)", [f"{PEOPLE['member']}/a.png"]
    )
    server.execute("delete from public.organizations where id = %s", [ACME])
    server.execute("delete from auth.users where id = %s", [PEOPLE["member"]])
    repair(server)
    assert to_delete(server) == {attachment(), f"{PEOPLE['member']}/a.png"}


def test_viewers_and_strangers_cannot_delete_files(database: Database) -> None:
    with database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        store(cursor, attachment(file="theirs"), 1)
    for person in ("viewer", "globex_owner", "outsider", "removed"):
        with database.acting_as(person) as cursor:
            assert cursor.execute("delete from public.attachments").rowcount == 0, person


@pytest.mark.parametrize(
    "call",
    ["repair_attachments()", "claim_files_to_delete(1)", "forget_deleted_files('attachments', '{}')"],
)
def test_attack_have_files_deleted_as_a_user(database: Database, call: str) -> None:
    with database.acting_as("super_admin") as cursor, pytest.raises(REFUSED):
        cursor.execute(f"select private.{call}")
