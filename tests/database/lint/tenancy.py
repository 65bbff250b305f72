"""Rules of tenant isolation that the advisors do not check."""

from tests.database.lint import Rule
from tests.database.lint.expression import SCALAR, Node, parse
from tests.support.world import Connection

ORG = "organization_id"
# Helpers that may allow access without comparing a column: only those for platform admins.
AUTHORITIES = {"private.is_admin", "private.is_super_admin"}


def _expressions(connection: Connection) -> list[tuple[str, str, int, Node]]:
    rows = connection.execute(
        "select label, 'using', relation, using_tree from policies where using_tree is not null"
        " union all select label, 'check', relation, check_tree from policies where check_tree is not null"
    )
    return [(label, clause, relation, parse(tree)) for label, clause, relation, tree in rows]


def _functions(connection: Connection) -> dict[str, tuple[str, str]]:
    rows = connection.execute(
        "select p.oid::text, n.nspname || '.' || p.proname, p.provolatile::text from pg_proc p"
        " join pg_namespace n on n.oid = p.pronamespace"
    )
    return {oid: (name, volatility) for oid, name, volatility in rows}


def _called(tree: Node, *, into_selects: bool = True) -> set[str]:
    found = set()
    for node in tree.walk(into_selects=into_selects):
        if node.kind == "FUNCEXPR":
            found.add(node.atom("funcid"))
        elif "opfuncid" in node.fields:
            found.add(node.atom("opfuncid"))
    return found


def evaluated_per_row(connection: Connection) -> list[str]:
    """Calls outside of a sub-select that are no pure function of the row."""
    functions = _functions(connection)
    return [
        f"{label} ({clause}) calls {functions[called][0]} for every row"
        for label, clause, _, tree in _expressions(connection)
        for called in _called(tree, into_selects=False)
        if (functions[called][1] != "i" and not functions[called][0].startswith("pg_catalog."))
        or functions[called][0] == "pg_catalog.current_setting"
    ]


def sub_select_over_rows(connection: Connection) -> list[str]:
    """A sub-select that is correlated, or compares with a set: neither keeps a tenant's list an ordered index scan.

    Subqueries in a WITH CHECK may read other tables: they run for one row.
    """
    return [
        label
        for label, clause, _, tree in _expressions(connection)
        for node in tree.walk()
        if clause == "using"
        and node.kind == "SUBLINK"
        and (
            node.atom("subLinkType") != SCALAR
            or any(inner.kind == "RANGETBLENTRY" for inner in node.walk())
            or any(inner.kind == "VAR" and inner.atom("varlevelsup") != "0" for inner in node.walk())
        )
    ]


def open_to_everyone_signed_in(connection: Connection) -> list[str]:
    """The caller is not looked up, or not compared with the row and not checked to be a platform admin."""
    functions = _functions(connection)
    found = []
    for label, clause, _, tree in _expressions(connection):
        called_helpers = {
            functions[called][0] for called in _called(tree) if functions[called][0].startswith("private.")
        }
        compares = any(node.kind == "VAR" and node.atom("varlevelsup") == "0" for node in tree.walk())
        if not called_helpers or not (compares or called_helpers & AUTHORITIES):
            found.append(f"{label} ({clause})")
    return found


def column_without_index(connection: Connection) -> list[str]:
    """Columns that a using clause compares with the caller, without an index that begins with them."""
    equality = {
        operator
        for (operator,) in connection.execute(
            "select amopopr::text from pg_amop"
            " where amopstrategy = 3 and amopmethod = (select oid from pg_am where amname = 'btree')"
        )
    }
    leading = {
        tuple(row)
        for row in connection.execute(
            "select indrelid::int8, (indkey::int2[])[0]::int from pg_index where indisvalid and indpred is null"
        )
    }
    names = {
        (relation, number): label
        for relation, number, label in connection.execute("select relation::int8, number::int, label from columns")
    }
    found = []
    for _, clause, relation, tree in _expressions(connection):
        if clause != "using" or relation not in {relation for relation, _ in names}:
            continue
        for node in tree.walk(into_selects=False):
            if node.kind not in {"OPEXPR", "SCALARARRAYOPEXPR"} or node.atom("opno") not in equality:
                continue
            operands = list(node.children())
            if any(operand.kind == "SUBLINK" for operand in operands):
                found += [
                    names[key]
                    # `caller = any (column)` searches an array, which a btree index cannot serve.
                    for operand in (operands if node.kind == "OPEXPR" else operands[:1])
                    if operand.kind == "VAR" and (key := (relation, int(operand.atom("varattno")))) not in leading
                ]
    return found


RULES = [
    Rule(
        "clients insert a row without a default organization",
        "select t.relname from pg_class t join pg_attribute a on a.attrelid = t.oid and a.attname = 'organization_id'"
        " where t.relnamespace = 'public'::regnamespace and t.relkind in ('r', 'p') and not a.atthasdef"
        " and has_any_column_privilege('authenticated', t.oid, 'insert')",
        "alter table public.leads alter organization_id drop default",
    ),
    Rule(
        "a policy calls a function for every row",
        evaluated_per_row,
        "create policy defect on public.organizations for delete to authenticated"
        " using (id = private.current_user_org())",
    ),
    Rule(
        "a policy looks into other rows",
        sub_select_over_rows,
        "create policy defect on public.organizations for delete to authenticated"
        " using (id in (select m.organization_id from public.organization_members m))",
    ),
    Rule(
        "a policy is open to everyone signed in",
        open_to_everyone_signed_in,
        "create policy defect on public.users for delete to authenticated using ((select auth.uid()) is not null)",
    ),
    Rule(
        "a policy compares a column without an index",
        column_without_index,
        "alter table public.organizations add defect uuid; create policy defect on public.organizations"
        " for delete to authenticated using (defect = (select private.current_user_org('OWNER')))",
    ),
    Rule(
        "a policy is for another role than authenticated",
        "select label || ' to ' || role from policies, unnest(roles) role"
        " where role not in ('authenticated', 'strive_api_key')",
        "create policy defect on public.users for delete using (id = (select private.current_user_id()))",
    ),
    Rule(
        "a restrictive policy is used where one permissive policy is enough",
        "select label from policies where not permissive",
        "create policy defect on public.users as restrictive for delete to authenticated"
        " using (id = (select private.current_user_id()))",
    ),
    Rule(
        "a key between tenants' tables does not carry the tenant",
        f"""
        select label from foreign_keys k
        where exists (select from columns c where c.relation = k.relation and c.name = '{ORG}')
          and exists (select from columns c where c.relation = k.target and c.name = '{ORG}')
          and array_position(names, '{ORG}') is distinct from array_position(target_names, '{ORG}')
          or exists (select from columns c where c.relation = k.relation and c.name = '{ORG}')
          and exists (select from columns c where c.relation = k.target and c.name = '{ORG}')
          and not names @> '{{{ORG}}}'
        """,
        "create table public.defect (organization_id uuid, invitation_id uuid references"
        " public.organization_invitations (id))",
    ),
    Rule(
        "a child of a tenant's table does not carry the tenant",
        f"""
        select k.label from foreign_keys k join columns c on c.relation = k.target and c.name = '{ORG}'
        where k.schema = 'public'
          and not exists (select from columns c where c.relation = k.relation and c.name = '{ORG}')
        """,
        "create table public.defect (invitation_id uuid references public.organization_invitations (id))",
    ),
    Rule(
        "organization_id is no key to organizations that goes with them",
        f"""
        select label from columns c where name = '{ORG}' and schema = 'public' and not exists (
          select from foreign_keys k where k.relation = c.relation and k.names @> '{{{ORG}}}'
            and k.on_delete = 'c'
        ) and relation <> 'public.activity_logs'::regclass -- a trigger deletes them
        """,
        "create table public.defect (organization_id uuid not null)",
    ),
    Rule(
        "a tenant's row may have no tenant",
        f"select label from columns where name = '{ORG}' and schema = 'public' and not required",
        "create table public.defect (organization_id uuid)",
    ),
    Rule(
        "a key that is set null takes the tenant with it",
        f"""
        select label from foreign_keys where on_delete = 'n' and names @> '{{{ORG}}}' and cardinality(names) > 1
          and (sets is null or numbers[array_position(names, '{ORG}')] = any (sets))
        """,
        "alter table public.organization_invitations add unique (organization_id, id);"
        "create table public.defect (organization_id uuid, invitation_id uuid, foreign key"
        " (organization_id, invitation_id) references public.organization_invitations (organization_id, id)"
        " on delete set null)",
    ),
    Rule(
        "clients can set the creation time of a row",
        """
        select format('%s by %s', label, role) from columns, unnest('{anon,authenticated}'::text[]) role
        where name in ('created_at', 'updated_at') and has_column_privilege(role, relation, number, 'insert, update')
        """,
        "grant update on public.organizations to authenticated",
    ),
]
