"""The job that keeps files in Storage and their rows in Postgres in sync."""

from shared.administration.services import remove, services
from shared.database.pool import Connection, one
from shared.settings import Settings

DELETED_AT_ONCE = 100


async def sync(settings: Settings, connection: Connection) -> dict[str, int]:
    counts: dict[str, int] = await one(connection, "select private.repair_attachments()")
    counts["deleted"] = 0
    async with services(settings) as client:
        while claimed := await one(connection, "select private.claim_files_to_delete(%s)", [DELETED_AT_ONCE]):
            deleted = 0
            for bucket, names in claimed.items():
                await remove(client, bucket, names)
                deleted += await one(connection, "select private.forget_deleted_files(%s, %s)", [bucket, names])
            if not deleted:
                raise RuntimeError("the storage service deleted none of the files")
            counts["deleted"] += deleted
    return counts
