"""The same table of expectations over HTTP."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.database.isolation.actors import ACTORS, TWINS, Actor
from tests.database.isolation.catalog import ForeignKey, Table
from tests.database.isolation.expected import Expected
from tests.database.isolation.matrix import Matrix
from tests.database.isolation.specimens import FOLDER
from tests.local.api import Api, running
from tests.support.world import ACME, GLOBEX, Database

EXPECTED = Expected.read()
TABLES = [name for name in EXPECTED.lines if "." not in name]
FORGED = {
    "outsider naming an organization",
    "outsider with forged user_metadata",
    "outsider with forged app_metadata",
    "owner of both in theirs",
}
CALLERS = [actor for actor in (*ACTORS, *TWINS) if actor in ACTORS or actor.name in FORGED]
# One of each kind of view on the tables. Rows that are brought along obey the same policies, and a query with all
# relations of a table costs as much as many plain ones.
EMBEDDING = {
    "anon",
    "outsider",
    "viewer",
    "member",
    "globex_owner",
    "platform_admin",
    "service_role",
    "owner naming another organization",
}


@pytest.fixture(scope="module")
def api(matrix: Matrix, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    assert matrix.specimens.rows
    with running(database, tmp_path_factory.mktemp("api")) as api:
        yield api


@pytest.fixture(scope="module")
def clients(api: Api) -> dict[str, httpx.Client]:
    return {actor.name: client(api, actor) for actor in CALLERS}


def client(api: Api, actor: Actor) -> httpx.Client:
    headers = json.loads(actor.headers)
    if actor.role == "service_role":
        return api.admin(**headers)
    if actor.role == "anon":
        return api.http(**headers)
    return api.http(token=api.mint(**json.loads(actor.claims)), **headers)


def key(table: Table, row: dict[str, Any]) -> str:
    """As Postgres writes it: JSON writes times in another form."""
    return ",".join(str(row[column]).replace("T", " ").replace("+00:00", "+00") for column in table.key)


def visible(matrix: Matrix, name: str, actor: Actor) -> tuple[set[str], set[str]]:
    """Keys of the rows this actor must see, and must not see."""
    seen: set[str] = set()
    hidden: set[str] = set()
    for kind, one in matrix.specimens.keys[name].items():
        (seen if EXPECTED.lines[name][f"{kind} select"][actor.column] == "ok" else hidden).add(one)
    return seen, hidden


def embeds(matrix: Matrix, table: Table) -> Iterator[tuple[str, str, ForeignKey]]:
    """Relations to embed, to one and to many: alias, table, foreign key."""
    for n, foreign in enumerate(table.foreign_keys):
        if (parent := foreign.parent.removeprefix("public.")) in TABLES and parent != table.name:
            yield f"one_{n}", parent, foreign
    for name in TABLES:
        for n, foreign in enumerate(matrix.catalog[name].foreign_keys):
            if foreign.parent == f"public.{table.name}" and name != table.name:
                yield f"many_{name}_{n}", name, foreign


@pytest.mark.parametrize("name", TABLES)
def test_clients_see_and_embed_the_rows_they_may_see(
    matrix: Matrix, clients: dict[str, httpx.Client], name: str
) -> None:
    table = matrix.catalog[name]
    relations = list(embeds(matrix, table))
    for actor in CALLERS:
        along = relations if actor.name in EMBEDDING else []
        embedded = [
            f'{alias}:{other}!"{foreign.name}"({",".join(matrix.catalog[other].key)})'
            for alias, other, foreign in along
        ]
        answer = clients[actor.name].get(f"/rest/v1/{name}", params={"select": ",".join([*table.key, *embedded])})
        seen, hidden = visible(matrix, name, actor)
        if answer.is_error:
            assert answer.json()["code"] == "42501", answer.text
            plain = clients[actor.name].get(f"/rest/v1/{name}", params={"select": ",".join(table.key)})
            assert not seen or (actor.role == "anon" and plain.status_code == 200), (actor.name, answer.text)
            continue
        rows = answer.json()
        found = {key(table, row) for row in rows}
        assert seen <= found, actor.name
        assert not hidden & found, actor.name
        for alias, other, _ in along:
            brought = [
                one for row in rows for one in ([row[alias]] if isinstance(row[alias], dict) else row[alias] or [])
            ]
            assert not visible(matrix, other, actor)[1] & {key(matrix.catalog[other], one) for one in brought}, (
                actor.name,
                alias,
            )
            assert brought or actor.role != "service_role", f"{name} brings no {alias} along"


def outcome(answer: httpx.Response) -> str:
    """The response as an outcome of the table of expectations."""
    if answer.is_success:
        return "ok" if answer.status_code == 204 or answer.json() not in ([], None) else "."
    code = str(answer.json()["code"])
    return "no" if code == "42501" else code


# table → a change of one column
CHANGES: dict[str, dict[str, Any]] = {
    "leads": {"notes": "changed"},
    "quick_actions": {"description": "changed"},
    "content": {"excerpt": "changed"},
    "user_dashboards": {"auto_refresh": False},
}


def attempt(client: httpx.Client, name: str, action: str, one: str, row: dict[str, Any]) -> httpx.Response:
    path, here = f"/rest/v1/{name}", {"id": f"eq.{one}"}
    back = {"prefer": "return=representation"}
    match action:
        case "update":
            return client.patch(path, params=here, json=CHANGES[name], headers=back)
        case "delete":
            return client.delete(path, params=here, headers=back)
        case "insert":
            return client.post(path, json=row, headers=back)
        case _:
            merge = {"prefer": "return=representation,resolution=merge-duplicates"}
            return client.post(path, json=row | {"id": one}, headers=merge)


@pytest.mark.parametrize("name", CHANGES)
def test_clients_write_the_rows_they_may_write(matrix: Matrix, clients: dict[str, httpx.Client], name: str) -> None:
    table, lines = matrix.catalog[name], EXPECTED.lines[name]
    wrong = []
    for kind, one in matrix.specimens.keys[name].items():
        row = matrix.specimens.rows[name][kind]
        planned = {column: row[column] for column in matrix.specimens.planned[name][kind]}
        granted = {column: value for column, value in planned.items() if table.columns[column].insertable}
        for actor in CALLERS:
            sent = planned if actor.role == "service_role" else granted
            for action in ("update", "upsert", "delete", "insert"):
                if action == "insert":
                    remove(matrix, table, one)
                found = outcome(attempt(clients[actor.name], name, action, one, sent))
                expected = lines[f"{kind} {action}"][actor.column]
                if action == "insert" and lines[f"{kind} select"][actor.column] != "ok":
                    expected = "no"  # what one may not see is not given back
                if found != expected:
                    wrong.append(f"{kind} {action} as {actor.name}: expected {expected}, found {found}")
                restore(matrix, table, row)
    assert wrong == []


def remove(matrix: Matrix, table: Table, one: str) -> None:
    with matrix.connection.transaction():
        matrix.connection.execute("set local session_replication_role = replica")
        matrix.connection.execute(f"delete from {table.sql} where {table.key_text} = %s", [one])


def restore(matrix: Matrix, table: Table, row: dict[str, Any]) -> None:
    """The original row is there, unchanged, and no forged one."""
    known = list(matrix.specimens.keys[table.name].values())
    columns = ", ".join(f'"{column.name}"' for column in table.columns.values() if not column.generated)
    with matrix.connection.transaction():
        matrix.connection.execute("set local session_replication_role = replica")
        matrix.connection.execute(
            f"delete from {table.sql} where {table.key_text} = %s or {table.key_text} <> all (%s)",
            [key(table, row), known],
        )
        matrix.connection.execute(
            f"insert into {table.sql} ({columns}) select {columns} from jsonb_populate_record(null::{table.sql}, %s)",
            [json.dumps(row)],
        )


CALLS: dict[str, dict[str, str]] = {
    "my_organizations()": {},
    "feed_page()": {},
    "my_quick_actions()": {},
    "unread_notification_count()": {},
    "dashboard_snapshot()": {},
    "metric_value(dashboard_metrics.ours)": {"metric_id": "dashboard_metrics.ours"},
    "widget_data(dashboard_widgets.ours)": {"widget_id": "dashboard_widgets.ours"},
    "estimate_order('SIMPLE')": {"complexity": "SIMPLE"},
    "accept_invitation('a guess')": {"token": "a guess"},
    "view_showcase(project_showcases.ours)": {"showcase_id": "project_showcases.ours"},
    "run_quick_action(quick_actions.ours)": {"action_id": "quick_actions.ours"},
    "use_template(agent_templates.ours_public)": {"template_id": "agent_templates.ours public"},
}


@pytest.mark.parametrize("call", CALLS)
def test_clients_call_the_functions_they_may_call(matrix: Matrix, clients: dict[str, httpx.Client], call: str) -> None:
    arguments = {}
    for name, value in CALLS[call].items():
        table, _, kind = value.partition(".")
        arguments[name] = matrix.specimens.keys[table][kind] if kind else value
    for actor in CALLERS:
        answer = clients[actor.name].post(f"/rest/v1/rpc/{call.partition('(')[0]}", json=arguments)
        assert outcome(answer) == EXPECTED.functions[call][actor.column], (actor.name, answer.text)


def test_clients_reach_the_files_they_may_reach(clients: dict[str, httpx.Client], api: Api) -> None:
    assert api.url
    for actor in CALLERS:
        for kind, organization in (("ours", ACME), ("theirs", GLOBEX)):
            path = f"attachments/{organization}/{FOLDER}/{uuid4()}"
            wanted = {
                action: EXPECTED.lines["storage.objects"][f"{kind} {action}"][actor.column]
                for action in ("select", "insert")
            }
            added = clients[actor.name].post(f"/storage/v1/object/{path}", content=b"x")
            assert added.is_success == (wanted["insert"] == "ok"), (actor.name, kind, added.text)
            if not added.is_success:
                assert api.admin().post(f"/storage/v1/object/{path}", content=b"x").is_success
            read = clients[actor.name].get(f"/storage/v1/object/authenticated/{path}")
            assert read.is_success == (wanted["select"] == "ok"), (actor.name, kind, read.text)
            folder = {"prefix": f"{organization}/{FOLDER}"}
            listed = clients[actor.name].post("/storage/v1/object/list/attachments", json=folder)
            assert (listed.is_success and listed.json() != []) == (wanted["select"] == "ok"), (actor.name, kind)
            gone = clients[actor.name].request(
                "DELETE", "/storage/v1/object/attachments", json={"prefixes": [path[12:]]}
            )
            if wanted["insert"] != "ok":
                assert gone.is_error or gone.json() == [], (actor.name, kind, gone.text)
