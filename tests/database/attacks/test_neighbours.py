"""Attacks between tenants: statistics, people, storage and counters of others."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.database.attacks.race import both
from tests.support.rows import Cursor, add, call, one, refused, scene, turn
from tests.support.statements import AT_COMMIT
from tests.support.world import ACME, GLOBEX, PEOPLE, Database, become, claims_of

# Estimates ------------------------------------------------------------------------------------------------------------


def request(cursor: Cursor, person: str, method: str = "GET", path: str = "/leads", **headers: str) -> None:
    """The statements of PostgREST before a request."""
    become(cursor.connection, "authenticated", claims_of(person), headers)
    cursor.execute(
        "select set_config('request.method', %s, true), set_config('request.path', %s, true)", [method, path]
    )
    cursor.execute("select private.check_request()")


@pytest.mark.parametrize(
    "headers",
    [
        {"prefer": "count=planned"},
        {"prefer": "count=estimated"},
        {"prefer": "return=minimal,   count=planned"},
        {"prefer": "handling=strict,count = estimated"},
        {"prefer": "Count=Planned"},
    ],
    ids=str,
)
def test_attack_count_other_tenants_rows_by_an_estimate(database: Database, headers: dict[str, str]) -> None:
    with scene(database) as cursor, refused(cursor, "PT400", "Estimated counts are not available"):
        request(cursor, "owner", **headers)


def test_attack_request_a_query_plan(database: Database) -> None:
    with scene(database) as cursor, refused(cursor, "PT406", "Query plans are not available"):
        request(cursor, "owner", accept="application/vnd.pgrst.plan+json; options=analyze")


def test_attack_hide_the_estimate_behind_a_second_header(database: Database) -> None:
    """PostgREST follows all Prefer headers and shows check_request() one of them: planning refuses what that misses."""
    with scene(database) as cursor:
        readable = "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'v')"
        cursor.execute(f"{readable} and has_any_column_privilege('authenticated', oid, 'select')")
        tables = [row["relname"] for row in cursor]
        assert len(tables) > 60
        request(cursor, "owner", prefer="return=minimal")
        for table in tables:
            with refused(cursor, "PT400", "Estimated counts are not available"):
                cursor.execute(f"explain (format json) select 1 from public.{table}")
        become(cursor.connection, "anon", {"role": "anon"}, {})
        cursor.execute("select from public.content")
        with refused(cursor, "PT400", "Estimated counts are not available"):
            cursor.execute("explain (format json) select 1 from public.content")


# A text column of every table, view and function with rows that the data API filters.
SOURCES = """
    select c.oid::regclass::text as source, a.attname as name from pg_class c join pg_attribute a on a.attrelid = c.oid
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'p') and a.atttypid = 'text'::regtype
      and a.attnum > 0 and has_column_privilege('authenticated', c.oid, a.attnum, 'select')
    union all
    select format('public.%I(%s)', p.proname, (
        select string_agg(format('null::%s', t::regtype), ', ')
        from unnest(p.proargtypes::oid[]) with ordinality u (t, n) where n <= p.pronargs - p.pronargdefaults
      )), o.name
    from pg_proc p cross join lateral (
      select n.name from unnest(p.proargnames, p.proallargtypes, p.proargmodes) n (name, kind, mode)
      where n.mode = 't' and n.kind = 'text'::regtype
      union all
      select a.attname from pg_type t join pg_attribute a on a.attrelid = t.typrelid
      where t.oid = p.prorettype and a.atttypid = 'text'::regtype
    ) o
    where p.pronamespace = 'public'::regnamespace and p.proretset
      and has_function_privilege('authenticated', p.oid, 'execute')
"""


@pytest.mark.parametrize("operator", ["~", "~*"])
def test_attack_fill_a_backend_with_regular_expressions(database: Database, operator: str) -> None:
    """A backend keeps 32, megabytes each. PostgREST sends them as parameters: the text has only the operator."""
    with scene(database) as cursor:
        sources = {row["source"]: row["name"] for row in cursor.execute(SOURCES)}
        assert len(sources) > 80
        missed = {}
        for source, column in sources.items():
            try:
                with cursor.connection.transaction():
                    request(cursor, "owner", path="/rpc/f" if "(" in source else "/leads")
                    cursor.execute(f'select from {source} where "{column}" {operator} %s', ["("])
                    missed[source] = "accepted"
            except psycopg.errors.InvalidRegularExpression:
                missed[source] = "compiled"
            except psycopg.Error as error:
                if "(" not in source and "Regular expressions" not in str(error):  # a function may refuse its arguments
                    missed[source] = str(error)
        assert missed == {}


def embedded(levels: int) -> str:
    """As PostgREST writes activities?select=id,leads(activities(leads(…)))."""
    statement = 'SELECT 1 FROM "public"."activities" AS a'
    for level in range(levels):
        table = ("leads", "activities")[level % 2]
        statement += f' LEFT JOIN LATERAL (SELECT 1 FROM "public"."{table}" AS t{level}) AS j{level} ON TRUE'
    return statement


def test_attack_embed_a_table_in_itself_over_many_levels(database: Database) -> None:
    with scene(database) as cursor:
        request(cursor, "owner")
        cursor.execute(embedded(2))
        for levels in (4, 6):
            with refused(cursor, "PT400", "embeds a table at most twice"):
                cursor.execute(embedded(levels))


def test_exact_counts_and_ordinary_requests_pass(database: Database) -> None:
    with scene(database) as cursor:
        request(cursor, "viewer", prefer="count=exact", accept="application/json")
        turn(cursor, None)
        become(cursor.connection, "anon", {"role": "anon"}, {})
        cursor.execute("select private.check_request()")


def test_longer_requests_leave_fewer_turns(database: Database) -> None:
    with database.connect("postgres") as connection:
        found = [
            connection.execute("select private.turns_beside(%s)", [age]).fetchone()
            for age in (None, "99 ms", "101 ms", "999 ms", "1001 ms", "8 s")
        ]
    assert found == [(4,), (4,), (2,), (2,), (1,), (1,)]


@pytest.mark.parametrize("turns", [4, 2, 1])
def test_attack_occupy_every_connection_of_the_data_api(fresh_database: Database, turns: int) -> None:
    """Four requests of one caller run (fewer of long ones), as many wait, the next is refused; others go on."""
    requests: list[psycopg.Connection[Any]] = []

    def enter(person: str = "owner") -> psycopg.Connection[Any]:
        connection = fresh_database.connect("authenticator")
        requests.append(connection)
        connection.autocommit = False
        become(connection, "authenticated", claims_of(person), {})
        return connection

    def pass_through(connection: psycopg.Connection[Any]) -> None:
        connection.execute(check)
        connection.rollback()

    check = "select private.check_request()"
    try:
        with fresh_database.connect("postgres") as owner:
            owner.execute(
                "create or replace function private.turns_beside(running interval) returns integer"
                f" language sql immutable set search_path = '' return {turns}"
            )
        for _ in range(turns):
            enter().execute(check)
        with ThreadPoolExecutor() as threads:
            waiting = [threads.submit(pass_through, enter()) for _ in range(turns)]
            with fresh_database.connect("supabase_admin") as watch:
                count = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
                while watch.execute(count).fetchone() != (turns,):
                    assert not any(each.done() for each in waiting)
            late = enter()
            with pytest.raises(psycopg.Error, match="Too many requests at the same time") as caught:
                late.execute(check)
            assert caught.value.sqlstate == "PT429"
            enter("member").execute(check)
            for running in requests[:turns]:
                running.rollback()
            for each in waiting:
                each.result()
    finally:
        for connection in requests:
            connection.close()


def test_attack_be_many_callers_with_many_keys(fresh_database: Database) -> None:
    """An organization may have 50 keys: those of one person are one caller."""
    callers = "select count(distinct classid) as callers from pg_locks where locktype = 'advisory' and objsubid = 2"
    with ExitStack() as stack:
        watch = stack.enter_context(fresh_database.connect("supabase_admin"))
        for found, claims in [
            (1, {"api_key_id": str(uuid4())}), (1, {"api_key_id": str(uuid4())}), (2, {}),
            (3, {"api_key_id": str(uuid4()), "sub": str(PEOPLE["member"])}),
        ]:  # fmt: skip
            connection = stack.enter_context(fresh_database.connect("authenticator"))
            connection.autocommit = False
            become(connection, "authenticated", claims_of("owner") | claims, {})
            connection.execute("select private.check_request()")
            assert watch.execute(callers).fetchone() == (found,)


def test_attack_write_until_the_timeout(database: Database) -> None:
    """PostgREST answers a timeout with 500: the request ends shortly before."""
    with database.connect("authenticator") as connection, connection.transaction(force_rollback=True):
        become(connection, "authenticated", claims_of("owner"), {})
        connection.execute("set local statement_timeout = '4s'")
        with pytest.raises(psycopg.Error, match="The request takes too long") as caught:
            connection.execute(
                # Each row waits, because rows that are written in no time need thousands for it.
                "insert into public.leads (organization_id, name)"
                " select %s, 'Slow' || pg_sleep(0.2) from generate_series(1, 30)",
                [ACME],
            )
        assert caught.value.sqlstate == "PT503"


# People ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column", ["global_role", "suspended_at", "suspended_until", "suspended_reason", "last_login_at"]
)
def test_attack_read_why_a_colleague_is_suspended(database: Database, column: str) -> None:
    with database.acting_as("viewer") as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute(f"select {column} from public.users")


def test_people_read_all_of_their_own_account(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "viewer")
        assert call(cursor, "my_account")["global_role"] == "USER"


def test_attack_rewrite_foreign_or_system_notes(database: Database) -> None:
    with scene(database) as cursor:
        deal = add(cursor, "deals", organization_id=ACME, title="D", value=1, stage="LEAD")
        turn(cursor, "admin")
        theirs = add(cursor, "activities", organization_id=ACME, type="CALL", title="Called")
        turn(cursor, "member")
        mine = add(cursor, "activities", organization_id=ACME, type="CALL", title="Called")
        call(cursor, "move_deal", deal_id=deal["id"], stage="QUALIFIED")
        rewrite = "update public.activities set title = 'Never' where id = %s"
        assert cursor.execute(rewrite, [theirs["id"]]).rowcount == 0
        assert (
            cursor.execute("update public.activities set title = 'Never' where deal_id = %s", [deal["id"]]).rowcount
            == 0
        )
        assert cursor.execute(rewrite, [mine["id"]]).rowcount == 1
        turn(cursor, "admin")
        assert (
            cursor.execute("update public.activities set title = 'Never' where deal_id = %s", [deal["id"]]).rowcount
            == 0
        )
        cursor.execute(
            "select user_id, old_data from public.activity_logs"
            " where resource_type = 'activities' and action = 'updated'"
        )
        assert cursor.fetchall() == [{"user_id": PEOPLE["member"], "old_data": {"title": "Called"}}]


def test_attack_leave_an_organization_to_a_suspended_owner(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute(
            "update public.organization_members set role = 'OWNER' where user_id = %s", [PEOPLE["suspended"]]
        )
        turn(cursor, "owner")
        with refused(cursor, "PT409", "must keep at least one owner"):
            cursor.execute("delete from public.organization_members where user_id = auth.uid()")
        with refused(cursor, "PT409", "must keep at least one owner"):
            cursor.execute("update public.organization_members set role = 'ADMIN' where user_id = auth.uid()")
        cursor.execute("delete from public.organization_members where user_id = %s", [PEOPLE["suspended"]])
        assert cursor.rowcount == 1


def impersonate(cursor: Cursor, person: str) -> None:
    turn(cursor, None)
    begun = one(
        cursor.execute(
            "insert into private.impersonations (admin_id, user_id, reason) values (%s, %s, 'Why') returning id",
            [PEOPLE["super_admin"], PEOPLE[person]],
        )
    )
    claims = claims_of(person, session_id=str(begun["id"]), act={"sub": str(PEOPLE["super_admin"])})
    become(cursor.connection, "authenticated", claims, {})


def test_attack_reach_the_owners_money_by_impersonation(database: Database) -> None:
    with scene(database) as cursor:
        impersonate(cursor, "owner")
        with refused(cursor, "42501", "not allowed during an impersonation"):
            cursor.execute("select private.billing_customer('{}')")
        with refused(cursor, "42501", "not allowed during an impersonation"):
            cursor.execute("update public.organizations set billing_email = 'eve@strive.test'")


@pytest.mark.parametrize(
    "statement",
    [
        "select public.create_invitation('eve@strive.test', 'ADMIN')",
        "select public.accept_invitation('x')",
        "update public.organization_members set role = 'VIEWER' where role = 'MEMBER'",
        "delete from public.organization_members where role = 'MEMBER'",
        "select public.leave_organization()",
        "select public.reopen_organization()",
        "select public.create_capture_token('eve')",
        "select public.create_webhook('https://eve.test')",
        "select public.create_calendar_feed()",
        "select public.close_organization('acme')",
        "select private.create_api_key('{}')",
        "select private.create_onboarding_session('{}')",
    ],
)
def test_attack_keep_access_beyond_an_impersonation(database: Database, statement: str) -> None:
    with scene(database) as cursor:
        impersonate(cursor, "owner")
        if "private." in statement:
            cursor.execute("reset role")
        with refused(cursor, "42501", "impersonation"):
            cursor.execute(statement)


def test_attack_learn_where_an_admin_works_by_a_merge(database: Database) -> None:
    with scene(database) as cursor:
        kept, other = (add(cursor, "contacts", organization_id=ACME, name=name) for name in ("Ada", "Bob"))
        impersonate(cursor, "owner")
        headers = {"cf-connecting-ip": "203.0.113.77", "user-agent": "Of the platform"}
        cursor.execute("select set_config('request.headers', %s, true)", [json.dumps(headers)])
        cursor.execute("select public.merge_contacts(%s, %s)", [kept["id"], [other["id"]]])
        cursor.execute("update public.contacts set name = 'Eve' where id = %s", [kept["id"]])
        turn(cursor, "owner")
        logged = cursor.execute(
            "select action, ip_address, user_agent from public.activity_logs where resource_id = %s", [kept["id"]]
        ).fetchall()
    assert {"merged", "updated"} <= {row["action"] for row in logged}
    assert {(row["ip_address"], row["user_agent"]) for row in logged} == {(None, None)}


def test_requests_of_an_impersonator_are_logged(database: Database) -> None:
    with scene(database) as cursor:
        impersonate(cursor, "owner")
        cursor.execute("select set_config('request.method', 'PATCH', true), set_config('request.path', '/leads', true)")
        cursor.execute("select private.check_request()")
        turn(cursor, None)
        logged = one(
            cursor.execute(
                "select description, admin_id, acting_as_id from public.admin_action_logs"
                " where action = 'USER_IMPERSONATE' order by created_at desc limit 1"
            )
        )
        assert logged == {
            "description": "Request while impersonating: PATCH /leads",
            "admin_id": PEOPLE["super_admin"],
            "acting_as_id": PEOPLE["owner"],
        }


def delete_account(cursor: Cursor, person: str) -> None:
    cursor.execute("select private.delete_account_of(%s)", [json.dumps({"user_id": str(PEOPLE[person])})])


@pytest.mark.parametrize("confirmed", [True, False])
def test_attack_delete_an_account_to_reach_other_tenants(database: Database, confirmed: bool) -> None:
    address = "outsider@strive.test"
    with scene(database) as cursor:
        cursor.execute("update public.organizations set billing_email = %s where id = %s", [address, GLOBEX])
        cursor.execute(
            "insert into public.organization_invitations (organization_id, email, token_hash, invited_by)"
            " values (%s, %s, repeat('a', 64), %s)",
            [GLOBEX, address, PEOPLE["globex_owner"]],
        )
        if not confirmed:
            cursor.execute("update auth.users set email_confirmed_at = null where email = %s", [address])
        delete_account(cursor, "outsider")
        kept = one(cursor.execute("select billing_email from public.organizations where id = %s", [GLOBEX]))
        assert kept["billing_email"] == address
        invitations = cursor.execute("select from public.organization_invitations where email = %s", [address]).rowcount
        assert invitations == (0 if confirmed else 1)


EXPORTED = """
select format('%s.%s', c.relnamespace::regnamespace, c.relname) as name
from private.export_relations() r join pg_class c on c.oid = r.relation where not r.is_personal order by 1
"""


def test_attack_list_strangers_by_an_export(database: Database) -> None:
    with scene(database) as cursor:
        showcase = add(
            cursor,
            "project_showcases",
            organization_id=ACME,
            title="S",
            description="D",
            category="WORKFLOW",
            created_by_id=PEOPLE["member"],
        )
        add(cursor, "showcase_likes", showcase_id=showcase["id"], user_id=PEOPLE["globex_owner"])
        cursor.execute(
            "insert into public.activity_feeds (organization_id, user_id, title, type, entity_type, entity_id, action)"
            " values (%s, %s, 'Moved', 'SYSTEM_EVENT', 'order', 'x', 'moved')",
            [ACME, PEOPLE["platform_admin"]],
        )
        cursor.execute("delete from public.organization_members where user_id = %s", [PEOPLE["viewer"]])
        order = add(
            cursor,
            "custom_agent_orders",
            organization_id=ACME,
            title="O",
            description="D",
            use_case="U",
            complexity="SIMPLE",
            requirements="{}",
            agent_config="{}",
            tools_config="{}",
            created_by_id=PEOPLE["member"],
        )
        address = {"cf-connecting-ip": "203.0.113.77", "user-agent": "Of the platform", "x-org-id": str(ACME)}
        become(cursor.connection, "authenticated", claims_of("platform_admin"), address)
        for work in (
            f"assign_builder('{order['id']}', '{PEOPLE['platform_admin']}')",
            f"admin_close_organization('{ACME}')",
        ):
            cursor.execute(f"select public.{work}")
        cursor.execute("reset role")
        cursor.execute("delete from public.custom_agent_orders where id = %s", [order["id"]])  # into the trash
        exported = ""
        relations = [row["name"] for row in cursor.execute(EXPORTED)]
        assert "public.build_logs" in relations
        for relation in ("public.users", *relations):
            for form in ("ndjson", "csv"):
                query = one(cursor.execute("select private.export_query(%s, %s, false) as query", [relation, form]))[
                    "query"
                ]
                cursor.execute(query.replace("$1", f"'{ACME}'"))
                exported += "\n".join(str(next(iter(row.values()))) for row in cursor)
        assert "Builder assigned" in exported
        assert "203.0.113.77" not in exported
        assert "Of the platform" not in exported
        for stranger in ("globex_owner", "platform_admin", "outsider"):
            assert str(PEOPLE[stranger]) not in exported
            assert f"{stranger}@" not in exported
        for member in ("owner", "viewer"):
            assert f"{member}@strive.test" in exported


def test_attack_share_the_network_of_everybody(database: Database) -> None:
    def network(address: str) -> Any:
        become(cursor.connection, "postgres", {}, {"x-forwarded-for": address})
        return one(cursor.execute("select private.client_network() as network"))["network"]

    with scene(database) as cursor:
        assert network("::ffff:203.0.113.7") == network("203.0.113.7") != network("::FFFF:203.0.113.8")
        assert network("2001:db8::1") == network("2001:db8::ffff:0:1") != network("2001:db8:0:1::1")


# Known ids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["dashboard_metrics", "dashboard_widgets", "quick_actions", "user_dashboards"])
def test_attack_probe_ids_in_use(database: Database, table: str) -> None:
    with database.acting_as("owner") as cursor, pytest.raises(psycopg.errors.InsufficientPrivilege):
        cursor.execute(f"insert into public.{table} (id) values (%s)", [uuid4()])


def test_attack_probe_permissions_through_a_foreign_dashboard(database: Database) -> None:
    with scene(database) as cursor:
        widget = add(
            cursor,
            "dashboard_widgets",
            organization_id=GLOBEX,
            name="W",
            type="WEATHER",
            config="{}",
            position='{"x": 0, "y": 0, "w": 1, "h": 1}',
            created_by=PEOPLE["globex_owner"],
        )
        cursor.execute("delete from public.user_dashboards where user_id = %s", [PEOPLE["globex_owner"]])
        turn(cursor, "owner")
        plant = "insert into public.user_dashboards (user_id, layout, widgets) values (%s, '{}', %s)"
        refusals = []
        for widgets in ([widget["id"]], [uuid4()]):
            with refused(cursor, "42501", "row-level security") as caught:
                cursor.execute(plant, [PEOPLE["globex_owner"], widgets])
            refusals.append(str(caught.value))
        assert refusals[0] == refusals[1]


# Room -----------------------------------------------------------------------------------------------------------------


def limit(cursor: Cursor, **limits: int) -> None:
    cursor.execute("update public.plans set limits = limits || %s", [json.dumps(limits)])


def test_attack_store_rows_without_end(database: Database) -> None:
    with scene(database) as cursor:
        limit(cursor, rows_per_table=30)
        turn(cursor, "member")
        many = "insert into public.leads (organization_id, name) select %s, 'Ada' from generate_series(1, %s)"
        cursor.execute(many, [ACME, 29])
        add(cursor, "leads", organization_id=ACME, name="Ada")
        for rows in (1, 2000):
            with refused(cursor, "PT402", "at most 30 rows in leads") as caught:
                cursor.execute(many, [ACME, rows])
            assert "larger plan" in str(caught.value.diag.message_hint)
        turn(cursor, "globex_member")  # a neighbor has room of its own
        cursor.execute(many, [GLOBEX, 5])
        turn(cursor, "admin")
        cursor.execute("delete from public.leads where id in (select id from public.leads limit 5)")
        cursor.execute(many, [ACME, 5])


LONG = "(select string_agg(md5(n || %s), '') from generate_series(1, 280) n)"  # 9 kB that compress little


def test_attack_fill_few_rows_with_large_values(database: Database) -> None:
    """30 rows have 2 kB each on average, however they grow."""
    refusal = "PT402", "at most 61440 bytes in leads"
    with scene(database) as cursor:
        limit(cursor, rows_per_table=30)
        turn(cursor, "member")
        many = (
            "insert into public.leads (organization_id, name, notes) "
            f"select %s, 'Big', {LONG} from generate_series(1, %s)"
        )
        cursor.execute(many, [ACME, "a", 3])
        with refused(cursor, *refusal) as caught:
            cursor.execute(many, [ACME, "b", 4])
        assert "larger plan" in str(caught.value.diag.message_hint)
        cursor.execute("update public.leads set notes = 'x' where name = 'Big'")
        cursor.execute(many.replace("'Big'", "'Ada'").replace(LONG, "left(%s, 1)"), [ACME, "c", 10])
        grow = f"update public.leads set notes = {LONG} where name = %s"
        cursor.execute(grow, ["d", "Big"])
        with refused(cursor, *refusal):
            cursor.execute(grow, ["e", "Ada"])
        # What does not grow passes.
        cursor.execute("update public.leads set score_value = 5 where name = 'Big'")


def test_rows_of_every_table_have_a_quota(database: Database) -> None:
    """Platform admins alone write flags, alerts and tools; the others have one row for a person and another row."""
    with scene(database) as cursor:
        cursor.execute(
            "select c.relname, (select array_agg(t.tgname::text order by t.tgname) from pg_trigger t"
            " where t.tgrelid = c.oid and t.tgfoid = 'private.count_rows'::regproc) as triggers"
            " from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')"
            " and has_any_column_privilege('authenticated', c.oid, 'insert')"
        )
        triggers = {row["relname"]: row["triggers"] for row in cursor}
    assert {table for table, found in triggers.items() if found != ["count_growth", "count_rows"]} == {
        "ai_tools", "feature_flags", "feature_flag_groups", "feature_flag_group_members", "system_alerts",
        "system_alert_dismissals", "system_alert_views", "user_dashboards",
    }  # fmt: skip


def test_attack_use_the_last_row_concurrently(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        connection.execute("update public.plans set limits = limits || '{\"rows_per_table\": 50}'")
    insert = "insert into public.leads (organization_id, name) values (%s, 'Ada')"
    with fresh_database.acting_as("member", commit=True) as cursor:
        cursor.execute(
            f"{insert.replace('values (%s', 'select %s').removesuffix(')')} from generate_series(1, 49)", [ACME]
        )
    assert both(
        fresh_database,
        ("member", lambda c: c.execute(insert, [ACME])),
        ("admin", lambda c: c.execute(insert, [ACME])),
    ) == ["done", "PT402"]


def test_attack_pile_up_widgets(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "admin")
        many = (
            "insert into public.quick_actions (organization_id, name, icon, action_type, target_url)"
            " select %s, 'A', 'i', 'NAVIGATION', '/' from generate_series(1, %s)"
        )
        cursor.execute(many, [ACME, 200])
        with refused(cursor, "PT409", "at most 200 rows in quick_actions"):
            cursor.execute(many, [ACME, 1])


def test_attack_own_many_free_organizations(database: Database) -> None:
    with scene(database) as cursor:
        for number in range(3):
            cursor.execute(
                "insert into public.onboarding_sessions (token_hash, user_id, org_name, selected_tier, billing_cycle,"
                " current_step) values (%s, %s, 'Free', 'FREE', 'MONTHLY', 4)",
                [f"{number:064x}", PEOPLE["outsider"]],
            )
            cursor.execute(
                "select private.complete_onboarding(s) from public.onboarding_sessions s where token_hash = %s",
                [f"{number:064x}"],
            )
        cursor.execute(
            "insert into public.onboarding_sessions (token_hash, user_id, org_name, selected_tier, billing_cycle,"
            " current_step) values (%s, %s, 'Free', 'FREE', 'MONTHLY', 4)",
            [f"{9:064x}", PEOPLE["outsider"]],
        )
        with refused(cursor, "PT402", "You own three free organizations"):
            cursor.execute(
                "select private.complete_onboarding(s) from public.onboarding_sessions s where token_hash = %s",
                [f"{9:064x}"],
            )


def test_attack_export_again_and_again(database: Database) -> None:
    with scene(database) as cursor:
        limit(cursor, exports_per_day=1)
        turn(cursor, "owner")
        cursor.execute("reset role")
        wish = json.dumps({"organization_id": str(ACME), "format": "ndjson"})
        begin = "select private.begin_export(%s) as answer"
        first = one(cursor.execute(begin, [wish]))["answer"]
        assert "done" in first
        cursor.execute("update private.exports set finished_at = now()")
        refusal = one(cursor.execute(begin, [wish]))["answer"]["refused"]
        assert refusal["code"] == "PT402"


def test_exports_expire(database: Database) -> None:
    with scene(database) as cursor:
        cursor.execute(
            "insert into storage.objects (bucket_id, name, created_at) values"
            " ('exports', 'old', now() - interval '8 d'), ('exports', 'new', now()),"
            " ('exports', 'platform/old', now() - interval '8 d')"
        )
        cursor.execute("select private.repair_attachments()")
        cursor.execute("select name from private.files_to_delete where bucket_id = 'exports'")
        assert cursor.fetchall() == [{"name": "old"}]


def test_attack_publish_pages_that_fill_everybodys_list(database: Database) -> None:
    page = (
        "insert into public.content (organization_id, title, slug, content_type, content, status)"
        " select %s, 'Page', 'page-' || n, 'PAGE', repeat(%s, 60000), 'PUBLISHED' from generate_series(1, %s) n"
    )
    with scene(database) as cursor:
        limit(cursor, rows_per_table=1000)
        turn(cursor, "member")
        with refused(cursor, "PT402", "publishes at most 400000 bytes"):
            cursor.execute(page, [ACME, "x", 7])
        cursor.execute(page, [ACME, "x", 6])
        with refused(cursor, "23514", "content is at most 262144 bytes"):
            cursor.execute(page, [ACME, "\N{GRINNING FACE}" * 2, 1])


def test_attack_open_and_close_organizations_without_end(database: Database) -> None:
    with scene(database) as cursor:
        turn(cursor, "outsider")
        for _ in range(6):
            made = call(cursor, "create_organization", name="Shell")
            turn(cursor, "outsider", made["id"])
            call(cursor, "close_organization", confirm=made["slug"])
        with refused(cursor, "PT402", "not erased yet"):
            call(cursor, "create_organization", name="Shell")


def test_attack_change_a_record_without_end(database: Database) -> None:
    with scene(database) as cursor:
        limit(cursor, rows_per_table=30)
        turn(cursor, "member")
        add(cursor, "leads", organization_id=ACME, name="Ada")
        # Few enough pass: one change in a hundred has them counted.
        with refused(cursor, "PT429", "changed too much today"):
            cursor.execute(
                "do $$ begin for n in 1 .. 3000 loop update public.leads set name = 'Ada ' || n; end loop; end $$"
            )


def grown(cursor: Cursor, relation: str, organization: UUID) -> None:
    """What the triggers of history and trash call for one row in a hundred."""
    cursor.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims_of("member"))])
    cursor.execute("select private.bound_growth(%s, %s)", [relation, organization])


def test_attack_fill_the_history_with_long_texts(database: Database) -> None:
    with scene(database) as cursor:
        limit(cursor, rows_per_table=30)
        cursor.execute(
            "insert into public.activity_logs (organization_id, action, resource_type, new_data)"
            " select %s, 'updated', 'leads', jsonb_build_object('a', string_agg(gen_random_uuid()::text, ''))"
            " from generate_series(1, 50) entry, generate_series(1, 200) group by entry",
            [ACME],
        )
        with refused(cursor, "PT429", "changed too much today"):
            grown(cursor, "activity_logs", ACME)
        grown(cursor, "activity_logs", GLOBEX)


def test_attack_fill_the_trash(database: Database) -> None:
    with scene(database) as cursor:
        limit(cursor, rows_per_table=30)
        cursor.execute(
            "insert into public.trash (organization_id, kind, record_id, title, record)"
            " select %s, 'leads', gen_random_uuid(), 'x', '{}' from generate_series(1, 61)",
            [ACME],
        )
        with refused(cursor, "PT402", "trash of an organization with this plan is full"):
            grown(cursor, "trash", ACME)
        grown(cursor, "trash", GLOBEX)


def test_attack_fill_the_trash_with_what_refers_to_the_deleted(database: Database) -> None:
    with scene(database) as cursor:
        limit(cursor, rows_per_table=30)
        cursor.execute(
            "insert into public.trash (organization_id, kind, record_id, title, record, links)"
            " select %s, 'leads', gen_random_uuid(), 'x', '{}', jsonb_agg(gen_random_uuid())"
            " from generate_series(1, 10000)",
            [ACME],
        )
        with refused(cursor, "PT402", "trash of an organization with this plan is full"):
            grown(cursor, "trash", ACME)


def test_attack_send_events_to_webhooks_without_end(database: Database) -> None:
    """Each new lead has a delivery for each of 20 webhooks, which is kept for a month."""
    with scene(database) as cursor:
        limit(cursor, rows_per_table=100)
        cursor.execute(
            "insert into public.webhook_endpoints (organization_id, url)"
            " select %s, 'https://eve.test/' || n from generate_series(1, 20) n",
            [ACME],
        )
        turn(cursor, "member")
        many = "insert into public.leads (organization_id, name) select %s, 'Ada' from generate_series(1, 20)"
        with refused(cursor, "PT429", "at most 200 events to webhooks in a day"):
            cursor.execute(many, [ACME])
        turn(cursor, "globex_member")  # a neighbor without webhooks
        cursor.execute(many, [GLOBEX])


# Shared rows ----------------------------------------------------------------------------------------------------------

REVIEW = "insert into public.template_reviews (organization_id, template_id, rating) values (%(org)s, %(id)s, 1)"
HELD = {
    REVIEW: "agent_templates",
    "update public.template_reviews set rating = 2 where template_id = %(id)s": "agent_templates",
    "select public.use_template(%(id)s)": "agent_templates",
    "select public.clone_blueprint(%(id)s)": "tool_blueprints",
    "select public.view_showcase(%(id)s)": "project_showcases",
    "select public.like_showcase(%(id)s)": "project_showcases",
}


@pytest.fixture(scope="module")
def gallery(database: Database) -> dict[str, UUID]:
    """Public rows of Acme; Globex has reviewed the template."""
    configs = dict.fromkeys(("personality_config", "model_config", "tools_config", "memory_config"), "{}")
    graph = {"components": "[]", "connections": "[]", "configuration": "{}", "complexity": "SIMPLE"}
    about: dict[str, dict[str, Any]] = {
        "agent_templates": {"name": "H", "category": "SALES", **configs},
        "tool_blueprints": {"name": "H", "category": "API", **graph},
        "project_showcases": {"title": "H", "category": "WORKFLOW"},
    }
    shared = {"organization_id": ACME, "description": "D", "is_public": True, "created_by_id": PEOPLE["member"]}
    with scene(database) as cursor:
        rows = {table: add(cursor, table, **columns, **shared)["id"] for table, columns in about.items()}
        review = {"template_id": rows["agent_templates"], "reviewer_id": PEOPLE["globex_owner"], "rating": 5}
        add(cursor, "template_reviews", organization_id=GLOBEX, **review)
        cursor.connection.commit()
    return rows


@pytest.mark.parametrize("statement", HELD)
def test_attack_hold_a_shared_row_during_a_long_request(
    database: Database, gallery: dict[str, UUID], statement: str
) -> None:
    """A request reads what it embeds in its transaction, for seconds: it locks no row of others before its end."""
    values = {"id": gallery[HELD[statement]], "org": GLOBEX}
    with (
        database.acting_as("globex_member" if statement is REVIEW else "globex_owner") as held,
        database.connect() as owner,
        database.connect("authenticator") as other,
    ):
        held.execute(statement, values)
        for connection in (owner, other):
            connection.execute("set lock_timeout = '500ms'")
        other.autocommit = False
        become(other, "authenticated", claims_of("owner"), {})
        other.execute(statement, values | {"org": ACME})
        other.commit()
        owner.execute(f"update public.{HELD[statement]} set description = 'E' where id = %(id)s", values)


# Accounts -------------------------------------------------------------------------------------------------------------


def test_attack_store_megabytes_in_the_metadata_of_an_account(database: Database) -> None:
    with database.connect("supabase_auth_admin") as connection, connection.transaction(force_rollback=True):
        change = "update auth.users set raw_user_meta_data = %s where id = %s"
        connection.execute(change, [json.dumps({"a": "x" * 10_000}), PEOPLE["member"]])
        for metadata in ({"a": "x" * 20_000}, {str(n): n for n in range(3000)}):
            with pytest.raises(psycopg.Error) as caught, connection.transaction():
                connection.execute(change, [json.dumps(metadata), PEOPLE["member"]])
            assert caught.value.sqlstate == "PT422"


# Counters -------------------------------------------------------------------------------------------------------------


def visit(cursor: Cursor, person: str, address: str) -> None:
    become(cursor.connection, "authenticated", claims_of(person), {"x-forwarded-for": address})


def test_attack_pump_the_views_of_a_showcase(database: Database) -> None:
    with scene(database) as cursor:
        showcase = add(
            cursor,
            "project_showcases",
            organization_id=ACME,
            title="S",
            description="D",
            category="WORKFLOW",
            is_public=True,
            created_by_id=PEOPLE["member"],
        )
        cursor.execute(AT_COMMIT)

        def views(person: str, address: str) -> int:
            visit(cursor, person, address)
            call(cursor, "view_showcase", showcase_id=showcase["id"])
            found = "select views from public.project_showcases where id = %s"
            return int(one(cursor.execute(found, [showcase["id"]]))["views"])

        assert [views("owner", "198.51.100.1") for _ in range(5)] == [1] * 5
        assert views("globex_owner", "198.51.100.2") == 2
        turn(cursor, None)
        cursor.execute(
            "insert into private.daily_counts (counter, subject_id, day, who, counted)"
            " values ('showcase_views', %s, (now() at time zone 'UTC')::date, '198.51.100.3', 20)",
            [showcase["id"]],
        )
        assert views("outsider", "198.51.100.3") == 2


def test_attack_raise_a_rating_with_puppets_of_one_network(database: Database) -> None:
    with scene(database) as cursor:
        template = add(
            cursor,
            "agent_templates",
            organization_id=ACME,
            name="T",
            description="D",
            category="SALES",
            is_public=True,
            created_by_id=PEOPLE["member"],
            **dict.fromkeys(("personality_config", "model_config", "tools_config", "memory_config"), "{}"),
        )
        cursor.execute(AT_COMMIT)
        reviews = {"owner": 1, "admin": 1, "member": 1, "globex_owner": 5, "globex_member": 5}
        for person, rating in reviews.items():
            visit(cursor, person, "2001:db8::1" if rating == 1 else "2001:db8::2")
            org = ACME if rating == 1 else GLOBEX
            cursor.execute(
                "insert into public.template_reviews (organization_id, template_id, rating) values (%s, %s, %s)",
                [org, template["id"], rating],
            )
        turn(cursor, None)
        rated = one(cursor.execute("select rating from public.agent_templates where id = %s", [template["id"]]))
        assert rated["rating"] == 1
