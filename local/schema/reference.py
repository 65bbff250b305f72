"""The reference of everything callable over the data API: tables, views and rpcs, from the catalog and its comments."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from local.database import migrations
from local.schema.catalog import Connection
from local.schema.openapi import follow, forms
from shared.app.openapi import COMMON, DOMAINS, UNAUTHORIZED

# The first word of a chapter → the domain that people look for; other words are domains of their own.
PARTS = {
    "CRM": "crm",
    "Workspace": "workspace calendar tasks notes storage history saved trash",
    "Dashboard": "dashboard",
    "AI Garage": "garage",
    "Organizations": "identity organization invitations account quotas",
    "Notifications": "notices events emails",
    "Onboarding": "onboarding",
    "Billing": "billing plan stripe subscriptions revenue usage",
    "Feature flags": "flags",
    "Integrations": "api webhooks assistant",
    "Administration": "administration alerts audit jobs platform support",
}
TITLES = {word: title for title, words in PARTS.items() for word in words.split()}
ROLES = {"anon": "anyone", "authenticated": "signed-in users", "service_role": "servers"}

FUNCTION_CALLERS = {
    "user": "signed-in users",
    "key": "API keys of an organization",
    "publishable": "clients with a publishable key",
    "secret": "servers with a secret key",
    "anyone": "anyone",
}


@dataclass(frozen=True)
class Relation:
    name: str
    kind: str
    comment: str
    columns: list[dict[str, Any]]
    reads: list[str]


@dataclass(frozen=True)
class Rpc:
    name: str
    arguments: list[dict[str, Any]]
    result: str
    comment: str
    callers: list[str]
    errors: list[tuple[str, str, str]] = field(default_factory=list)  # code, message, hint


_RELATIONS = """
    select c.relname, case when c.relkind = 'v' then 'view' else 'table' end,
      coalesce(obj_description(c.oid, 'pg_class'), ''),
      (select json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
          'values', array(select enumlabel from pg_enum where enumtypid = a.atttypid order by enumsortorder),
          'comment', coalesce(col_description(c.oid, a.attnum), ''),
          'reads', has_column_privilege('authenticated', c.oid, a.attnum, 'select'),
          'inserts', c.relkind <> 'v' and has_column_privilege('authenticated', c.oid, a.attnum, 'insert'),
          'updates', c.relkind <> 'v' and has_column_privilege('authenticated', c.oid, a.attnum, 'update')
        ) order by a.attnum)
        from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
      array(select r from unnest(array['anon', 'authenticated', 'service_role']) r
        where has_any_column_privilege(r, c.oid, 'select'))
    from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v') and not c.relispartition
    order by 1
"""
_RPCS = """
    select p.proname,
      (select coalesce(json_agg(json_build_object('name', a.name, 'type', format_type(a.type, null),
          'values', array(select enumlabel from pg_enum where enumtypid = a.type order by enumsortorder),
          'required', a.number <= p.pronargs - p.pronargdefaults) order by a.number), '[]')
        from unnest(p.proargnames[:p.pronargs], p.proargtypes::oid[]) with ordinality as a (name, type, number)),
      coalesce('TABLE(' || (select string_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', '
          order by a.attnum) from pg_type t join pg_class c on c.oid = t.typrelid and c.relkind = 'c'
          join pg_attribute a on a.attrelid = c.oid where t.oid = p.prorettype) || ')', pg_get_function_result(p.oid)),
      coalesce(obj_description(p.oid, 'pg_proc'), ''),
      array(select r from unnest(array['anon', 'authenticated', 'service_role']) r
        where has_function_privilege(r, p.oid, 'execute'))
    from pg_proc p
    where p.pronamespace = 'public'::regnamespace and p.prorettype <> 'trigger'::regtype and p.prokind = 'f'
    order by 1
"""


_SOURCES = """
    select n.nspname || '.' || p.proname, p.prosrc from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname in ('public', 'private')
"""
_RAISED = re.compile(r"raise exception '((?:[^']|'')*)'(.*?);\n", re.DOTALL)
_OPTION = r"{}\s*=\s*(?:format\()?'((?:[^']|'')*)'"


def domains(connection: Connection) -> Iterator[tuple[str, str, list[Relation], list[Rpc]]]:
    """File, title, tables and views, and rpcs of every domain that has any."""
    places, sources = _places(), dict[str, str](connection.execute(_SOURCES).fetchall())
    relations = [Relation(*row) for row in connection.execute(_RELATIONS)]
    rpcs = [replace(Rpc(*row), errors=list(_errors(row[0], sources))) for row in connection.execute(_RPCS)]
    names = {relation.name for relation in relations}
    computed = {rpc.name for rpc in rpcs if rpc.arguments and rpc.arguments[0]["type"] in names}
    callable_rpcs = [rpc for rpc in rpcs if rpc.callers and rpc.name not in computed]
    for title in dict.fromkeys([*PARTS, *places.values()]):
        here = [relation for relation in relations if places.get(relation.name) == title and relation.reads]
        calls = [rpc for rpc in callable_rpcs if places.get(rpc.name) == title]
        if here or calls:
            yield title.lower().replace(" ", "-"), title, here, calls


def _errors(name: str, sources: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """What an rpc raises itself, or in the private functions that it calls directly."""
    body = sources[f"public.{name}"]
    called = [sources[each] for each in dict.fromkeys(re.findall(r"private\.\w+", body)) if each in sources]
    found = {}
    for message, options in (match for text in [body, *called] for match in _RAISED.findall(text + "\n")):
        code, hint = (re.search(_OPTION.format(option), options) for option in ("errcode", "hint"))
        if code:
            found[message] = (code[1], _said(message), _said(hint[1]) if hint else "")
    yield from sorted(found.values())


def _said(text: str) -> str:
    """The text of a literal, with … for what is only known when it is raised."""
    return re.sub(r"%[sLI]?", "…", text.replace("''", "'"))


def catalog(connection: Connection) -> str:
    """What the reference page in the running stack shows beside the functions."""
    listed = [
        {
            "domain": title,
            "relations": [vars(relation) for relation in relations],
            "rpcs": [vars(rpc) for rpc in rpcs],
        }
        for _, title, relations, rpcs in domains(connection)
    ]
    return json.dumps(listed, ensure_ascii=False, separators=(",", ":")).replace('{"domain"', '\n{"domain"') + "\n"


def pages(connection: Connection) -> dict[str, str]:
    """File name → page: one for each domain, and the index."""
    made, index = {}, []
    for domain, title, here, calls in domains(connection):
        made[f"{domain}.md"] = "\n".join(_page(title, here, calls)) + "\n"
        listed = ", ".join(f"`{name}`" for name in [*(one.name for one in here), *(one.name for one in calls)])
        index.append(f"| [{title}]({domain}.md) | {len(here)} | {len(calls)} | {listed} |")
    made["README.md"] = "\n".join(
        [
            "# Reference",
            "",
            "What can a client read, write and call over `/rest/v1`? Generated by `make schema` from the comments of",
            "the database, one page per domain. [Functions](functions.md) are at `/functions/v1`. In the running stack",
            "`strive open docs` shows the same with a search, and sends requests as a demo account.",
            "",
            "| Domain | Tables and views | rpcs | Names |",
            "|---|---|---|---|",
            *index,
            "",
        ]
    )
    return made


def _page(title: str, relations: list[Relation], rpcs: list[Rpc]) -> Iterator[str]:
    yield f"# {title}"
    yield ""
    yield "Generated by `make schema`. Policies decide which rows a caller sees and changes; grants decide the columns."
    for relation in relations:
        yield from ("", f"## {relation.kind} `{relation.name}`", "", _cell(relation.comment) or "No description.", "")
        yield f"Read by {_list(relation.reads)}. r: readable, i: may be given on insert, u: may be changed."
        yield from ("", "| Column | Type | Signed-in users | Meaning |", "|---|---|---|---|")
        for column in relation.columns:
            granted = zip("riu", (column["reads"], column["inserts"], column["updates"]), strict=True)
            rights = "".join(letter for letter, has in granted if has)
            yield f"| `{column['name']}` | {_cell(column['type'])} | {rights or '-'} | {_cell(column['comment'])} |"
    for rpc in rpcs:
        yield from ("", f"## rpc `{rpc.name}`", "", rpc.comment or "No description.", "")
        yield f"Called by {_list(rpc.callers)}. Returns {_cell(rpc.result)}."
        if rpc.arguments:
            yield from ("", "| Argument | Type | |", "|---|---|---|")
            for argument in rpc.arguments:
                needed = "required" if argument["required"] else "optional"
                yield f"| `{argument['name']}` | {_cell(argument['type'])} | {needed} |"
        if rpc.errors:
            yield from ("", "| Error | Message | What to do |", "|---|---|---|")
            yield from (f"| {_status(code)} | {_cell(message)} | {_cell(hint)} |" for code, message, hint in rpc.errors)
        required = [argument["name"] for argument in rpc.arguments if argument["required"]]
        given = ", ".join(f"{name}: …" for name in required)
        python = ", ".join(f'"{name}": …' for name in required)
        yield from ("", f"supabase-js: `await strive.rpc('{rpc.name}'{f', {{ {given} }}' if given else ''})` ·")
        yield f'supabase-py: `strive.rpc("{rpc.name}"{f", {{{python}}}" if python else ""}).execute()`'


def functions_page(document: dict[str, Any]) -> str:
    """The functions by domain, from their OpenAPI document."""
    lines = [
        "# Functions",
        "",
        "Generated by `make schema` from [openapi.json](../openapi.json), the complete description.",
    ]
    common = [f"| {status} | {_cell(text)} |" for status, text in COMMON.items()]
    lines += ["", "Every function may respond with these errors:", "", "| Status | |", "|---|---|", *common]
    operations = [(path, methods["post"]) for path, methods in document["paths"].items()]
    for tag in dict.fromkeys([*DOMAINS, *(operation["tags"][0] for _, operation in operations)]):
        lines += ["", f"## {tag}"]
        for path, operation in operations:
            if operation["tags"] == [tag]:
                lines += ["", f"### `{path.strip('/')}`", "", *_function(document, operation)]
    return "\n".join(lines) + "\n"


def _function(document: dict[str, Any], operation: dict[str, Any]) -> Iterator[str]:
    yield f"{operation['summary']}. {operation['description']}".replace("-\n", "-").replace("\n", " ").strip()
    callers = [FUNCTION_CALLERS[kind] for each in operation["security"] for kind in each or ("anyone",)]
    yield from ("", f"Called by {', '.join(callers) or 'Stripe, with a signature'}.")
    body = operation["requestBody"]["content"].get("application/json", {}).get("schema", {})
    for schema in forms(document, body):
        if fields := schema.get("properties"):
            yield from ("", "| Field | Type | Meaning |", "|---|---|---|")
            for name, field in fields.items():
                needed = " (required)" if name in schema.get("required", ()) else ""
                yield f"| `{name}`{needed} | {_cell(_kind(document, field))} | {_cell(field.get('description', ''))} |"
    yield from ("", "| Status | |", "|---|---|")
    for status, about in operation["responses"].items():
        if about["description"] not in {UNAUTHORIZED, *COMMON.values()}:
            yield f"| {status} | {_cell(about['description'])} |"


def _kind(document: dict[str, Any], schema: dict[str, Any]) -> str:
    found = follow(document, schema)
    if choices := found.get("oneOf") or found.get("anyOf"):
        return " or ".join(dict.fromkeys(_kind(document, choice) for choice in choices))
    if values := found.get("enum") or ([found["const"]] if "const" in found else []):
        return ", ".join(json.dumps(value) for value in values)
    if found.get("type") == "array":
        return f"list of {_kind(document, found.get('items', {}))}"
    return str(found.get("format") or found.get("type") or "any")


def _status(code: str) -> str:
    return code.removeprefix("PT") if code.startswith("PT") else code


def _list(roles: list[str]) -> str:
    return ", ".join(ROLES[role] for role in roles)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("](", "]\\(")


def _places() -> dict[str, str]:
    """Name of a table, view or function → the domain of the chapter that creates it."""
    pattern = re.compile(r"^create (?:or replace )?(?:table|view|function) public\.(\w+)", re.MULTILINE)
    return {
        found: TITLES.get(word := name.partition("_")[0], word.capitalize())
        for _, name, path in migrations()
        for found in pattern.findall(path.read_text())
    }
