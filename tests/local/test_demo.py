"""The demo year: complete, reproducible, and different for each agency."""

from datetime import UTC, datetime

from local import demo
from local.database import seed
from local.postgres import SUPERUSER
from tests.support.world import Connection, Database

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
# Keys are not checked while triggers are off, so they are checked here.
ORPHANS = """
    do $$
    declare
      key record;
      orphans bigint;
    begin
      for key in select * from private.keys_between(null, null) k where k.child_name in (
        select relname from pg_class where relnamespace = 'public'::regnamespace
      ) loop
        execute format(
          'select count(*) from (select to_jsonb(c) as r from %s c where c.%I is not null) c'
          ' where not exists (select from %s p where %s)',
          key.child, key.link_column, key.parent, replace(key.parent_match, '$1', 'c.r')
        ) into orphans;
        if orphans > 0 then
          raise exception '% rows of % have no %', orphans, key.child, key.link_column;
        end if;
      end loop;
    end $$
"""
# Records whose newest entry in the history differs from them.
UNRECORDED = """
    select r.id from (
      select id, status::text as state, 'status' as name, created_at from public.leads
      union all select id, type::text, 'type', created_at from public.contacts
      union all select id, stage::text, 'stage', created_at from public.deals
    ) r where r.created_at > %s - interval '360 days' and r.state is distinct from (
      select l.new_data ->> r.name from public.activity_logs l
      where l.resource_id = r.id and l.new_data ? r.name order by l.created_at desc limit 1
    )
"""
# Sessions of visitors belong to no organization; files and invoices come over HTTP
# (local/demo/services.py).
EMPTY = {
    "onboarding_sessions",
    "attachments",
    "invoices",
    "invoice_credits",
    "stripe_events",
    "stripe_objects",
}


def empty_tables(connection: Connection) -> set[str]:
    """Tables without a row of Acme, or without any if their rows belong to no organization."""
    tables = connection.execute("""
        select c.relname, a.attname is not null from pg_class c
        left join pg_attribute a on a.attrelid = c.oid and a.attname = 'organization_id'
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
    """).fetchall()
    acme = " where organization_id = (select id from public.organizations where slug = 'acme')"
    return {
        name
        for name, is_of_tenants in tables
        if connection.execute(f"select from public.{name}{acme if is_of_tenants else ''} limit 1".encode()).rowcount
        == 0
    }


def contents(connection: Connection) -> list[tuple[object, ...]]:
    return connection.execute("select id, stage, value from public.deals order by id").fetchall()


def test_the_demo_year_is_whole_and_repeatable(database: Database) -> None:
    years = []
    for _ in range(2):
        with database.copied() as copy:
            with copy.connect() as owner:
                owner.execute("delete from public.organizations")
                owner.execute("delete from auth.users")
                seed(owner)
            with copy.connect(SUPERUSER) as connection:
                connection.execute("delete from public.deals")
                counts = demo.generate(connection, at=AT)
                connection.execute(ORPHANS)
                years.append(contents(connection))
                empty = empty_tables(connection)
                shares = connection.execute(
                    "select o.slug, count(*), min(l.created_at) < %s - interval '300 days',"
                    " array_agg(distinct l.status::text) from public.leads l"
                    " join public.organizations o on o.id = l.organization_id group by 1 order by 1",
                    [AT],
                ).fetchall()
                unrecorded = connection.execute(UNRECORDED, [AT]).fetchall()
                open_work = connection.execute(
                    "select from public.refunds_due where status not in ('REFUNDED', 'WITHDRAWN')"
                    " union all select from public.stripe_tasks where done_at is null"
                ).rowcount
                stages = connection.execute("select count(distinct stage) from public.deals").fetchone()
                metered = connection.execute(
                    "select count(*), bool_and(p.api_calls = u.calls and p.total_storage = u.storage)"
                    " from public.platform_metrics p join ("
                    "   select day, sum(usage_amount) filter (where resource_type = 'API_CALLS') as calls,"
                    "     sum(usage_amount) filter (where resource_type = 'STORAGE') as storage"
                    "   from public.usage_tracking group by 1"
                    " ) u on u.day = p.date"
                ).fetchone()
    assert years[0] == years[1]
    assert empty == EMPTY
    assert counts["platform_metrics"] == 400
    assert [(slug, count > 90, is_old) for slug, count, is_old, _ in shares] == [
        ("acme", True, True),
        ("globex", True, True),
    ]
    assert shares[0][1] > 2 * shares[1][1]
    assert (unrecorded, open_work) == ([], 0)
    assert stages == (7,)
    assert metered == (365, True)
