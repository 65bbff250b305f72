"""One valid row of every kind in every table, made from the catalog; only special values are listed here."""

import re
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from typing import Any
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from tests.database.isolation.catalog import Column, ForeignKey, Table
from tests.support.world import ACME, GLOBEX, PEOPLE, Connection, Row, fixed_id

# The first word of a kind is the owner of the row: (organization, person).
OWNERS = {
    "ours": (ACME, PEOPLE["member"]),
    "theirs": (GLOBEX, PEOPLE["globex_member"]),
    "system": (None, PEOPLE["super_admin"]),
}
# The second word may name another person of that organization.
PERSONS = {"admin's": PEOPLE["admin"], "viewer's": PEOPLE["viewer"], "both's": fixed_id("owner_of_both")}
# Rows the world has already.
FOUND: dict[str, dict[str, Row]] = {
    "users": {kind: {"id": who} for kind, (_, who) in OWNERS.items()},
    "organizations": {"ours": {"id": ACME}, "theirs": {"id": GLOBEX}},
    "organization_members": {
        "ours": {"user_id": PEOPLE["member"], "organization_id": ACME},
        "ours admin's": {"user_id": PEOPLE["admin"], "organization_id": ACME},
        "theirs": {"user_id": PEOPLE["globex_member"], "organization_id": GLOBEX},
    },
    "user_dashboards": {
        kind: {"user_id": OWNERS[kind][1], "layout": Jsonb({"columns": 12})} for kind in ("ours", "theirs")
    },
    "plans": {
        "system on sale": {"tier": "STARTER", "billing_cycle": "MONTHLY"},
        "system retired": {"tier": "ENTERPRISE", "billing_cycle": "MONTHLY"},
    },
}
# Columns with the author, unless the row is `signed` by another.
SIGNATURES = {"activities": "created_by_id", "activity_feeds": "user_id", "storage.objects": "owner_id"}
# The column an update writes, where the default choice is unsuitable.
CHANGED = {"storage.objects": "user_metadata"}
LIMITS = Jsonb(
    dict.fromkeys(
        ("members", "storage_bytes", "api_calls", "ai_tokens", "orders_per_month", "templates", "blueprints"), 9
    )
)
GUARDED = {"permissions": ["reports"]}
PUBLIC = {"ours public": {"is_public": True}, "theirs public": {"is_public": True}}
PUBLISHED = {"status": "PUBLISHED", "published_at": "2026-11-20", "slug": "published"}
FOLDER = "leads/6f5902ac-2a46-4d2c-9a57-3d4b4e3f0a11"


def channel(topic: str, extension: str = "broadcast") -> Row:
    return {"topic": topic, "extension": extension}


# table → kind ("*": every) → column → value; a column whose value is None is left out.
VALUES: dict[str, dict[str, Row]] = {
    "activities": {
        "ours signed": {"created_by_id": PEOPLE["admin"]},
        "ours automatic": {"created_by_id": PEOPLE["admin"], "is_automatic": True},
    },
    "agent_templates": {**PUBLIC, "system": {"is_system": True}},
    "attachments": {
        "*": {"entity_type": "leads", "mime_type": "text/plain", "file_path": None},
        "ours": {"file_path": f"{ACME}/leads/{{entity_id}}/1"},
        "ours admin's": {"file_path": f"{ACME}/leads/{{entity_id}}/2"},
        "ours viewer's": {"file_path": f"{ACME}/leads/{{entity_id}}/3"},
        "theirs": {"file_path": f"{GLOBEX}/leads/{{entity_id}}/4"},
    },
    "api_keys": {
        "*": {"prefix": "strive_test_000000", "scopes": ["CRM_READ"]},
        "ours": {"key_hash": "6" * 64},
        "theirs": {"key_hash": "7" * 64},
    },
    "appointment_attendees": {
        "*": {"email": None},
        "ours": {"user_id": PEOPLE["member"], "contact_id": None},
        "ours guest": {"user_id": None},
        "theirs": {"user_id": PEOPLE["globex_member"], "contact_id": None},
    },
    "appointments": {"*": {"end_time": "2026-11-20T13:00:00Z"}},
    "build_logs": {"ours move": {"stage": "status_change"}},
    "contacts": {"*": {"email": "guest@visitor.test"}},
    "content": {"*": {"slug": "draft"}, "ours public": PUBLISHED, "theirs public": PUBLISHED},
    "dashboard_metrics": {
        "*": {"query": Jsonb({"source": "leads", "aggregate": "count"})},
        "ours guarded": GUARDED,
        "system guarded": GUARDED,
    },
    "dashboard_widgets": {
        "*": {
            "type": "WEATHER",  # shows the same at any time
            "config": Jsonb({"place": "Oslo"}),
            "data_source": None,
            "position": Jsonb({"x": 0, "y": 0, "w": 1, "h": 1}),
        },
        "ours guarded": GUARDED,
    },
    "feature_flags": {"*": {"name": "flag", "seed": fixed_id("seed")}},
    "feature_flag_groups": {"*": {"name": "group", "revision": fixed_id("revision")}},
    "feature_flag_group_members": {"*": {"value": Jsonb(7)}},
    "feature_flag_exposures": {"*": {"seed": fixed_id("seed")}},
    "onboarding_sessions": {
        "*": {"organization_id": None},
        "ours": {"token_hash": "1" * 64},
        "theirs": {"token_hash": "2" * 64, "organization_id": GLOBEX},
        "system": {"token_hash": "3" * 64, "user_id": None},
    },
    "organization_invitations": {
        "*": {"email": "{kind}@invited.test"},
        "ours": {"token_hash": "4" * 64},
        "theirs": {"token_hash": "5" * 64},
    },
    "plans": {"*": {"tier": "GROWTH", "limits": LIMITS, "amount_cents": 1, "is_active": False}},
    "project_showcases": PUBLIC,
    "realtime.messages": {
        "ours": channel(f"org:{ACME}:tasks"),
        "ours presence": channel(f"org:{ACME}:presence", "presence"),
        "ours presence elsewhere": channel(f"org:{ACME}:tasks", "presence"),
        "ours changes": channel(f"org:{ACME}:tasks", "postgres_changes"),
        "ours person's": channel(f"user:{PEOPLE['member']}:inbox"),
        "theirs": channel(f"org:{GLOBEX}:tasks"),
        "system": channel("lobby"),
    },
    "storage.buckets": {"*": {"id": "another"}},
    "storage.objects": {
        "*": {"bucket_id": "attachments", "owner_id": "{person}", "owner": None},
        "ours": {"name": f"{ACME}/{FOLDER}/1"},
        "ours admin's": {"name": f"{ACME}/{FOLDER}/2"},
        "ours viewer's": {"name": f"{ACME}/{FOLDER}/3"},
        "ours signed": {"name": f"{ACME}/{FOLDER}/4"},
        "ours misplaced": {"name": f"{ACME}/5"},
        "ours export": {"name": f"{ACME}/6.csv", "bucket_id": "exports"},
        "ours avatar": {"name": f"{PEOPLE['member']}/face.png", "bucket_id": "avatars"},
        "theirs": {"name": f"{GLOBEX}/{FOLDER}/1"},
        "theirs avatar": {"name": f"{PEOPLE['globex_member']}/face.png", "bucket_id": "avatars"},
        "system": {"name": "logo.png", "bucket_id": "public-assets"},
    },
    "quick_actions": {"*": {"target_url": "/"}},
    "sales_goals": {"*": {"month": "2026-11-01", "measure": "WON_DEALS"}},
    "saved_views": {"*": {"source": "leads"}, "ours shared": {"is_shared": True, "user_id": PEOPLE["admin"]}},
    "invoices": {
        "*": {"currency": "usd"},
        "ours": {"stripe_invoice_id": "in_1"},
        "theirs": {"stripe_invoice_id": "in_2"},
    },
    "invoice_credits": {
        "*": {"currency": "usd"},
        "ours": {"stripe_object_id": "re_1"},
        "theirs": {"stripe_object_id": "re_2"},
    },
    "platform_revenue": {"*": {"currency": "usd"}},
    "refunds_due": {"*": {"currency": "usd"}},
    "stripe_events": {"*": {"id": "evt_1", "payload": Jsonb({})}},
    "stripe_objects": {"*": {"id": "sub_1", "state": Jsonb({})}},
    "subscriptions": {"*": {"tier": "GROWTH", "status": "ACTIVE", "current_period_end": "2099-01-01"}},
    "system_alert_dismissals": {
        "ours unseen": {"alert_id": "{system_alerts.system for Globex}"},
        "ours lasting": {"alert_id": "{system_alerts.system lasting}"},
    },
    "system_alert_views": {"ours unseen": {"alert_id": "{system_alerts.system for Globex}"}},
    "system_alerts": {
        "*": {"starts_at": "2026-01-01"},
        "system": {"is_global": True},
        "system for Acme": {"target_orgs": [ACME]},
        "system for Globex": {"target_orgs": [GLOBEX]},
        "system for GROWTH": {"target_tiers": ["GROWTH"]},
        "system for the member": {"target_users": [PEOPLE["member"]]},
        "system for moderators": {"target_roles": ["MODERATOR"]},
        "system lasting": {"is_global": True, "is_dismissible": False},
        "system off": {"is_global": True, "is_active": False},
        "system archived": {"is_global": True, "is_archived": True},
        "system to come": {"is_global": True, "starts_at": "2099-01-01"},
        "system past": {"is_global": True, "ends_at": "2026-02-01"},
    },
    "ai_tools": {"system off": {"is_active": False}},
    "webhook_endpoints": {"*": {"url": "https://example.com/hook"}},
    "template_reviews": {
        "*": {"template_id": "{agent_templates.system}"},
        "ours viewer's": {"template_id": "{agent_templates.ours}"},
        "ours unseen": {"template_id": "{agent_templates.theirs}"},
    },
    "tool_blueprints": {**PUBLIC, "*": {"components": Jsonb([]), "connections": Jsonb([])}},
}
CONSTANTS: dict[str, Any] = {
    "boolean": False,
    "integer": 1,
    "bigint": 1,
    "smallint": 1,
    "numeric": 1,
    "double precision": 1,
    "date": "2026-11-20",
    "timestamp with time zone": "2026-11-20T12:00:00Z",
    "timestamp without time zone": "2026-11-20T12:00:00",
    "jsonb": Jsonb({}),
    "inet": "192.0.2.1",
    "bytea": b"\x00",
}


class Specimens:
    """The stored rows: `rows[table][kind]`, whole, as the database keeps them, as JSON."""

    def __init__(self, catalog: Mapping[str, Table]) -> None:
        self.catalog = catalog
        self.planned: dict[str, dict[str, Row]] = {}
        self.rows: dict[str, dict[str, Row]] = {}
        self.keys: dict[str, dict[str, str]] = {}

    def store(self, connection: Connection, kinds: Mapping[str, Iterable[str]]) -> None:
        """Make and insert one row of each kind of each table, parents first."""
        order = TopologicalSorter(
            {
                name: {p for p in t.parents if p in kinds and p != name}
                for name, t in self.catalog.items()
                if name in kinds
            }
        )
        for name in order.static_order():
            table = self.catalog[name]
            for kind in kinds[name]:
                if kind in FOUND.get(name, {}):
                    planned = FOUND[name][kind]
                else:
                    planned = self._plan(table, kind)
                    insert(connection, table, planned)
                self.planned.setdefault(name, {})[kind] = planned
                row, key = self._stored(connection, table, planned)
                self.rows.setdefault(name, {})[kind] = row
                self.keys.setdefault(name, {})[kind] = key

    def _plan(self, table: Table, kind: str) -> Row:
        owner, _, of_whom = kind.partition(" ")
        organization, person = OWNERS[owner]
        person = PERSONS.get(of_whom, person)
        row: Row = {}
        for column in table.columns.values():
            if column.name == "organization_id":
                row[column.name] = organization
            elif column.required and not column.has_default and not column.generated:
                row[column.name] = value_for(table, column, kind)
        if table.key == ["id"] and table.columns["id"].type == "uuid":
            row["id"] = fixed_id(f"{table.name} {kind}")
        for key in table.foreign_keys:
            row |= self._references(table, key, kind, person)
        given = VALUES.get(table.name, {})
        for name, value in {**given.get("*", {}), **given.get(kind, {})}.items():
            row[name] = self._filled(value, kind=kind, person=person, **row) if isinstance(value, str) else value
        # System rows need an explicit null: the default of organization_id is the organization of the request.
        explicit = {"organization_id"} if organization is None and "organization_id" in row else set()
        return {name: value for name, value in row.items() if value is not None or name in explicit}

    def _references(self, table: Table, key: ForeignKey, kind: str, person: UUID) -> Row:
        """The columns of a foreign key, referencing a fitting row."""
        parent = key.parent.removeprefix("public.")
        if parent in {"organizations", table.name}:
            return {}
        if parent in {"users", "organization_members"}:
            return {name: person for name in key.columns if name != "organization_id"}
        row = self._parent(parent, kind)
        pairs = zip(key.columns, key.parent_columns, strict=True)
        return {own: row[theirs] for own, theirs in pairs if own != "organization_id"} if row else {}

    def _filled(self, text: str, **names: object) -> str:
        def value(match: re.Match[str]) -> str:
            table, _, kind = match[1].partition(".")
            return self.keys[table][kind] if kind else str(names[table]).replace(" ", "-")

        return re.sub(r"\{([^}]+)\}", value, text)

    def _parent(self, parent: str, kind: str) -> Row | None:
        """The row of `parent` for `kind`: of the same kind, else of the same owner, else a system row."""
        kinds = self.rows.get(parent, {})
        owner = kind.split(maxsplit=1)[0]
        return next((kinds[wanted] for wanted in (kind, owner, "system") if wanted in kinds), None)

    def _stored(self, connection: Connection, table: Table, planned: Row) -> tuple[Row, str]:
        wanted = {name: planned[name] for name in table.key} if planned.keys() >= set(table.key) else planned
        query = sql.SQL("select to_jsonb(t), {} from {} t where {}").format(
            sql.SQL(table.key_text),
            sql.SQL(table.sql),
            sql.SQL(" and ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name in wanted),
        )
        ((row, key),) = connection.execute(query, list(wanted.values())).fetchall()
        return dict(row), str(key)


def value_for(table: Table, column: Column, kind: str) -> Any:
    if column.is_enum:
        return column.first_label
    if column.is_array:
        return []
    if column.type == "uuid":
        return fixed_id(f"{table.name} {column.name} {kind}")
    if column.type.startswith(("text", "character varying")):
        return f"{table.relation} {kind}"
    plain = column.type.split("(")[0]
    if plain not in CONSTANTS:
        raise LookupError(f"Say in specimens.VALUES what {table.name}.{column.name} ({column.type}) holds")
    return CONSTANTS[plain]


def insert(connection: Connection, table: Table, row: Row) -> None:
    connection.execute(
        sql.SQL("insert into {} ({}) values ({})").format(
            sql.SQL(table.sql),
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(sql.Placeholder() for _ in row),
        ),
        list(row.values()),
    )
