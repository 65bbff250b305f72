"""Restore an exported organization, all of it or nothing; run by an operator with the login of the database's owner."""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
from psycopg import sql

SyncConnection = psycopg.Connection[Any]
BATCH = 1000


class RestoreError(Exception):
    """Nothing was restored; `hint` says what would help."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


PEOPLE = "public.users"
FILES = "storage.objects"
# A person without an account gets one without a password, and sets one by an e-mail to their address.
ACCOUNT = """
insert into auth.users (
  instance_id, id, aud, role, email, encrypted_password, raw_app_meta_data, raw_user_meta_data, created_at, updated_at,
  confirmation_token, recovery_token, email_change, email_change_token_new
) values (
  '00000000-0000-0000-0000-000000000000', %(id)s, 'authenticated', 'authenticated', %(email)s, '',
  '{"provider": "email", "providers": ["email"]}', jsonb_build_object('name', %(name)s::text), now(), now(),
  '', '', '', ''
)
"""
IDENTITY = """
insert into auth.identities (id, provider, provider_id, user_id, identity_data, created_at, updated_at)
values (gen_random_uuid(), 'email', %(id)s::text, %(id)s::uuid,
  jsonb_build_object('sub', %(id)s::text, 'email', %(email)s::text), now(), now())
"""


def download(response: Path, folder: Path) -> None:
    """Fetch the manifest and the files that a saved response of export-organization names."""
    try:
        export = json.loads(response.read_text())
        addresses = {"manifest.json": export["manifest_url"]} | {file["name"]: file["url"] for file in export["files"]}
        with httpx.Client() as client:
            for name, address in addresses.items():
                (folder / Path(name).name).write_bytes(client.get(address).raise_for_status().content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RestoreError(
            f"{response} is not a response of export-organization: {type(error).__name__} {error}.",
            "Save its whole body, or name a folder with the manifest and the files.",
        ) from None
    except httpx.HTTPError as error:
        raise RestoreError(
            f"A file of the export could not be fetched: {error}.",
            "The addresses are valid for an hour. Export again, or sign new ones.",
        ) from None


def restore(connection: SyncConnection, folder: Path) -> dict[str, int]:
    """Restore an organization; returns the number of rows of each table. `folder` has the manifest and its files."""
    manifest = _manifest(folder)
    organization = manifest["organization_id"]
    log = "select private.log_admin_action('ORG_CREATE', %s, 'organization', %s, %s, %s, %s)"
    about = json.dumps({"export_id": manifest["export_id"]})
    try:
        with connection.transaction():
            rows = _put_back(connection, folder, manifest)
            connection.execute(log, ["Organization restored", organization, about, True, None])
    except (psycopg.Error, RestoreError) as error:
        connection.execute(log, ["Organization not restored", organization, about, False, str(error)[:500]])
        if isinstance(error, RestoreError):
            raise
        raise RestoreError(f"The organization was not restored: {error}") from error
    return rows


def _put_back(connection: SyncConnection, folder: Path, manifest: dict[str, Any]) -> dict[str, int]:
    tables = {table["name"]: table for table in manifest["tables"]}
    organization = manifest["organization_id"]
    _check_tables(connection, tables)
    _make_room(connection, organization)
    for person in _lines(folder, tables[PEOPLE]):
        _make_account(connection, json.loads(person))
    # No trigger runs: what they would do was done when these rows were written. Keys are checked below instead.
    connection.execute("set local session_replication_role = replica")
    rows = {name: _insert(connection, folder, table) for name, table in tables.items() if name not in {PEOPLE, FILES}}
    connection.execute("set local session_replication_role = origin")
    _check_keys(connection, organization)
    return rows


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        UUID(manifest["organization_id"])
        tables = manifest["tables"]
        names = [file["name"] for table in tables for file in table["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RestoreError(f"{folder} has no manifest of an export: {error}") from None
    if manifest.get("version") != 1 or manifest["format"] != "ndjson" or not manifest["complete"]:
        raise RestoreError(
            "Only a complete export in NDJSON can be restored.", "Let a platform admin export it, as ndjson."
        )
    if wrong := [name for name in names if Path(name).name != name]:
        raise RestoreError(f"The manifest names a file outside of the folder: {wrong[0]!r}.")
    return manifest


def _check_tables(connection: SyncConnection, tables: dict[str, Any]) -> None:
    """Refuse different tables or columns: their data would be lost without an error."""
    found = dict(
        connection.execute(
            "select format('%s.%s', c.relnamespace::regnamespace, c.relname), private.stored_columns(c.oid)"
            " from private.export_relations() r join pg_class c on c.oid = r.relation"
        ).fetchall()
    )
    for name, table in tables.items():
        if name in {PEOPLE, FILES}:
            continue
        if unknown := set(table["columns"]) - set(found.get(name, [])):
            raise RestoreError(
                f"The database has no {name} with {', '.join(sorted(unknown))}.",
                "Restore into the version it was made of.",
            )
    if missing := set(found) - set(tables):
        raise RestoreError(
            f"The export lacks {', '.join(sorted(missing))}.", "Restore into the version it was made of."
        )


def _make_room(connection: SyncConnection, organization: str) -> None:
    """Delete an existing organization that has only members; refuse any other."""
    found = connection.execute("select from public.organizations where id = %s for update", [organization])
    if not found.rowcount:
        return
    relations = connection.execute(
        "select relation::text, condition from private.export_relations()"
        " where relation not in ('public.organizations'::regclass, 'public.organization_members'::regclass,"
        " 'public.activity_logs'::regclass, 'private.archived_activity_logs'::regclass)"
    ).fetchall()
    for relation, condition in relations:
        query = f"select from {relation} t where {condition.replace('$1', '%s')} limit 1"
        if connection.execute(query, [organization]).rowcount:
            raise RestoreError(f"The organization {organization} is not empty: there are {relation}.")
    connection.execute("delete from public.organizations where id = %s", [organization])


def _make_account(connection: SyncConnection, person: dict[str, Any]) -> None:
    if connection.execute("select from public.users where id = %s", [person["id"]]).rowcount:
        return
    connection.execute(ACCOUNT, person)
    connection.execute(IDENTITY, person)


def _insert(connection: SyncConnection, folder: Path, table: dict[str, Any]) -> int:
    name = sql.Identifier(*table["name"].split("."))
    columns = sql.SQL(", ").join(map(sql.Identifier, table["columns"]))
    statement = sql.SQL(
        "insert into {name} ({columns}) overriding system value"
        " select {columns} from jsonb_populate_recordset(null::{name}, %s::jsonb)"
    ).format(name=name, columns=columns)
    lines, rows = _lines(folder, table), 0
    while batch := list(islice(lines, BATCH)):
        rows += connection.execute(statement, [f"[{','.join(batch)}]"]).rowcount
    if rows != table["rows"]:
        raise RestoreError(f"{table['name']} has {rows} rows, the manifest says {table['rows']}.")
    return rows


def _lines(folder: Path, table: dict[str, Any]) -> Iterator[str]:
    """The rows of a table, after each file was compared with its hash."""
    for file in table["files"]:
        try:
            content = (folder / file["name"]).read_bytes()
        except OSError as error:
            raise RestoreError(f"{file['name']} cannot be read: {error.strerror}.") from None
        if hashlib.sha256(content).hexdigest() != file["sha256"]:
            raise RestoreError(f"{file['name']} is not the file that was exported: its hash differs.")
        # Not splitlines(): a text may hold characters that Python takes for the end of a line.
        yield from content.decode().split("\n")[:-1]


def _check_keys(connection: SyncConnection, organization: str) -> None:
    """Check every foreign key of the restored rows, as its trigger would have."""
    keys = connection.execute(
        "select k.conname, r.relation::text, r.condition, k.confrelid::regclass::text,"
        " string_agg(format('t.%I = other.%I', own.attname, parent.attname), ' and '),"
        " string_agg(format('t.%I is not null', own.attname), ' and ')"
        " from private.export_relations() r"
        " join pg_constraint k on k.conrelid = r.relation and k.contype = 'f'"
        " cross join unnest(k.conkey, k.confkey) as pair (own, other)"
        " join pg_attribute own on own.attrelid = k.conrelid and own.attnum = pair.own"
        " join pg_attribute parent on parent.attrelid = k.confrelid and parent.attnum = pair.other"
        " group by k.oid, k.conname, r.relation, r.condition, k.confrelid"
    ).fetchall()
    for key, relation, condition, parent, equal, given in keys:
        query = f"select from {relation} t where {condition} and {given}"
        query += f" and not exists (select from {parent} other where {equal}) limit 1"
        if connection.execute(query.replace("$1", "%s"), [organization]).rowcount:
            raise RestoreError(f"Rows of {relation} point to nothing ({key}).")
