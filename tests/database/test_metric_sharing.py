"""A value is cached for all members only where all of them see the same rows."""

import json

from tests.database.isolation.matrix import Matrix
from tests.support.rows import call, one, scene, turn
from tests.support.world import ACME, Database

SAME_FOR_ALL = "(organization_id = ( SELECT private.current_user_org() AS current_user_org))"


def test_only_sources_equal_for_all_members_are_cached(database: Database) -> None:
    with database.connect() as connection:
        policies = connection.execute(
            "select s.name, s.is_shared, array_agg(pg_get_expr(p.polqual, p.polrelid)), bool_and(c.relrowsecurity)"
            " from private.metric_sources s join pg_class c on c.oid = format('public.%I', s.name)::regclass"
            " left join pg_policy p on p.polrelid = c.oid and p.polcmd in ('r', '*')"
            " and 'authenticated'::regrole = any (p.polroles) group by 1, 2"
        ).fetchall()
    assert len(policies) == 24
    for source, is_shared, conditions, is_secured in policies:
        assert is_secured
        assert is_shared == (conditions == [SAME_FOR_ALL]), (source, conditions)


def test_cached_value_equals_the_value_of_every_member(matrix: Matrix, database: Database) -> None:
    """Of every source, among rows of every kind; `matrix` has filled the tables."""
    assert matrix.specimens.rows
    with scene(database) as cursor:
        sources = cursor.execute("select name from private.metric_sources where is_shared order by 1").fetchall()
        for query in ({"source": row["name"], "aggregate": "count"} for row in sources):
            turn(cursor, None)
            cursor.execute("select private.evaluate(%s, %s) as answer", [json.dumps(query), ACME])
            kept = one(cursor)["answer"]
            assert kept["value"] > 0, query
            for person in ("owner", "admin", "member", "viewer", "platform_admin"):
                turn(cursor, person, ACME)
                assert call(cursor, "evaluate_metric", query=json.dumps(query)) == kept, (query, person)
