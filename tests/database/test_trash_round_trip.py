"""Every kind of record, deleted and restored, leaves the whole database as it was."""

import json

import pytest

from tests.database.isolation.matrix import Matrix
from tests.database.test_trash import BUSINESS
from tests.support.world import ACME, PEOPLE

# Deleting and restoring are written here.
WRITTEN = {"trash", "activity_logs", "activity_feeds", "billing_attention", "support_organizations"}


@pytest.mark.parametrize("table", BUSINESS)
def test_restored_record_is_unchanged(matrix: Matrix, table: str) -> None:
    """`matrix` has a row in every table, with rows of other tables that refer to it."""
    row = matrix.specimens.rows[table]["ours"]
    connection = matrix.connection
    names = [name for name in matrix.catalog if "." not in name and name not in WRITTEN]
    snapshot = " union all ".join(
        f"select '{name}', jsonb_agg(to_jsonb(t) - 'updated_at' order by t) from public.{name} t" for name in names
    )
    with connection.transaction(force_rollback=True):
        connection.execute(f"update public.{table} set created_at = '2026-01-01' where id = %s", [row["id"]])
        before = dict(connection.execute(snapshot).fetchall())
        connection.execute(f"delete from public.{table} where id = %s", [row["id"]])
        assert connection.execute(f"select from public.{table} where id = %s", [row["id"]]).rowcount == 0
        entry = connection.execute("select id from public.trash where record_id = %s", [row["id"]]).fetchone()
        connection.execute(
            "select set_config('request.jwt.claims', %s, true)",
            [json.dumps({"sub": str(PEOPLE["member"]), "app_metadata": {"org_id": str(ACME)}})],
        )
        assert entry
        connection.execute("select private.restore_from_trash(array[%s]::uuid[])", [entry[0]])
        assert dict(connection.execute(snapshot).fetchall()) == before
        assert connection.execute("select from public.trash where record_id = %s", [row["id"]]).rowcount == 0
