"""Whose files these are: the folders of the three buckets."""

import psycopg
import pytest

from tests.world import ACME, GLOBEX, PEOPLE, Database, Row, fixed_id

TASK = fixed_id("a task")
REFUSED = psycopg.errors.InsufficientPrivilege


def attachment(org: object = ACME, file: str = "plan.pdf") -> str:
    return f"{org}/task/{TASK}/{file}"


def upload(cursor: psycopg.Cursor[Row], bucket: str, path: str, owner: str) -> None:
    cursor.execute(
        "insert into storage.objects (bucket_id, name, owner_id) values (%s, %s, %s)",
        [bucket, path, str(PEOPLE[owner])],
    )


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


def test_the_buckets_are_as_private_and_as_large_as_they_should_be(database: Database) -> None:
    with database.connect() as connection:
        rows = connection.execute(
            "select id, public, file_size_limit, allowed_mime_types from storage.buckets order by id"
        )
        assert rows.fetchall() == [
            ("attachments", False, 52_428_800, None),
            ("avatars", True, 5_242_880, ["image/jpeg", "image/png", "image/webp", "image/gif"]),
            (
                "public-assets",
                True,
                10_485_760,
                ["image/jpeg", "image/png", "image/webp", "application/pdf", "video/mp4"],
            ),
        ]


# What each sees without any filter: the listing of everything.
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


def test_a_platform_admin_reads_the_files_of_the_organisation_it_names(database: Database) -> None:
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
        pytest.param("member", "attachments", attachment(GLOBEX, "x"), id="into another organisation"),
        pytest.param("member", "attachments", f"{ACME}/../{GLOBEX}/{TASK}/x", id="climb into another organisation"),
        pytest.param("member", "attachments", f"{ACME}/task/{TASK}/..", id="a file named dot dot"),
        pytest.param("member", "attachments", f"/{ACME}/task/{TASK}/x", id="an empty first folder"),
        pytest.param("member", "attachments", f"{ACME}/x", id="outside of an entity's folder"),
        pytest.param("member", "attachments", "x", id="outside of any folder"),
        pytest.param("member", "avatars", f"{PEOPLE['admin']}/x.png", id="another's avatar"),
        pytest.param("member", "avatars", str(PEOPLE["member"]), id="a file in place of the folder"),
        pytest.param("suspended", "avatars", f"{PEOPLE['suspended']}/x.png", id="a suspended user's avatar"),
        pytest.param("owner", "public-assets", "x.png", id="a public asset by an organisation's owner"),
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


# Who may delete the member's attachment; the organisation's others, and everybody else, may not.
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


def test_another_member_reads_but_neither_deletes_nor_takes_over_a_file(fresh_database: Database) -> None:
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


def test_attack_move_a_file_into_another_organisation(database: Database) -> None:
    with database.acting_as("member") as cursor, pytest.raises(REFUSED):
        cursor.execute("update storage.objects set name = %s where name = %s", [attachment(GLOBEX, "x"), attachment()])


def test_attack_give_ones_file_to_another(database: Database) -> None:
    with database.acting_as("member") as cursor, pytest.raises(REFUSED):
        cursor.execute(
            "update storage.objects set owner_id = %s where name = %s", [str(PEOPLE["viewer"]), attachment()]
        )
