"""The people of the organization: their accounts, with which they sign in at the target."""

import json
from typing import Any

from psycopg import sql

from shared.administration.moves.files import Projects
from shared.administration.moves.rows import Changed, Relation, Rows
from shared.administration.moves.sides import MoveError, Sides

PERSON_COLUMNS = """
select k.conrelid::regclass::text, a.attname from pg_constraint k
join pg_attribute a on a.attrelid = k.conrelid and a.attnum = k.conkey[1]
where k.contype = 'f' and k.confrelid = 'public.users'::regclass and k.conrelid = any (%s::regclass[])
"""
# In this order, by this column; of the last two people have none or many rows.
ACCOUNTS = {
    "auth.users": "id",
    "auth.identities": "user_id",
    "public.users": "id",
    "public.user_dashboards": "user_id",
    "private.notification_preferences": "user_id",
}
OTHER_ACCOUNT = """
select id, lower(email) from auth.users
where id <> %(id)s and lower(email) = %(email)s or id = %(id)s and lower(email) <> %(email)s
"""
NO_TOKEN = {
    "confirmation_token", "recovery_token", "email_change_token_new", "email_change_token_current", "email_change",
    "phone_change", "phone_change_token", "reauthentication_token",
}  # fmt: skip


class People:
    def __init__(self, sides: Sides, rows: Rows, projects: Projects | None) -> None:
        self._sides, self._rows, self._projects = sides, rows, projects

    def check(self) -> None:
        statement = "select id, lower(email) from auth.users where id = any (%s)"
        for who, address in self._sides.source.execute(statement, [self.of_rows()]):
            if found := self._sides.target.execute(OTHER_ACCOUNT, {"id": who, "email": address}).fetchone():
                raise MoveError(
                    f"An account differs: {who} has the email {address} at the source,"
                    f" and {found[0]} has {found[1]} at the target.",
                    "Delete one of the accounts, or change its address.",
                )

    def of_rows(self) -> list[Any]:
        return self.of([each for each in self._rows.relations if not each.owners])

    def of(self, relations: list[Relation], keys: Changed | None = None) -> list[Any]:
        """Everyone that rows of these tables point to; with `keys`, those rows alone."""
        by_table: dict[str, list[str]] = {}
        for table, column in self._sides.source.execute(PERSON_COLUMNS, [[each.name for each in relations]]):
            by_table.setdefault(table, []).append(column)
        parts = [
            sql.SQL(
                "select v.who from {table} t cross join lateral (values {columns}) v (who) where {condition}"
            ).format(
                table=each.table,
                columns=sql.SQL(", ").join(
                    sql.SQL("(t.{})").format(sql.Identifier(name)) for name in by_table[each.name]
                ),
                condition=self._rows.where(each, (keys or {}).get(each.name)),
            )
            for each in relations
            if each.name in by_table
        ]
        if not parts:
            return []
        statement = sql.SQL("select distinct who from ({}) p where who is not null").format(
            sql.SQL(" union all ").join(parts)
        )
        return [who for (who,) in self._sides.source.execute(statement)]

    def copy(self, people: list[Any]) -> None:
        """Accounts that the target lacks, with their passwords; without rights on the platform."""
        known = {
            who for (who,) in self._sides.target.execute("select id from public.users where id = any (%s)", [people])
        }
        missing = [who for who in people if who not in known]
        if not missing:
            return
        with self._sides.writing():
            statement = "update private.organization_moves set created_accounts = created_accounts || %s::uuid[]"
            self._sides.target.execute(f"{statement} where organization_id = %s", [missing, self._sides.organization])
            for table, key in ACCOUNTS.items():
                self._copy_accounts(table, key, missing)

    def _copy_accounts(self, table: str, key: str, people: list[Any]) -> None:
        name = sql.Identifier(*table.split("."))
        stored = "select unnest(private.stored_columns(%s::regclass))"
        here, there = (
            {column for (column,) in each.execute(stored, [table])} for each in (self._sides.source, self._sides.target)
        )
        statement = sql.SQL("select to_jsonb(t) from {} t where t.{} = any (%s)").format(name, sql.Identifier(key))
        rows = [row for (row,) in self._sides.source.execute(statement, [people])]
        for row in rows:
            row.pop("is_super_admin", None)
            if table == "public.users":
                row["global_role"] = "USER"
                if row["current_organization_id"] != self._sides.organization:
                    row["current_organization_id"] = None
                if self._projects and row["avatar_url"]:
                    old, new = (f"{each.url}/storage/v1/object/public/avatars/" for each in self._projects)
                    row["avatar_url"] = row["avatar_url"].replace(old, new)
        copied = sorted((here & there) - NO_TOKEN)
        # The auth service reads an empty text where there is no token.
        empty = sorted(there & NO_TOKEN)
        statement = sql.SQL(
            "insert into {table} ({columns}) select {values} from jsonb_populate_recordset(null::{table}, %s::jsonb) t"
            " on conflict do nothing"
        ).format(
            table=name,
            columns=sql.SQL(", ").join(map(sql.Identifier, [*copied, *empty])),
            values=sql.SQL(", ").join(
                [*(sql.Identifier("t", each) for each in copied), *(sql.SQL("''") for _ in empty)]
            ),
        )
        self._sides.target.execute(statement, [json.dumps(rows)])

    def delete(self, people: list[Any]) -> None:
        """Accounts that the move created, unless they are members of another organization by now."""
        self._sides.target.execute(
            "delete from auth.users u where u.id = any (%s)"
            " and not exists (select from public.organization_members m where m.user_id = u.id)",
            [people],
        )
