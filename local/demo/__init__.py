"""A year of data for the demo organizations: made by a seeded generator, the same for the same seed and day.

Rows go in by COPY with triggers off: the generator itself sets what triggers would stamp (times, history, stages).
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from local.demo.office import add_follow_up, add_office, add_settings, add_usage
from local.demo.platform import add_platform
from local.demo.sales import add_sales
from local.demo.story import AGENCIES, Row, Story

Connection = psycopg.Connection[Any]

SIZES = {"small": 1, "large": 60}
"""How many times the rows of `small`."""


def generate(
    connection: Connection, size: str = "small", seed: int = 7, *, at: datetime | None = None
) -> dict[str, int]:
    """Add a year to the demo organizations; `connection` is the superuser's. Returns how many rows each table got."""
    with connection.transaction():
        # A second year adds to the first, under ids of its own.
        before = connection.execute("select count(*) from public.lost_reasons").fetchone()
        leads = connection.execute("select count(*) from public.leads").fetchone()
        is_first = before == (0,)
        now = (at or datetime.now(UTC)).replace(minute=0, second=0, microsecond=0)
        stages = {
            stage: (status, probability)
            for stage, status, probability in connection.execute(
                "select stage, status, probability from private.deal_stages"
            )
        }
        story = Story(now, Random(seed if is_first else f"{seed} {leads}"), stages)
        people: dict[str, list[UUID]] = defaultdict(list)
        organizations: dict[str, UUID] = {}
        query = (
            "select o.slug, o.id, m.user_id from public.organizations o"
            " join public.organization_members m on m.organization_id = o.id"
            " where m.role <> 'VIEWER' order by m.user_id"
        )
        for slug, organization, person in connection.execute(query):
            organizations[slug] = organization
            people[slug].append(person)
        for agency in AGENCIES:
            if agency.slug in organizations:
                # Of its own, so that a new row of one agency does not change the other.
                story.random = Random(f"{seed} {agency.slug} {leads}")
                org, members = organizations[agency.slug], people[agency.slug]
                companies, reasons = (
                    _known(connection, org) if not is_first else add_settings(story, agency, org, members)
                )
                contacts = add_sales(story, agency, org, members, SIZES[size], companies, reasons)
                if is_first:
                    add_follow_up(story, org, members, contacts)
                    key = add_office(story, org, members)
                    add_usage(story, agency, org, members, key)
        if is_first:
            add_platform(story, connection)
        connection.execute("set local session_replication_role = replica")
        for table, rows in story.rows.items():
            copy(connection, table, rows)
        connection.execute(
            "update public.project_showcases s set likes = l.count from"
            " (select showcase_id, count(*) from public.showcase_likes group by 1) l where l.showcase_id = s.id"
        )
        connection.execute("set local session_replication_role = origin")
    return {table: len(rows) for table, rows in story.rows.items()}


def copy(connection: Connection, table: str, rows: list[Row]) -> None:
    keyed = {
        row[0]
        for row in connection.execute(
            "select column_name from information_schema.columns where table_schema = 'public' and table_name = %s",
            [table],
        )
    }
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(name for name in row if name in keyed)].append(row)
    for columns, group in groups.items():
        statement = sql.SQL("copy public.{} ({}) from stdin").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        with connection.cursor() as cursor, cursor.copy(statement) as target:
            for row in group:
                target.write_row([json.dumps(v) if isinstance(v, dict) else v for v in (row[name] for name in columns)])


def _known(connection: Connection, org: UUID) -> tuple[list[Row], list[Row]]:
    def rows(table: str) -> list[Row]:
        query = sql.SQL("select id, name from public.{} where organization_id = %s order by id").format(
            sql.Identifier(table)
        )
        return [{"id": row_id, "name": name} for row_id, name in connection.execute(query, [org])]

    return rows("companies"), rows("lost_reasons")


def described(counts: dict[str, int]) -> Iterator[str]:
    yield f"{sum(counts.values())} rows in {len(counts)} tables:"
    yield from (f"  {count:>8} {table}" for table, count in sorted(counts.items()))
