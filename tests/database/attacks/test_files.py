"""Attacks on files: forbidden buckets, lost permissions, endless uploads."""

from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support.rows import Cursor, refused, scene, turn
from tests.support.world import ACME, PEOPLE, Database

STORE = (
    "insert into storage.objects (bucket_id, name, owner_id, version, metadata) values (%s, %s, %s, %s, %s)"
    " on conflict (bucket_id, name) do update set metadata = excluded.metadata, version = excluded.version"
)


def store(cursor: Cursor, bucket: str, name: str, person: str, size: int = 1, kind: str = "image/png") -> None:
    metadata: Any = Jsonb({"size": size, "mimetype": kind})
    cursor.execute(STORE, [bucket, name, str(PEOPLE[person]), str(uuid4()), metadata])


def attachment(name: str) -> str:
    return f"{ACME}/tasks/{uuid4()}/{name}"


def as_storage_service(cursor: Cursor, operation: str = "storage.object.upload_signed") -> None:
    """The second half of a move, which bypasses the policies."""
    turn(cursor, None)
    cursor.execute("set local role service_role")
    cursor.execute("select set_config('storage.operation', %s, true)", [operation])


UNFIT = {
    "html": ("text/html", 10),
    "svg": ("image/svg+xml", 10),
    "svg with a parameter": ("IMAGE/SVG+XML; charset=utf-8", 10),
    "six megabytes": ("image/png", 6 * 2**20),
}


@pytest.mark.parametrize("past_policies", [False, True], ids=["permission", "service"])
@pytest.mark.parametrize(("kind", "size"), UNFIT.values(), ids=UNFIT)
def test_attack_publish_a_private_file_by_move_or_copy(
    database: Database, kind: str, size: int, past_policies: bool
) -> None:
    avatar = f"{PEOPLE['member']}/me.png"
    with scene(database) as cursor:
        turn(cursor, "member")
        private = attachment("page")
        store(cursor, "attachments", private, "member", size, kind)
        if past_policies:
            as_storage_service(cursor, "storage.object.move")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), cursor.connection.transaction():
            cursor.execute(
                "update storage.objects set bucket_id = 'avatars', name = %s where name = %s", [avatar, private]
            )
        with pytest.raises(psycopg.errors.InsufficientPrivilege), cursor.connection.transaction():
            store(cursor, "avatars", avatar, "member", size, kind)


def test_policies_refuse_moves_to_buckets_of_other_types(fresh_database: Database) -> None:
    """As where the storage service forbids triggers."""
    with fresh_database.connect("supabase_admin") as connection:
        connection.execute("drop trigger strive_guard_object on storage.objects")
    private = attachment("page")
    with scene(fresh_database) as cursor:
        turn(cursor, "member")
        store(cursor, "attachments", private, "member", 10, "text/html")
        move = "update storage.objects set bucket_id = 'avatars', name = %s where name = %s"
        with refused(cursor, "42501", "row-level security"):
            cursor.execute(move, [f"{PEOPLE['member']}/me.png", private])
        with refused(cursor, "42501", "row-level security"):
            store(cursor, "avatars", f"{PEOPLE['member']}/me.png", "member", 10, "text/html")


@pytest.mark.parametrize("loss", ["removed", "demoted", "suspended"])
def test_attack_use_a_signed_upload_address_after_losing_the_right(database: Database, loss: str) -> None:
    with scene(database) as cursor:
        member = PEOPLE["member"]
        if loss == "removed":
            cursor.execute("delete from public.organization_members where user_id = %s", [member])
        elif loss == "demoted":
            cursor.execute("update public.organization_members set role = 'VIEWER' where user_id = %s", [member])
        else:
            cursor.execute("update public.users set suspended_at = now() where id = %s", [member])
        as_storage_service(cursor)
        with refused(cursor, "42501", "may no longer write here"):
            store(cursor, "attachments", attachment("late.txt"), "member")
        store(cursor, "attachments", attachment("in-time.txt"), "admin")


def test_attack_store_empty_files_by_signed_addresses_without_end(database: Database) -> None:
    """Empty files do not count against the plan, and an upload to a signed address carries no claims."""
    with scene(database) as cursor:
        cursor.execute("update public.plans set limits = limits || '{\"rows_per_table\": 30}'")
        as_storage_service(cursor)
        with refused(cursor, "42501", "at most 30 rows in attachments"):
            for number in range(31):
                store(cursor, "attachments", attachment(f"{number}.txt"), "member", 0)


def test_attack_store_avatars_without_end(database: Database) -> None:
    mine = PEOPLE["outsider"]
    with scene(database) as cursor:
        turn(cursor, "outsider")
        for number in range(10):
            store(cursor, "avatars", f"{mine}/{number}.png", "outsider", 2**20)
        with refused(cursor, "42501", "at most 10 avatars and 20 MB"):
            store(cursor, "avatars", f"{mine}/more.png", "outsider")
        store(cursor, "avatars", f"{mine}/0.png", "outsider", 5 * 2**20)  # in the place of another
        cursor.execute("delete from storage.objects where name = any (%s)", [[f"{mine}/{n}.png" for n in (7, 8, 9)]])
        for number in (1, 2):
            store(cursor, "avatars", f"{mine}/{number}.png", "outsider", 5 * 2**20)
        with refused(cursor, "42501", "at most 10 avatars and 20 MB"):
            store(cursor, "avatars", f"{mine}/3.png", "outsider", 5 * 2**20)


@pytest.mark.parametrize("path", ["a/b/c/d.png", "/".join("a" * 500), "a/../b.png", "x" * 300])
def test_attack_nest_folders_of_avatars(database: Database, path: str) -> None:
    with scene(database) as cursor:
        turn(cursor, "outsider")
        with refused(cursor, "42501", "row-level security"):
            store(cursor, "avatars", f"{PEOPLE['outsider']}/{path}", "outsider")
