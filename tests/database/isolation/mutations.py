"""Mutation tests of the matrix: every policy is dropped or weakened in turn, and a cell must fail for each.

Not part of the test suite, since it runs the matrix a thousand times: `make mutate`, nightly and after a change of
policies. Each mutation is made in a transaction which is rolled back.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.database.isolation.catalog import Table, tables
from tests.database.isolation.expected import Expected
from tests.database.isolation.matrix import Matrix
from tests.support.world import Connection

EXPECTED = Expected.read()
ROLES = ["OWNER", "ADMIN", "MEMBER", "VIEWER"]
CURRENT_ORG = re.compile(
    r"= (\()?\( SELECT private\.current_user_org\((?:'(\w+)'::\"OrgRole\"(?:, \w+)?)?\)"
    r" AS current_user_org\)(?:\)::text)?"
)
LEAST_ROLE = re.compile(r"private\.current_user_org\('(\w+)'")
BRANCH = re.compile(r"WHEN '([\w-]+)'::text THEN (.+?)(?= WHEN | ELSE )")
# A condition on no column at all.
ABOUT_THE_CALLER = re.compile(r"\( SELECT private\.\w+\(\) AS \w+\)")
# Mutations that no cell has to detect, with the reason: table → pattern in the name of the mutation.
HARMLESS = {
    "agent_templates": r"without \(NOT is_system\)",  # a check constraint excludes system templates of a tenant
    # the trigger authorize_flag_writer refuses all others before the policy does
    **dict.fromkeys(
        ("feature_flags", "feature_flag_groups", "feature_flag_group_members"), r"(create|add) .*: with check always"
    ),
    # refuses estimates, not rows: test_attack_hide_the_estimate_behind_a_second_header notices it
    "content": r"without \( SELECT private\.check_statement",
    # the storage service never changes an owner
    "storage.objects": r"with check (without \(\(owner_id|MEMBER instead of ADMIN)",
}
# A key with a scope to write, which its policies demand, is a MEMBER.
HARMLESS_FOR_KEYS = r"^keys: .*VIEWER instead of MEMBER"
# Command of a policy → actions to try first.
NOTICED_BY = {
    "SELECT": ("select",),
    "INSERT": ("insert", "forge"),
    "UPDATE": ("update", "move"),
    "DELETE": ("delete",),
    "ALL": (),
}
ANY_ORG = """
create function private.any_org("OrgRole") returns uuid[] language sql stable security definer set search_path = '' as
  'select array(select organization_id from public.organization_members where user_id = auth.uid() and role <= $1)';
grant execute on function private.any_org("OrgRole") to public;
"""


@dataclass(frozen=True)
class Mutation:
    what: str
    statements: str
    actions: tuple[str, ...] = ()
    """The actions that most likely notice it."""


def mutations(connection: Connection, table: Table) -> Iterator[Mutation]:
    if not table.is_view:
        yield Mutation("row level security is off", f"alter table {table.sql} disable row level security", ("select",))
    for role in ("anon", "authenticated") if table.schema == "public" else ():
        yield Mutation(f"{role} is granted everything", f"grant all on {table.sql} to {role}")
    policies = connection.execute(
        "select policyname, cmd, qual, with_check from pg_policies where schemaname = %s and tablename = %s order by 1",
        [table.schema, table.relation],
    ).fetchall()
    for policy, command, using, check in policies:
        actions = NOTICED_BY[command]
        on = f'policy "{policy}" on {table.sql}'
        yield Mutation(f"{policy}: dropped", f"drop {on}", actions)
        yield Mutation(f"{policy}: for all roles", f"alter {on} to public", actions)
        if using and check == using:  # equal conditions matter only together
            if not ABOUT_THE_CALLER.fullmatch(using):
                yield Mutation(f"{policy}: with check always", f"alter {on} with check (true)", actions)
            for how, weaker in weakened(using):
                statements = f"{ANY_ORG} alter {on} using ({weaker}) with check ({weaker})"
                yield Mutation(f"{policy}: {how}", statements, actions)
            continue
        for clause, condition in (("using", using), ("with check", check)):
            for how, weaker in weakened(condition) if condition else ():
                yield Mutation(f"{policy}: {clause} {how}", f"{ANY_ORG} alter {on} {clause} ({weaker})", actions)


def weakened(condition: str) -> Iterator[tuple[str, str]]:
    """Weaker conditions."""
    condition = " ".join(condition.split())
    yield "always", "true"
    if CURRENT_ORG.search(condition):
        yield "any organization of the caller", CURRENT_ORG.sub(any_org, condition)
    for found in LEAST_ROLE.finditer(condition):
        if found[1] != ROLES[-1]:
            weaker = ROLES[ROLES.index(found[1]) + 1]
            yield f"{weaker} instead of {found[1]}", replaced(condition, found.span(1), weaker)
    for found in BRANCH.finditer(condition):
        yield f"always for {found[1]}", replaced(condition, found.span(2), "true")
    for start, end in conjuncts(condition):
        yield f"without {condition[start:end]}", replaced(condition, (start, end), "true")


def replaced(text: str, span: tuple[int, int], new: str) -> str:
    return text[: span[0]] + new + text[span[1] :]


def any_org(found: re.Match[str]) -> str:
    return f"= any ((select private.any_org('{found[2] or ROLES[-1]}'))::{'text' if found[1] else 'uuid'}[])"


def conjuncts(condition: str) -> list[tuple[int, int]]:
    """Positions of the operands of its ANDs, at any depth."""
    found = []
    opened = [0]
    operands: list[list[int]] = [[]]
    for match in re.finditer(r"'(?:[^']|'')*'|\(|\)| AND | OR ", condition):
        match match[0]:
            case "(":
                opened.append(match.end())
                operands.append([])
            case ")":
                found += spans(opened.pop(), operands.pop(), match.start())
            case " AND ":
                operands[-1] += match.span()
    return found + spans(opened.pop(), operands.pop(), len(condition))


def spans(start: int, cuts: list[int], end: int) -> list[tuple[int, int]]:
    edges = [start, *cuts, end]
    return list(zip(edges[::2], edges[1::2], strict=True)) if cuts else []


def survives(matrix: Matrix, table: str, mutation: Mutation) -> bool:
    """Whether all tests of the matrix pass with the policy weakened; those of its own table run first."""
    with matrix.connection.transaction(force_rollback=True):
        matrix.connection.execute(mutation.statements)
        kept = matrix.catalog
        if mutation.statements.startswith("grant"):
            matrix.catalog = tables(matrix.connection)
        try:
            if matrix.check_grants(table):
                return False
            own = matrix.check_table(table, mutation.actions)
            calls = (cell for call in EXPECTED.functions for cell in matrix.check_function(call))
            others = (cell for name in EXPECTED.lines if name != table for cell in matrix.check_table(name))
            return all(cell.holds for checks in (own, calls, others) for cell in checks)
        finally:
            matrix.catalog = kept


@pytest.mark.parametrize("table", EXPECTED.lines)
def test_every_weakened_policy_fails_a_cell(matrix: Matrix, table: str) -> None:
    tried = list(mutations(matrix.connection, matrix.catalog[table]))
    harmless = f"{HARMLESS_FOR_KEYS}|{HARMLESS.get(table, '^$')}"
    tried = [mutation for mutation in tried if not re.search(harmless, mutation.what)]
    survivors = [mutation.what for mutation in tried if survives(matrix, table, mutation)]
    if survivors:
        pytest.fail(f"{len(survivors)} of {len(tried)} went unnoticed on {table}:\n" + "\n".join(survivors))
