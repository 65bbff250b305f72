"""What the data API knows of the database: relations, functions, relationships, media types, settings of roles.

Everything is read from pg_catalog, which each role may read; Postgres decides on every request what its caller may do.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import dict_row

from local.api.rest import media, relationships
from local.api.rest.fuzzy import FuzzySet
from local.api.rest.media import Chosen, Handler, Handlers
from local.api.rest.relationships import ForeignKey, Name, Relationship
from local.api.settings import RestSettings

RELATIONS = """
with of_domain as (
  with recursive chain as (
    select oid, oid as base from pg_type where typtype <> 'd'
    union all
    select t.oid, chain.base from pg_type t join chain on t.typbasetype = chain.oid
  )
  select oid, base from chain
)
select n.nspname as schema, c.relname as name, c.oid::int8 as oid, c.relkind::text as kind,
  obj_description(c.oid, 'pg_class') as description,
  case when c.relkind in ('r', 'p') then 28 else pg_relation_is_updatable(c.oid, true) end as changes,
  (select coalesce(json_agg(json_build_array(a.attname, a.attnum,
      case when t.typtype = 'd' and b.typnamespace = 'pg_catalog'::regnamespace then format_type(b.oid, null)
        when t.typtype <> 'd' and t.typnamespace = 'pg_catalog'::regnamespace then format_type(a.atttypid, null)
        else format_type(a.atttypid, a.atttypmod) end,
      format_type(a.atttypid, a.atttypmod),
      case when t.typtype = 'd' and d.adbin is null then pg_get_expr(t.typdefaultbin, 0)
        when a.attidentity = 'd' then (select format('nextval(%L)', q.objid::regclass)
          from pg_depend q where q.refobjid = c.oid and q.refobjsubid = a.attnum and q.deptype = 'i')
        when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end,
      a.attnotnull or t.typnotnull, col_description(c.oid, a.attnum),
      (select json_agg(e.enumlabel order by e.enumsortorder) from pg_enum e where e.enumtypid = b.oid),
      information_schema._pg_char_max_length(
        information_schema._pg_truetypid(a, t), information_schema._pg_truetypmod(a, t))
    ) order by a.attnum), '[]')
   from pg_attribute a
   join pg_type t on t.oid = a.atttypid
   join of_domain o on o.oid = t.oid
   join pg_type b on b.oid = o.base
   left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
   where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns,
  (select coalesce(json_agg(a.attname order by a.attname), '[]')
   from pg_constraint k join pg_attribute a on a.attrelid = c.oid and a.attnum = any(k.conkey)
   where k.conrelid = c.oid and k.contype = 'p') as key,
  case when c.relkind in ('v', 'm') then (select r.ev_action::text from pg_rewrite r
    where r.ev_class = c.oid and r.rulename = '_RETURN') end as definition
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition
  and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') and not pg_is_other_temp_schema(n.oid)
order by n.nspname, c.relname"""

FOREIGN_KEYS = """
select k.conname as name, k.conrelid::int8 as source, k.confrelid::int8 as target,
  json_build_array(n.nspname, c.relname) as source_name, json_build_array(fn.nspname, f.relname) as target_name,
  (select json_agg(json_build_array(a.attnum, a.attname, b.attnum, b.attname) order by x.position)
   from unnest(k.conkey, k.confkey) with ordinality x(source, target, position)
   join pg_attribute a on a.attrelid = k.conrelid and a.attnum = x.source
   join pg_attribute b on b.attrelid = k.confrelid and b.attnum = x.target) as columns,
  exists (select from pg_constraint u where u.conrelid = k.conrelid and u.contype in ('p', 'u')
    and u.conkey @> k.conkey and u.conkey <@ k.conkey) as one_to_one
from pg_constraint k
join pg_class c on c.oid = k.conrelid
join pg_namespace n on n.oid = c.relnamespace
join pg_class f on f.oid = k.confrelid
join pg_namespace fn on fn.oid = f.relnamespace
where k.contype = 'f' and k.conparentid = 0
order by k.conrelid, k.conname"""

PRIMARY_KEYS = """
select k.conrelid::int8 as oid, k.conkey::int[] as columns from pg_constraint k where k.contype = 'p'"""

FUNCTIONS = """
with of_domain as (
  with recursive chain as (
    select oid, oid as base from pg_type where typtype <> 'd'
    union all
    select t.oid, chain.base from pg_type t join chain on t.typbasetype = chain.oid
  )
  select oid, base from chain
)
select p.oid::int8 as oid, n.nspname as schema, p.proname as name, obj_description(p.oid, 'pg_proc') as description,
  p.provolatile::text as volatility, p.proretset as many, p.pronargdefaults as defaults, p.provariadic <> 0 as variadic,
  coalesce(p.proargnames, '{}') as names,
  (select coalesce(array_agg(format_type(u.type, null) order by u.position), '{}')
   from unnest(p.proargtypes::oid[]) with ordinality u(type, position)) as types,
  t.typtype = 'c' or coalesce(p.proargmodes::text[] && '{t,b,o}', false) as composite,
  tn.nspname as return_schema, coalesce(tc.relname, t.typname) as return_name,
  coalesce(p.proconfig, '{}') as settings
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace
join of_domain o on o.oid = p.prorettype
join pg_type t on t.oid = o.base
join pg_namespace tn on tn.oid = t.typnamespace
left join pg_class tc on tc.oid = t.typrelid
where p.prokind = 'f' and t.typname <> 'trigger' and n.nspname = any($1)
order by p.oid"""

# Functions of one row type that return another: computed relationships.
COMPUTED = """
select n.nspname as schema, p.proname as name, sn.nspname as source_schema, s.relname as source_name,
  tn.nspname as target_schema, t.relname as target_name, not p.proretset or p.prorows = 1 as single
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace
join pg_class s on s.reltype = p.proargtypes[0] and s.relkind in ('r', 'p', 'v', 'm', 'f')
join pg_namespace sn on sn.oid = s.relnamespace
join pg_class t on t.reltype = p.prorettype and t.relkind in ('r', 'p', 'v', 'm', 'f')
join pg_namespace tn on tn.oid = t.relnamespace
where p.pronargs = 1 and p.prorettype <> 0"""

# Implicit casts between a domain and text or json.
REPRESENTATIONS = """
select format_type(c.castsource, null) as source, format_type(c.casttarget, null) as target,
  json_build_array(n.nspname, p.proname) as function
from pg_cast c
join pg_type s on s.oid = c.castsource
join pg_type t on t.oid = c.casttarget
join pg_proc p on p.oid = c.castfunc
join pg_namespace n on n.oid = p.pronamespace
where c.castcontext = 'i' and c.castmethod = 'f' and has_function_privilege(p.oid, 'execute')
  and (s.typtype = 'd' and c.casttarget in ('json'::regtype, 'text'::regtype)
    or t.typtype = 'd' and c.castsource in ('json'::regtype, 'text'::regtype))"""

# Functions and aggregates that return a domain named like a media type.
HANDLERS = """
select d.typname as media, dn.nspname as domain_schema, n.nspname as schema, p.proname as name,
  p.prokind::text as kind, an.nspname as argument_schema, a.typname as argument_name
from pg_type d
join pg_namespace dn on dn.oid = d.typnamespace
join pg_proc p on p.prorettype = d.oid
join pg_namespace n on n.oid = p.pronamespace
left join pg_type a on a.oid = p.proargtypes[0]
left join pg_namespace an on an.oid = a.typnamespace
where d.typtype = 'd' and (d.typname ~* '^[A-Za-z0-9.-]+/[A-Za-z0-9.+-]+$' or d.typname = '*/*')
  and n.nspname = any($1)
  and (p.prokind = 'f' and not p.proretset
    or p.prokind = 'a' and p.pronargs = 1 and (a.typtype = 'c' or a.typname = 'anyelement'))"""

# The settings that belong to the API's own login and to the roles it may become.
ROLE_SETTINGS = """
select r.rolname as role, split_part(s.setting, '=', 1) as name, substr(s.setting, strpos(s.setting, '=') + 1) as value
from pg_db_role_setting d
join pg_roles r on r.oid = d.setrole
cross join unnest(d.setconfig) s(setting)
where d.setdatabase in (0, (select oid from pg_database where datname = current_database()))
  and (r.rolname = current_user or pg_has_role(current_user, r.oid, 'member'))
order by d.setdatabase"""

SETTABLE = "select name from pg_settings where context = 'user' or has_parameter_privilege(current_user, name, 'set')"
TIMEZONES = "select name from pg_timezone_names"

# Settings of a function that hold for its whole transaction.
HOISTED = {"statement_timeout", "plan_filter.statement_cost_limit", "default_transaction_isolation"}
UNNAMED_TYPES = {"bytea", "json", "jsonb", "text", "xml"}
UNBOUNDED = {
    "bit": "bit varying",
    "bit[]": "bit varying[]",
    "character": "character varying",
    "character[]": "character varying[]",
}
MANY_RELATIONS = 500  # beyond it no hint names a near table
VIEW_TOKEN = re.compile(r"\\.|[{}]|:resno (\d+)|:resorigtbl (\d+)|:resorigcol (\d+)")


@dataclass(frozen=True)
class Column:
    name: str
    number: int
    base: str  # without length, and without the domain around a built-in type
    type: str
    default: str | None
    required: bool
    description: str | None
    values: list[str] | None
    length: int | None


@dataclass(frozen=True)
class Relation:
    name: Name
    kind: str
    description: str | None
    insertable: bool
    updatable: bool
    deletable: bool
    columns: dict[str, Column]
    key: tuple[str, ...]


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str
    required: bool
    variadic: bool

    @property
    def unbounded(self) -> str:
        """A type that takes values of any length."""
        return UNBOUNDED.get(self.type, self.type)


@dataclass(frozen=True)
class Function:
    oid: int
    name: Name
    description: str | None
    parameters: tuple[Parameter, ...]
    many: bool
    composite: bool
    returns: Name
    volatility: str
    variadic: bool
    settings: tuple[tuple[str, str], ...]

    @property
    def scalar(self) -> bool:
        return not self.composite and not self.many

    @property
    def void(self) -> bool:
        return self.scalar and self.returns == ("pg_catalog", "void")

    @property
    def relation(self) -> str:
        """The name that its rows have in a query."""
        return self.returns[1] if self.composite else self.name[1]


@dataclass
class Catalog:
    schemas: tuple[str, ...]
    max_rows: int | None
    pre_request: tuple[str, ...] | None
    role_settings: dict[str, dict[str, str]]
    timezones: frozenset[str]
    relations: dict[Name, Relation]
    functions: dict[Name, list[Function]]
    relationships: dict[tuple[Name, str], list[Relationship]]
    representations: dict[tuple[str, str], Name]
    handlers: Handlers
    _near: dict[str, FuzzySet] = field(default_factory=dict)

    def near_relation(self, schema: str, name: str) -> str | None:
        if schema not in self._near:
            names = [known for within, known in self.relations if within == schema]
            self._near[schema] = FuzzySet(names if len(names) < MANY_RELATIONS else [])
        return self._near[schema].nearest(name, 0.75)


async def read_catalog(connection: AsyncConnection[Any], settings: RestSettings) -> Catalog:
    async def rows(text: str, *values: Any) -> list[dict[str, Any]]:
        cursor = AsyncRawCursor(connection, row_factory=dict_row)
        await cursor.execute(text.encode(), values or None)
        return await cursor.fetchall()

    async with connection.transaction():
        await connection.execute("set transaction isolation level repeatable read, read only")
        # With an empty search path Postgres qualifies every name that it writes.
        await connection.execute("set local search_path = ''")
        configured = await rows(ROLE_SETTINGS)
        own = {row["name"]: row["value"] for row in configured if row["role"] == connection.info.user}
        schemas, max_rows, pre_request = _configuration(own, settings)
        found = await rows(RELATIONS)
        functions = await rows(FUNCTIONS, list(schemas))
        foreign_keys = [_foreign_key(row) for row in await rows(FOREIGN_KEYS)]
        views = _view_columns(found, {*schemas, *settings.extra_search_path})
        primary_keys = {row["oid"]: row["columns"] for row in await rows(PRIMARY_KEYS)}
        relations = {each.name: each for each in (_relation(row, views, primary_keys) for row in found)}
        settable = {row["name"] for row in await rows(SETTABLE)}
        return Catalog(
            schemas=schemas,
            max_rows=max_rows,
            pre_request=pre_request,
            # Like pgrst.…, a part of the configuration in the database.
            role_settings=_role_settings(configured, connection.info.user, settable) if settings.hosted else {},
            timezones=frozenset(row["name"] for row in await rows(TIMEZONES)),
            relations={name: each for name, each in relations.items() if name[0] in schemas},
            functions=_functions(functions),
            relationships=relationships.find_all(
                foreign_keys,
                {oid: view.columns for oid, view in views.items()},
                {oid: view.name for oid, view in views.items()},
                {name: relation.key for name, relation in relations.items()},
                await rows(COMPUTED),
                schemas,
            ),
            representations={
                (row["source"], row["target"]): tuple(row["function"]) for row in await rows(REPRESENTATIONS)
            },
            handlers={**media.BUILT_IN, **_handlers(await rows(HANDLERS, list(schemas)))},
        )


def _configuration(
    own: dict[str, str], settings: RestSettings
) -> tuple[tuple[str, ...], int | None, tuple[str, ...] | None]:
    """`alter role authenticator set pgrst.…` outranks the environment, as in hosted projects."""
    schemas, max_rows, pre_request = settings.schemas, settings.max_rows, None
    if settings.hosted:
        if own.get("pgrst.db_schemas"):
            schemas = tuple(name.strip() for name in own["pgrst.db_schemas"].split(","))
        if own.get("pgrst.db_max_rows", "").isdecimal():
            max_rows = int(own["pgrst.db_max_rows"])
        if own.get("pgrst.db_pre_request"):
            pre_request = tuple(own["pgrst.db_pre_request"].split("."))
    return schemas, max_rows, pre_request


def _role_settings(rows: list[dict[str, Any]], login: str, settable: set[str]) -> dict[str, dict[str, str]]:
    """Becoming a role doesn't bring its settings; the API sets them for each request."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row["role"] != login and row["name"].lower() in settable:
            found[row["role"]][row["name"]] = row["value"]
    return dict(found)


def _foreign_key(row: dict[str, Any]) -> ForeignKey:
    columns = row["columns"]
    return ForeignKey(
        name=row["name"],
        source=row["source"],
        target=row["target"],
        source_name=tuple(row["source_name"]),
        target_name=tuple(row["target_name"]),
        columns=tuple((number, name) for number, name, _, _ in columns),
        references=tuple((number, name) for _, _, number, name in columns),
        one_to_one=row["one_to_one"],
    )


@dataclass
class View:
    name: Name
    # (relation, number of its column) → the names of the view's columns that show it
    columns: dict[tuple[int, int], list[str]]


def _view_columns(rows: list[dict[str, Any]], schemas: set[str]) -> dict[int, View]:
    """Which columns of which tables each view shows, also through the views it reads."""
    views_read = [row for row in rows if row["definition"] and row["schema"] in schemas]
    direct = {row["oid"]: _target_entries(row["definition"]) for row in views_read}
    views: dict[int, View] = {}
    for row in views_read:
        names = {column[1]: column[0] for column in row["columns"]}
        shown: dict[tuple[int, int], list[str]] = defaultdict(list)
        for position, *source in sorted(direct[row["oid"]]):
            for origin in _origins(tuple(source), direct, {row["oid"]}):
                if position in names and names[position] not in shown[origin]:
                    shown[origin].append(names[position])
        views[row["oid"]] = View((row["schema"], row["name"]), dict(shown))
    return views


def _origins(
    source: tuple[int, ...], direct: dict[int, list[tuple[int, int, int]]], seen: set[int]
) -> Iterator[tuple[int, int]]:
    """The column that a view reads, the one which that one reads, and so on; a view may read itself."""
    relation, column = source
    yield relation, column
    if relation not in seen:
        for position, *inner in direct.get(relation, []):
            if position == column:
                yield from _origins(tuple(inner), direct, {*seen, relation})


def _target_entries(definition: str) -> list[tuple[int, int, int]]:
    """Position, relation and column of each column of a view that is a plain column of another relation.

    Read from the stored query: the entries of its outermost target list name where they come from.
    """
    entries: list[tuple[int, int, int]] = []
    depth, number, table = 0, 0, 0
    for found in VIEW_TOKEN.finditer(definition):
        if found[0] == "{":
            depth += 1
        elif found[0] == "}":
            depth -= 1
        elif depth == 2 and found[1]:  # noqa: PLR2004 - an entry directly inside the query
            number = int(found[1])
        elif depth == 2 and found[2]:  # noqa: PLR2004
            table = int(found[2])
        elif depth == 2 and found[3] and table and int(found[3]):  # noqa: PLR2004
            entries.append((number, table, int(found[3])))
    return entries


def _relation(row: dict[str, Any], views: dict[int, View], primary_keys: dict[int, list[int]]) -> Relation:
    key = tuple(row["key"])
    if row["oid"] in views:
        key = _view_key(views[row["oid"]], primary_keys)
    return Relation(
        name=(row["schema"], row["name"]),
        kind=row["kind"],
        description=row["description"],
        insertable=row["changes"] & 8 == 8,  # noqa: PLR2004 - bits by command, as pg_relation_is_updatable has them
        updatable=row["changes"] & 4 == 4,  # noqa: PLR2004
        deletable=row["changes"] & 16 == 16,  # noqa: PLR2004
        columns={column[0]: Column(*column) for column in row["columns"]},
        key=key,
    )


def _view_key(view: View, primary_keys: dict[int, list[int]]) -> tuple[str, ...]:
    """The columns that show a whole primary key of a table."""
    found: list[str] = []
    for oid in dict.fromkeys(relation for relation, _ in view.columns):
        shown = [view.columns.get((oid, number)) for number in primary_keys.get(oid, [])]
        if shown and all(shown):
            found += [names[0] for names in shown if names]
    return tuple(found)


def _functions(rows: list[dict[str, Any]]) -> dict[Name, list[Function]]:
    functions: dict[Name, list[Function]] = defaultdict(list)
    for row in rows:
        types = row["types"]
        # PostgREST pairs the types of the inputs with the first names, also where an output comes before an input.
        unnamed = len(types) - len(row["names"])
        inputs = (row["names"] + [""] * len(types))[: len(types)]
        # Without names its arguments can't be given, but for a single one that takes the body.
        if unnamed > 1 or (unnamed == 1 and types[0] not in UNNAMED_TYPES):
            continue
        settings = dict(setting.split("=", 1) for setting in row["settings"])
        parameters = tuple(
            Parameter(name, type_, at < len(types) - row["defaults"], row["variadic"] and at == len(types) - 1)
            for at, (name, type_) in enumerate(zip(inputs, types, strict=True))
        )
        function = Function(
            oid=row["oid"],
            name=(row["schema"], row["name"]),
            description=row["description"],
            parameters=parameters,
            many=row["many"],
            composite=row["composite"],
            returns=(row["return_schema"], row["return_name"]),
            volatility=row["volatility"],
            variadic=row["variadic"],
            settings=tuple((name, value) for name, value in settings.items() if name in HOISTED),
        )
        functions[function.name].append(function)
    for overloads in functions.values():
        overloads.sort(key=_overload_order)
    return dict(functions)


def _overload_order(function: Function) -> tuple[Any, ...]:
    """Fewer parameters first; PostgREST lists them so in its errors."""
    parameters = [(each.name, each.type, each.unbounded, each.required, each.variadic) for each in function.parameters]
    return len(parameters), function.description or "", parameters


def _handlers(rows: list[dict[str, Any]]) -> Handlers:
    found: Handlers = {}
    for row in rows:
        name = row["media"]
        answered = media.OCTETS if name == "*/*" else media.canonical(name)
        if row["kind"] == "a":
            function = (row["schema"], row["name"])
            target = None if row["argument_name"] == "anyelement" else (row["argument_schema"], row["argument_name"])
        else:  # the value of the function is the body; the cast to its own type makes it so
            function, target = (row["domain_schema"], name), (row["schema"], row["name"])
        found[target, media.canonical(name)] = Chosen(Handler("custom", function=function, target=target), answered)
    return found
