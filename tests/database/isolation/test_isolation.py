"""The table of expectations holds in every cell and covers the whole catalog."""

import pytest

from tests.database.isolation import catalog
from tests.database.isolation.expected import Expected
from tests.database.isolation.matrix import Matrix

EXPECTED = Expected.read()
# Of tables that are tested row by row here.
VIEWS = {"billing_attention", "support_organizations"}


@pytest.mark.parametrize("table", EXPECTED.lines)
def test_every_row_is_reachable_exactly_as_expected(matrix: Matrix, table: str) -> None:
    cells = list(matrix.check_table(table))
    assert cells
    if wrong := [str(cell) for cell in cells if not cell.holds]:
        pytest.fail("\n".join(wrong))


def test_realtime_sends_changed_rows_to_whom_a_select_shows_them(matrix: Matrix) -> None:
    cells = [cell for table in catalog.published(matrix.connection) for cell in matrix.check_changes(table)]
    assert {cell.found for cell in cells if cell.actor.name == "member"} == {"ok", "."}
    assert [str(cell) for cell in cells if not cell.holds] == []


@pytest.mark.parametrize("call", EXPECTED.functions)
def test_every_function_is_callable_exactly_as_expected(matrix: Matrix, call: str) -> None:
    cells = matrix.check_function(call)
    assert cells
    if wrong := [str(cell) for cell in cells if not cell.holds]:
        pytest.fail("\n".join(wrong))


def test_no_table_or_view_escapes(matrix: Matrix) -> None:
    assert set(matrix.catalog) == set(EXPECTED.lines) | VIEWS


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_view_shows_only_rows_of_its_tables_read_only(matrix: Matrix, name: str) -> None:
    view = matrix.catalog[name]
    assert view.is_view
    assert view.as_invoker
    assert catalog.granted(matrix.connection, view) == {("authenticated", "SELECT")}


def test_no_function_escapes(matrix: Matrix) -> None:
    listed = sorted({call.partition("(")[0] for call in EXPECTED.functions})
    assert sorted(name.partition("(")[0] for name in catalog.functions(matrix.connection)) == listed


def test_no_enum_escapes(matrix: Matrix) -> None:
    assert catalog.enums(matrix.connection) == EXPECTED.enums


def test_no_bucket_escapes(matrix: Matrix) -> None:
    assert matrix.buckets == EXPECTED.buckets


@pytest.mark.parametrize("table", EXPECTED.lines)
def test_policies_and_grants_match_the_expected_roles(matrix: Matrix, table: str) -> None:
    assert matrix.check_grants(table) == []


def test_clients_call_no_definer_function_but_these(matrix: Matrix) -> None:
    assert catalog.definer_functions(matrix.connection) == EXPECTED.definer_functions


def test_api_keys_call_no_function_but_these(matrix: Matrix) -> None:
    assert catalog.functions_of_keys(matrix.connection) == EXPECTED.key_functions
    scopes = matrix.connection.execute("select name from private.api_key_operations order by 1").fetchall()
    assert [name for (name,) in scopes] == EXPECTED.key_functions
