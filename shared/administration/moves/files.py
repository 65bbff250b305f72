"""The files of the organization, and avatars of people whose accounts the move brings, from one Storage to the other.

Once the bytes at the target were compared, its row of the file gets what the row at the source has: owner, times,
metadata. So a file whose rows are equal is there, and one whose copy was interrupted is copied again.
"""

import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from shared.administration.moves.sides import Connection, MoveError, Sides, row

if TYPE_CHECKING:
    from supabase import SupabaseStorageClient

AT_ONCE = 8
BATCH = 100
TIMEOUT_SECONDS = 15
AGAIN = "Run the same command again: it goes on where it stopped."
# What is listed for deletion is gone already.
FILES = """
select {} from unnest(%(buckets)s::text[], %(folders)s::text[]) f (bucket, folder)
join storage.objects o
  on o.bucket_id = f.bucket and o.name collate "C" >= f.folder || '/' and o.name collate "C" < f.folder || '0'
where not exists (select from private.files_to_delete d where d.bucket_id = o.bucket_id and d.name = o.name)
"""
ROW = "jsonb_build_object({})".format(
    ", ".join(
        f"'{name}', o.{name}" for name in ("metadata", "user_metadata", "owner", "owner_id", "created_at", "updated_at")
    )
)
HASHES = FILES.format(f"o.bucket_id, o.name, o.owner_id is null, hashtextextended({ROW}::text, 0)")
ROWS = f"{FILES.format(f'o.bucket_id, o.name, {ROW}')} and o.name = any (%(names)s)"
STORED = """
select o.bucket_id, o.name, (o.metadata ->> 'size')::bigint, trim(o.metadata ->> 'eTag', '"') from storage.objects o
where o.name = any (%s)
"""
COMPLETE = """
update storage.objects o set metadata = s.metadata, user_metadata = s.user_metadata, owner = s.owner,
  owner_id = s.owner_id, created_at = s.created_at, updated_at = s.updated_at
from jsonb_populate_recordset(null::storage.objects, %s::jsonb) s where o.bucket_id = s.bucket_id and o.name = s.name
"""
# Without it, uploads do not follow the lock that holds writes.
IS_HELD = """
select exists (
  select from pg_trigger
  where tgrelid = 'storage.objects'::regclass and tgname = 'strive_follow_object' and tgenabled <> 'D'
)
"""


@dataclass(frozen=True)
class Project:
    """Where the Storage of a side is reached."""

    url: str
    secret_key: str = field(repr=False)


Projects = tuple[Project, Project]
Place = tuple[str, str]
# Whether the row has no owner, and a hash of it.
Found = dict[Place, tuple[bool, int]]


class Files:
    def __init__(self, sides: Sides, projects: Projects | None) -> None:
        self._sides, self._storages = sides, projects and _open(projects)
        self.copied = 0

    def close(self) -> None:
        self._sides.close()
        if self._storages:
            self._storages[0].session.close()

    def check(self) -> None:
        """Files need the keys of both projects, and a source whose uploads can be held."""
        if not (found := self._found(self._sides.source)):
            return
        if not row(self._sides.source, IS_HELD)[0]:
            raise MoveError("The source has no triggers on storage.objects: uploads could not be held.")
        for storage in self._both(len(found)):
            try:
                storage.get_bucket("attachments")
            except Exception as error:
                raise MoveError(
                    f"A Storage did not respond: {error}", "Check its address and its secret key."
                ) from error

    def equalize(self, *, is_held: bool = False) -> int:
        """Copy what differs: the number of files."""
        stored, there_stored = self._sides.on_both(self._found)
        changed, gone = _differing(stored, there_stored)
        if not (changed or gone):
            return 0
        here, there = self._both(len(changed))
        for first in range(0, len(gone), BATCH):
            there.from_("attachments").remove(gone[first : first + BATCH])
        for first in range(0, len(changed), BATCH):
            self._copy(here, there, changed[first : first + BATCH])
        # While writes are held no file of the source changes: all must be equal now.
        if is_held and (left := _differing(stored, self._found(self._sides.target))) != ([], []):
            names = [name for _, name in left[0]] + left[1]
            raise MoveError(f"{len(names)} files could not be copied, for instance {names[0]}.", AGAIN)
        return len(changed) + len(gone)

    def _both(self, count: int) -> "tuple[SupabaseStorageClient, SupabaseStorageClient]":
        if not self._storages:
            raise MoveError(
                f"It has {count} files, and the Storage of the projects is not known.",
                "Set SOURCE_SECRET_KEY and TARGET_SECRET_KEY, and name the projects with --source and --address.",
            )
        return self._storages

    def _folders(self) -> dict[str, list[str]]:
        statement = "select created_accounts::text[] from private.organization_moves where organization_id = %s"
        (people,) = row(self._sides.target, statement, self._sides.organization) or ([],)
        places = [("attachments", self._sides.organization), *(("avatars", person) for person in people)]
        return {"buckets": [bucket for bucket, _ in places], "folders": [folder for _, folder in places]}

    def _found(self, connection: Connection) -> Found:
        found = connection.execute(HASHES, self._folders())
        return {(bucket, name): (is_ownerless, digest) for bucket, name, is_ownerless, digest in found}

    def _copy(self, here: "SupabaseStorageClient", there: "SupabaseStorageClient", places: list[Place]) -> None:
        chosen = self._folders() | {"names": [name for _, name in places]}
        rows = {(bucket, name): values for bucket, name, values in self._sides.source.execute(ROWS, chosen)}

        def copy(place: Place) -> dict[str, Any] | None:
            """Its row for the target; None if it was deleted, replaced, or not transferred: the next round has it."""
            (bucket, name), values = place, rows[place]
            metadata = values["metadata"] or {}
            seconds = re.search(r"\d+", metadata.get("cacheControl") or "")
            content = _read(here, place)
            if content is None or len(content) != metadata.get("size"):
                return None
            try:
                there.from_(bucket).upload(
                    quote(name),
                    content,
                    {
                        "content-type": metadata.get("mimetype") or "application/octet-stream",
                        "cache-control": seconds[0] if seconds else "0",
                        "upsert": "true",
                    },
                )
            except Exception as error:
                if _is_transient(error):
                    return None
                raise MoveError(f"{bucket}/{name} was not stored at the target: {error}", AGAIN) from error
            return {"bucket_id": bucket, "name": name, "sum": _sum(content), **values}

        with ThreadPoolExecutor(AT_ONCE) as threads:
            copied = [each for each in threads.map(copy, rows) if each]
        found = self._sides.target.execute(STORED, [chosen["names"]])
        stored = {(bucket, name): (size, checksum) for bucket, name, size, checksum in found}
        for each in copied:
            place = each["bucket_id"], each["name"]
            if place not in stored:
                raise MoveError(
                    "The target's database lacks a stored file.", "Are --to and --address the same project?"
                )
            # A checksum of Storage is not always that of the content: then the content is compared.
            if stored[place] != (each["metadata"]["size"], each["sum"]) and _sum(_read(there, place)) != each["sum"]:
                raise MoveError(f"{'/'.join(place)} at the target differs from the source.", AGAIN)
        with self._sides.writing():
            self._sides.target.execute(COMPLETE, [json.dumps(copied)])
        self.copied += len(copied)


def _differing(here: Found, there: Found) -> tuple[list[Place], list[str]]:
    """Files to copy, and names of attachments to delete at the target.

    A person may already use the account at the target: an avatar is copied where there is none, or half of a copy.
    """
    changed = [
        place
        for place, stored in here.items()
        if there.get(place) != stored and (place[0] == "attachments" or place not in there or there[place][0])
    ]
    return changed, [name for bucket, name in there if bucket == "attachments" and (bucket, name) not in here]


def _open(projects: Projects) -> "tuple[SupabaseStorageClient, SupabaseStorageClient]":
    """Open the clients before writes are held: loading the library and its certificates takes too long for that."""
    import httpx  # noqa: PLC0415 - as above

    from supabase import ClientOptions, create_client  # noqa: PLC0415 - as above

    http = httpx.Client(timeout=TIMEOUT_SECONDS, limits=httpx.Limits(max_connections=AT_ONCE))
    options = ClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
    here, there = (create_client(each.url, each.secret_key, options).storage for each in projects)
    return here, there


def _read(storage: "SupabaseStorageClient", place: Place) -> bytes | None:
    """The content of a file, or None without such a file or connection."""
    bucket, name = place
    try:
        return storage.from_(bucket).download(quote(name))
    except Exception as error:
        if str(getattr(error, "status", "")) == "404" or _is_transient(error):
            return None
        raise MoveError(f"{bucket}/{name} was not read: {error}", AGAIN) from error


def _is_transient(error: Exception) -> bool:
    import httpx  # noqa: PLC0415 - as above

    return isinstance(error, httpx.TransportError)


def _sum(content: bytes | None) -> str:
    """The checksum of a file, as most Storages compute it."""
    return hashlib.md5(content or b"", usedforsecurity=False).hexdigest()
