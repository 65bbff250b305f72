"""An organization moves between two databases: what arrives, what is refused, and what happens when the move dies."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest

from local.cli import main
from local.postgres import SUPERUSER, Cluster
from shared.administration.moves import move as moving
from shared.administration.moves.files import Project, Projects
from shared.administration.moves.move import Move, Report
from shared.administration.moves.sides import MoveError
from shared.database import errors  # noqa: F401 - registers the responses of the database
from shared.errors import error_response
from tests.database.isolation.expected import Expected
from tests.database.isolation.matrix import Matrix
from tests.local.api import Api, running
from tests.support.world import ACME, GLOBEX, PEOPLE, Connection, Database, fixed_id

ADDRESS = "https://second.example"


class KilledError(BaseException):
    """The process of the move died: nothing after this line ran."""


@dataclass
class Pair:
    source: Database
    target: Database
    projects: Projects | None = None

    @contextmanager
    def moving(self, step: Any = lambda _: None) -> Iterator[Move]:
        with (
            self.source.connect() as here,
            self.target.connect() as there,
            closing(Move(here, there, str(ACME), step, self.projects)) as move,
        ):
            yield move

    def move(self, step: Any = lambda _: None) -> Report:
        with self.moving(step) as move:
            return move.run(ADDRESS)


@pytest.fixture(scope="module")
def template(cluster: Cluster) -> Iterator[Pair]:
    """Acme has rows in every table; the other database has no organizations and no people."""
    with Database(cluster, "world").copied() as source, Database(cluster, "world").copied() as target:
        with source.connect(SUPERUSER) as superuser, source.connect() as owner:
            Matrix(superuser, Expected.read()).populate(owner)
            # Public templates of others are not at the target, and files do not move.
            owner.execute("delete from public.template_reviews r where r.organization_id is distinct from"
                " (select t.organization_id from public.agent_templates t where t.id = r.template_id)")  # fmt: skip
            owner.execute("delete from storage.objects")
        with target.connect() as owner:
            owner.execute("set session_replication_role = replica")
            for (relation,) in owner.execute("select relation::text from private.export_relations()").fetchall():
                owner.execute(f"delete from {relation}")
            owner.execute("delete from public.users; delete from auth.users; delete from auth.identities")
        yield Pair(source, target)


@pytest.fixture
def pair(template: Pair) -> Iterator[Pair]:
    with template.source.copied() as source, template.target.copied() as target:
        yield Pair(source, target)


def rows(database: Database, organization: Any = ACME) -> dict[str, Any]:
    """Every row of the organization, by table."""
    found = {}
    with database.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        relations = connection.execute(
            "select relation::text, condition, private.stored_columns(relation) from private.move_relations()"
            " where owners is null"
        ).fetchall()
        for relation, condition, columns in relations:
            hidden = {"id"} if relation == "private.usage_entries" else set()
            line = ", ".join(f't."{name}"' for name in columns if name not in hidden)
            query = f"select row({line})::text from {relation} t where {condition.replace('$1', '%s')} order by 1"
            if lines := connection.execute(query, [organization]).fetchall():
                found[relation] = lines
    return found


def states(pair: Pair) -> tuple[str | None, str | None]:
    with pair.moving() as move:
        return move.states()


def test_everything_arrives_as_it_was(pair: Pair) -> None:
    before = rows(pair.source)
    globex = rows(pair.source, GLOBEX)
    report = pair.move()
    assert rows(pair.target) == before
    assert rows(pair.source, GLOBEX) == globex
    assert states(pair) == ("MOVED", "ARRIVED")
    assert report.rows["public.organization_members"] == len(before["organization_members"])


STEPS = ["check", "begin", "note", "copy 0", "copy 1", "jobs", "hold", "last round", "switch", "arrive"]


def test_move_killed_at_every_step_is_finished_by_the_same_command(pair: Pair) -> None:
    before = rows(pair.source)
    write = "insert into public.tasks (title) values ('late') returning id"
    for last in STEPS:

        def step(name: str, last: str = last) -> None:
            if name == last:
                raise KilledError

        with pytest.raises(KilledError):
            pair.move(step)
        # Until the switch everything goes on at the source; after it nothing does.
        with pair.source.acting_as("member") as cursor:
            if last == "arrive":
                assert refusal(cursor, write) == (421, "organization_moved", ADDRESS)
            else:
                cursor.execute(write)
    pair.move()
    assert rows(pair.target) == before
    assert pair.move().rows == {}  # nothing is done twice


def refusal(cursor: psycopg.Cursor[Any], statement: str, *values: Any) -> tuple[int, str, Any]:
    with pytest.raises(psycopg.Error) as caught:
        cursor.execute(statement, values)
    response = error_response(caught.value)
    return response.status, response.code, response.details


def test_rows_written_during_the_copy_arrive(pair: Pair) -> None:
    serial = count()

    def step(name: str) -> None:
        if not name.startswith("copy"):
            return
        number = next(serial)
        with pair.source.connect() as owner:
            owner.execute("insert into public.tasks (organization_id, title) values (%s, %s)", [ACME, f"new {number}"])
            owner.execute("update public.leads set name = %s where organization_id = %s", [f"Lead {number}", ACME])
            one = "select id from public.notes where organization_id = %s limit 1"
            owner.execute(f"delete from public.notes where id in ({one})", [ACME])
            owner.execute("insert into private.idempotency_keys (owner, operation, key, fingerprint, answer)"
                " values (%s, 'x', %s, '', '{}')", [str(PEOPLE["member"]), f"key {number}"])  # fmt: skip

    left = {}

    def last(name: str) -> None:
        step(name)
        if name == "switch":
            left.update(rows(pair.source))

    pair.move(last)
    assert rows(pair.target) == left
    with pair.target.connect() as owner:
        found = owner.execute("select key from private.idempotency_keys order by key").fetchall()
    assert found == [("key 0",), ("key 1",)]


def test_writes_are_refused_and_reads_continue_while_held(pair: Pair) -> None:
    found: list[Any] = []

    def step(name: str) -> None:
        if name != "last round":
            return
        with pair.source.acting_as("member") as cursor:
            found.append(refusal(cursor, "insert into public.tasks (title) values ('late')")[:2])
        with pair.source.acting_as("member") as cursor:
            found.append(refusal(cursor, "update public.tasks set title = 'late'")[:2])
        with pair.source.acting_as("owner") as cursor:
            found.append(refusal(cursor, "delete from public.tasks")[:2])
        with pair.source.connect() as owner:  # a job, or an event of Stripe
            change = "update public.subscriptions set updated_at = now() where organization_id = %s"
            found.append(refusal(owner.cursor(), change, ACME)[:2])
        with pair.source.acting_as("member") as cursor:
            found.append(cursor.execute("select count(*) from public.tasks").fetchone())
        with pair.source.acting_as("globex_member") as cursor:
            found.append(cursor.execute("insert into public.tasks (title) values ('other') returning title").fetchone())

    pair.move(step)
    assert found == [(503, "organization_moving")] * 4 + [{"count": 1}, {"title": "other"}]


def test_transaction_that_wrote_before_the_hold_is_waited_for(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "LOCK_SECONDS", 0.01)
    with ExitStack() as open_ones:
        held = 0
        writer: Connection | None = None

        def step(name: str) -> None:
            nonlocal held, writer
            if name == "hold":
                held += 1
                if held == 1:
                    writer = open_ones.enter_context(pair.source.connect())
                    writer.autocommit = False
                    writer.execute("insert into public.tasks (organization_id, title) values (%s, 'slow')", [ACME])
                elif writer:
                    writer.commit()

        pair.move(step)
    assert held == 2
    assert any("slow" in line for (line,) in rows(pair.target)["tasks"])


def test_member_signs_in_at_the_new_home(pair: Pair) -> None:
    with pair.source.connect() as owner:
        owner.execute("update auth.users set encrypted_password = 'hash' where id = %s", [PEOPLE["member"]])
        owner.execute("update public.users set global_role = 'ADMIN' where id = %s", [PEOPLE["owner"]])
    pair.move()
    with pair.target.connect() as owner:
        statement = (
            "select encrypted_password, global_role::text from auth.users join public.users using (id) where id = %s"
        )
        assert owner.execute(statement, [PEOPLE["member"]]).fetchone() == ("hash", "USER")
        assert owner.execute(statement, [PEOPLE["owner"]]).fetchone() == (None, "USER")
    with pair.target.acting_as("member") as cursor:
        assert cursor.execute("insert into public.tasks (title) values ('new') returning title").fetchone() == {
            "title": "new"
        }
    with pair.target.acting_as("suspended") as cursor:
        assert cursor.execute("select from public.tasks").rowcount == 0


def test_copy_is_invisible_before_it_arrives(pair: Pair) -> None:
    def step(name: str) -> None:
        if name in {"last round", "switch", "arrive"}:
            for person in ("outsider", "removed", "platform_admin"):
                with pair.target.acting_as(person) as cursor:
                    assert cursor.execute("select from public.tasks").rowcount == 0
        if name == "last round":
            with pair.target.acting_as("member") as cursor:
                assert cursor.execute("select from public.tasks").rowcount == 0
        elif name in {"switch", "arrive"}:  # it is sent here already
            with pair.target.acting_as("member") as cursor:
                assert refusal(cursor, "select from public.tasks") == (503, "organization_moving", None)

    pair.move(step)


def test_late_requests_get_the_new_address(pair: Pair) -> None:
    with pair.source.connect() as owner:
        statement = "select id, created_by from public.api_keys where organization_id = %s limit 1"
        key, creator = owner.execute(statement, [ACME]).fetchone() or ("", "")
    pair.move()
    moved = (421, "organization_moved", ADDRESS)
    for erased in (False, True):
        if erased:
            with pair.moving() as move:
                move.erase()
        for statement in (
            "select from public.tasks",
            "insert into public.tasks (title) values ('late')",
        ):
            with pair.source.acting_as("member") as cursor:
                assert refusal(cursor, statement) == moved, statement
        # Also without naming it, as it was their only one.
        with pair.source.acting_as("member", claims={"sub": str(PEOPLE["member"]), "role": "authenticated"}) as cursor:
            assert refusal(cursor, "select from public.tasks") == moved
        claims = {"sub": str(creator), "role": "authenticated", "api_key_id": str(key), "scopes": []}
        with pair.source.acting_as(None, claims=claims, role="authenticated") as cursor:
            assert refusal(cursor, "select from public.tasks") == moved
        with pair.source.acting_as("globex_member") as cursor:
            cursor.execute("insert into public.tasks (title) values ('other')")
    assert rows(pair.source) == {}


def test_my_organizations_has_the_new_address(pair: Pair) -> None:
    with pair.source.connect() as owner:
        join = "insert into public.organization_members (organization_id, user_id, role) values (%s, %s, 'VIEWER')"
        owner.execute(join, [GLOBEX, PEOPLE["admin"]])
    pair.move()
    listing = "select id, name, role::text, is_current, moved_to from public.my_organizations()"
    moved = {"id": ACME, "name": "Acme", "role": None, "is_current": False, "moved_to": ADDRESS}
    globex = {"id": GLOBEX, "name": "Globex", "role": "VIEWER", "is_current": True, "moved_to": None}
    unnamed = {"sub": str(PEOPLE["admin"]), "role": "authenticated"}
    with pair.source.acting_as("member") as cursor:
        assert cursor.execute(listing).fetchall() == [moved]
    with pair.source.acting_as("admin", claims=unnamed) as cursor:
        assert cursor.execute(listing).fetchall() == [globex, moved]
    with pair.source.acting_as("admin") as cursor:  # names the one that has moved
        assert cursor.execute(listing).fetchall() == [globex | {"is_current": False}, moved]
    with pair.source.acting_as("globex_member") as cursor:
        assert [each["id"] for each in cursor.execute(listing)] == [GLOBEX]
    with pair.target.acting_as("member") as cursor:
        assert cursor.execute(listing).fetchall() == [moved | {"role": "MEMBER", "is_current": True, "moved_to": None}]
    with pair.moving() as move:
        move.erase()
    with pair.source.acting_as("member") as cursor:
        assert cursor.execute(listing).fetchall() == [moved | {"name": None}]


def test_late_write_of_an_old_transaction_is_refused(pair: Pair) -> None:
    """It was allowed to write before the switch, and writes after it."""
    with pair.source.connect("authenticator") as late:
        late.autocommit = False
        late.execute("set local role authenticated")
        late.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps({"sub": str(PEOPLE["member"])})])
        pair.move()
        assert (
            refusal(late.cursor(), "insert into public.tasks (organization_id, title) values (%s, 'late')", ACME)[0]
            == 421
        )


def test_upload_that_ends_after_the_switch_is_refused(pair: Pair) -> None:
    """The storage service writes its row as itself: the person was allowed when the upload began."""
    row = (
        "insert into public.attachments (organization_id, entity_type, entity_id, file_name, file_size, mime_type,"
        " file_path) values (%s, 'tasks', %s, 'late', 1, 'text/plain', %s)"
    )
    pair.move()
    with pair.source.connect() as late:
        late.execute("set storage.operation = 'storage.object.upload'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=f"moved to another address: {ADDRESS}"):
            late.execute(row, [ACME, ACME, f"{ACME}/tasks/{ACME}/late"])


def test_abort_leaves_both_as_before(pair: Pair) -> None:
    before, there = rows(pair.source), rows(pair.target)

    def step(name: str) -> None:
        if name == "switch":
            raise KilledError

    with pytest.raises(KilledError):
        pair.move(step)
    assert rows(pair.target) != there
    with pair.moving() as move:
        move.abort()
        assert move.states() == (None, None)
    assert (rows(pair.source), rows(pair.target)) == (before, there)
    with pair.target.connect() as owner:
        assert owner.execute("select count(*) from auth.users").fetchone() == (0,)
    pair.move()
    assert rows(pair.target) == before
    with pair.moving() as move, pytest.raises(MoveError, match="It has moved already"):
        move.abort()


def test_moves_back_after_it_was_erased(pair: Pair) -> None:
    before = rows(pair.source)
    pair.move()
    back = Pair(pair.target, pair.source)
    with pytest.raises(MoveError, match="The target has an organization with id"):
        back.move()
    with pair.moving() as move:
        move.erase()
    back.move()
    assert rows(pair.source) == before
    with pair.source.acting_as("member") as cursor:
        cursor.execute("insert into public.tasks (title) values ('at home')")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("insert into public.organizations (name, slug) values ('Acme', 'acme')", "slug acme"),
        (
            "insert into auth.users (id, email) values (gen_random_uuid(), 'MEMBER@strive.test')",
            "has member@strive.test at the target",
        ),
        ("insert into auth.users (id, email) select {member}, 'x@strive.test'", "x@strive.test at the target"),
        (
            "insert into public.organizations (name, slug, stripe_customer_id) values ('Other', 'other', 'cus_moved')",
            "stripe_customer_id cus_moved",
        ),
        ("alter table public.tasks add column extra text", "another public.tasks"),
        ("create table public.extras (id uuid primary key, organization_id uuid)", "no public.extras"),
    ],
)  # fmt: skip
def test_conflict_is_refused_before_anything_is_copied(pair: Pair, statement: str, message: str) -> None:
    with pair.source.connect() as owner:
        owner.execute("set session_replication_role = replica")
        owner.execute("update public.organizations set stripe_customer_id = 'cus_moved' where id = %s", [ACME])
    with pair.target.connect() as owner:
        owner.execute(statement.format(member=f"'{PEOPLE['member']}'::uuid"))
    with pytest.raises(MoveError, match=message):
        pair.move()
    assert states(pair) == (None, None)


# Files ---------------------------------------------------------------------------------------------------------------

TASK = fixed_id("a task with files")


@dataclass
class Homes:
    """Both databases with the Storages in front of them."""

    pair: Pair
    here: Api
    there: Api

    def upload(self, name: str, content: bytes = b"content", person: str = "member", **headers: str) -> httpx.Response:
        token = self.here.mint(sub=str(PEOPLE[person]), app_metadata={"org_id": str(ACME)})
        headers = {"content-type": "text/plain", "x-upsert": "true"} | headers
        return self.here.http(token=token).post(
            f"/storage/v1/object/{quote(place(name))}", content=content, headers=headers
        )

    def change(self, method: str, path: str, body: Any) -> None:
        answer = self.here.admin().request(method, f"/storage/v1/object{path}", json=body)
        assert answer.status_code == 200, answer.text

    def found(self, api: Api) -> dict[str, tuple[bytes, Any]]:
        """All files: their content, and their rows."""
        columns = "metadata, user_metadata, owner, owner_id, created_at, updated_at"
        stored = api.sql(
            f"select bucket_id || '/' || name, {columns} from storage.objects where bucket_id <> 'exports'"
        )
        admin = api.admin()
        return {name: (admin.get(f"/storage/v1/object/{quote(name)}").content, values) for name, *values in stored}


def place(name: str) -> str:
    return f"attachments/{ACME}/tasks/{TASK}/{name}"


@pytest.fixture
def homes(pair: Pair, tmp_path: Path) -> Iterator[Homes]:
    with running(pair.source, tmp_path / "source") as here, running(pair.target, tmp_path / "target") as there:
        projects = Project(here.url, here.keys.secret_key), Project(there.url, there.keys.secret_key)
        yield Homes(Pair(pair.source, pair.target, projects), here, there)


def test_files_arrive_with_their_rows(homes: Homes) -> None:
    for name in ("plan.pdf", "a b &+=(1).txt", "empty"):
        assert homes.upload(name, b"" if name == "empty" else name.encode()).status_code == 200
    face, picture = f"avatars/{PEOPLE['member']}/face.png", {"content-type": "image/png", "cache-control": "max-age=60"}
    answer = homes.here.admin().post(f"/storage/v1/object/{face}", content=b"face", headers=picture)
    assert answer.status_code == 200
    links = [f"{each.url}/storage/v1/object/public/{face}" for each in (homes.here, homes.there)]
    with homes.pair.source.connect() as owner:
        owner.execute("update public.users set avatar_url = %s where id = %s", [links[0], PEOPLE["member"]])
        owner.execute("insert into storage.objects (bucket_id, name) values ('attachments', %s)", [f"{GLOBEX}/x/y/z"])
    before, stored = rows(homes.pair.source), homes.found(homes.here)
    report = homes.pair.move()
    del stored[f"attachments/{GLOBEX}/x/y/z"]
    assert report.files == len(stored) == 4
    assert homes.found(homes.there) == stored
    assert rows(homes.pair.target) == before
    with homes.pair.target.connect() as owner:
        found = owner.execute("select avatar_url from public.users where id = %s", [PEOPLE["member"]]).fetchone()
    assert found == (links[1],)
    token = homes.there.mint(sub=str(PEOPLE["member"]), app_metadata={"org_id": str(ACME)})
    assert homes.there.http(token=token).get(f"/storage/v1/object/{place('plan.pdf')}").content == b"plan.pdf"
    assert homes.there.http().get(links[1]).headers["cache-control"] == "max-age=60"
    # The job that deletes files at the source has them with the rest; the person's account and its avatar stay.
    with homes.pair.moving() as move:
        assert move.erase()
    listed = homes.here.sql("select bucket_id || '/' || name from private.files_to_delete")
    assert {name for (name,) in listed} == stored.keys() - {face}


def test_files_changed_during_the_copy_arrive(homes: Homes) -> None:
    for name in ("replaced", "deleted", "renamed", "owned"):
        homes.upload(name)
    refused = []

    def step(name: str) -> None:
        if name == "copy 0":
            # An earlier copy that was killed has left half a file, and a file that the source no longer has.
            for left in ("owned", "gone"):
                homes.there.admin().post(f"/storage/v1/object/{place(left)}", content=b"half")
        elif name == "copy 1":
            homes.upload("new")
            homes.upload("replaced", b"changed")  # as long as before
            path = place("").removeprefix("attachments/")
            homes.change("DELETE", "/attachments", {"prefixes": [f"{path}deleted"]})
            move = {"bucketId": "attachments", "sourceKey": f"{path}renamed", "destinationKey": f"{path}other"}
            homes.change("POST", "/move", move)
            # Its row is copied before the file: the job of the target leaves it.
            homes.here.sql(
                "insert into public.attachments (organization_id, entity_type, entity_id, file_name, file_size,"
                " mime_type, file_path, stored_at) values (%s, 'tasks', %s, 'row', 1, 'text/plain', %s, now())",
                *(ACME, TASK, f"{path}row"),
            )
        elif name == "hold":
            row = "select count(*) from public.attachments where file_name = 'row'"
            homes.there.sql("select private.repair_attachments()")
            assert homes.there.sql(row) == [(1,)]
            homes.upload("last")
        elif name == "last round":
            refused.append(homes.upload("late"))
            stored.update(homes.found(homes.here))

    stored: dict[str, Any] = {}
    homes.pair.move(step)
    assert homes.found(homes.there) == stored
    assert {name.rpartition("/")[2] for name in stored} == {"replaced", "owned", "new", "other", "last"}
    answers = [(each.status_code, each.json()["message"]) for each in [*refused, homes.upload("late")]]
    assert answers == [
        (400, "This organization is moving to another database"),
        (400, f"This organization has moved to another address: {ADDRESS}"),
    ]


def test_files_move_again_after_an_abort(homes: Homes) -> None:
    def step(name: str) -> None:
        if name == "switch":
            raise KilledError

    homes.upload("plan.pdf")
    stored = homes.found(homes.here)
    with pytest.raises(KilledError):
        homes.pair.move(step)
    with homes.pair.moving() as move:
        move.abort()
    homes.there.sql("select private.repair_attachments()")
    listed = homes.there.sql("select name from private.files_to_delete")
    assert [name for (name,) in listed] == [place("plan.pdf").removeprefix("attachments/")]
    homes.pair.move()
    assert homes.found(homes.there) == homes.found(homes.here) == stored
    assert homes.there.sql("select from private.files_to_delete") == []


def test_files_without_the_keys_are_refused(homes: Homes) -> None:
    homes.upload("plan.pdf")
    with pytest.raises(MoveError, match="It has 1 files"):
        Pair(homes.pair.source, homes.pair.target).move()
    unknown = Project(homes.there.url, homes.here.keys.secret_key)
    assert homes.pair.projects
    with pytest.raises(MoveError, match="A Storage did not respond"):
        Pair(homes.pair.source, homes.pair.target, (homes.pair.projects[0], unknown)).move()
    assert states(homes.pair) == (None, None)


def test_reference_to_a_row_of_others_is_refused(pair: Pair) -> None:
    with pair.source.connect() as owner:
        owner.execute("set session_replication_role = replica")
        owner.execute(
            "update public.template_reviews set template_id = gen_random_uuid() where organization_id = %s", [ACME]
        )
    with pytest.raises(MoveError, match="template_reviews refers to"):
        pair.move()
    with pair.moving() as move:
        move.abort()


def test_two_moves_of_one_organization_are_refused(pair: Pair) -> None:
    with pair.moving(), pytest.raises(MoveError, match="Another process"), pair.moving():
        pass


def test_every_table_of_organizations_is_guarded(database: Database) -> None:
    with database.connect() as owner:
        unguarded = owner.execute(
            "select r.relation::text from private.move_relations() r where r.owners is null"
            " and r.relation not in ('private.usage_entries'::regclass, 'public.activity_logs'::regclass)"
            " and not exists ("
            " select from pg_trigger t where t.tgrelid = r.relation and t.tgname = 'guard_move')"
        ).fetchall()
    assert unguarded == []


@pytest.mark.parametrize("person", ["owner", "member", "globex_owner", "platform_admin"])
def test_attack_start_see_or_fake_a_move(database: Database, person: str) -> None:
    """Only the operator starts, sees or writes a move."""
    for statement in (
        "select from private.organization_moves",
        "insert into private.organization_moves (organization_id, state) values (gen_random_uuid(), 'MOVED')",
        f"select private.hold_writes('{ACME}')",
        f"select private.switch_away('{ACME}')",
        "select private.note_moves()",
        "select setval('private.moves', 2)",
        f"select private.refuse_moved('{ACME}', '{PEOPLE['member']}')",
    ):
        with database.acting_as(person) as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
            cursor.execute(statement)


def test_attack_hold_up_a_move(database: Database) -> None:
    """Policies run before the guard. Otherwise any caller could take the lock of an organization by naming it."""
    guards = "select tgtype::integer & 2 from pg_trigger where tgfoid = 'private.guard_move'::regproc"
    with database.connect() as owner:
        kinds = [kind for (kind,) in owner.execute(guards)]
    assert len(kinds) > 100
    assert set(kinds) == {0}


def test_attack_learn_where_an_organization_moved(pair: Pair) -> None:
    pair.move()
    for person in ("globex_member", "outsider"):
        with pair.source.acting_as(person, org=ACME) as cursor:
            assert cursor.execute("select from public.tasks").rowcount == 0


def test_command_moves_and_explains_refusals(pair: Pair, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    urls = ["--db-url", pair.source.url(), "--to", pair.target.url()]

    def strive(*words: str) -> tuple[int, str, str]:
        code = main(["--workdir", str(tmp_path), "move", *words, *urls])
        return code, *capsys.readouterr()

    code, _, complaint = strive("acme")
    assert (code, "Name it with --address" in complaint) == (1, True)
    code, _, complaint = strive("acne", "--address", ADDRESS)
    assert (code, "There is no organization 'acne'" in complaint) == (1, True)
    code, output, complaint = strive("acme", "--address", f"{ADDRESS}/")
    assert code == 0
    assert "Writes were held for" in output
    assert complaint.split("\n")[-2] == "arrive"
    assert strive("acme", "--erase")[0] == 0
    code, _, complaint = strive(str(ACME), "--address", ADDRESS)
    assert (code, f"It has moved to {ADDRESS}." in complaint) == (1, True)
