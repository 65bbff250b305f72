"""Attacks on what runs with its owner's rights: called directly, with others' ids, twice at once."""

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from tests.database.attacks.race import Attempt, both
from tests.database.isolation.matrix import Matrix
from tests.support.world import ACME, GLOBEX, PEOPLE, Connection, Database

LOG = "select private.log_admin_action('USER_DELETE', 'forged', 'user', 'x', admin_id => %s)"


@pytest.mark.parametrize(
    "call",
    [
        "enter_once('{}', '{}', 'x', 'x', '')",
        "remember('x', 'x', '', '{}')",
        "publish_events(null)",
        "tally('showcase_likes', gen_random_uuid(), 5)",
        "fold_tallies('showcase_likes', gen_random_uuid())",
        "roll_up_tallies()",
        "roll_up_alert_counts()",
        "start_run('end_suspensions')",
        "perform_run(gen_random_uuid())",
        "end_suspensions()",
        "append_admin_action('USER_DELETE', 'x', 'x', 'x', null, true, null, null)",
        "require_room(null, 'templates')",
        "visible_order(gen_random_uuid())",
        "visible_showcase(gen_random_uuid())",
        "forget_expired_keys()",
        "plan_limit(null, 'members')",
        "custom_access_token_hook('{}')",
    ],
)
def test_attack_call_what_is_the_servers_alone(database: Database, call: str) -> None:
    with database.acting_as("owner") as cursor, pytest.raises(InsufficientPrivilege, match="permission denied"):
        cursor.execute(f"select private.{call}")


@pytest.mark.parametrize(
    "claims", [None, {"role": "anon"}, {"role": "authenticated"}, {"sub": None, "role": "authenticated"}]
)
def test_attack_write_to_the_log_of_the_admins(database: Database, claims: dict[str, object] | None) -> None:
    with (
        database.acting_as("owner", claims=claims, role="authenticated") as cursor,
        pytest.raises(InsufficientPrivilege),
    ):
        cursor.execute(LOG, [PEOPLE["super_admin"]])


def test_attack_a_suspended_admin_writes_to_the_log(database: Database) -> None:
    with database.connect() as connection:
        change = "update public.users set suspended_at = %s where id = %s"
        connection.execute(change, ["2026-01-01", PEOPLE["platform_admin"]])
        try:
            with database.acting_as("platform_admin") as cursor, pytest.raises(InsufficientPrivilege):
                cursor.execute(LOG, [None])
        finally:
            connection.execute(change, [None, PEOPLE["platform_admin"]])


def test_attack_learn_how_full_another_organization_is(database: Database) -> None:
    with database.acting_as("owner") as cursor:
        for what in ("templates", "blueprints", "orders_per_month"):
            row = cursor.execute("select private.claim_room(%s, %s)::text as it", [GLOBEX, what]).fetchone()
            assert row == {"it": ""}


# Races ---------------------------------------------------------------------------------------------------------------


def calling(statement: str, *values: object) -> Attempt:
    def attempt(connection: Connection) -> object:
        return connection.execute(statement, values)

    return attempt


def test_attack_convert_a_lead_twice_at_once(matrix: Matrix, database: Database) -> None:
    convert = calling("select public.convert_lead(%s)", matrix.specimens.keys["leads"]["ours"])
    assert both(database, ("member", convert), ("admin", convert)) == ["done", "PT409"]


def test_attack_exceed_the_quota_with_two_concurrent_requests(fresh_database: Database) -> None:
    with fresh_database.connect() as connection:
        connection.execute(
            'update public.plans set limits = limits || \'{"orders_per_month": 1, "templates": 1}\''
            " where tier = 'GROWTH'"
        )
        orders = [
            connection.execute(
                "insert into public.custom_agent_orders (organization_id, created_by_id, title, description,"
                " requirements, use_case, complexity, agent_config, tools_config)"
                " values (%s, %s, 'Agent', 'x', '{}', 'x', 'SIMPLE', '{}', '{}') returning id",
                [ACME, PEOPLE["member"]],
            ).fetchone()
            for _ in range(2)
        ]
    attempts = [calling("select public.submit_order(%s)", order[0]) for order in orders if order]
    assert both(fresh_database, ("member", attempts[0]), ("admin", attempts[1])) == ["done", "PT402"]
    template = calling(
        "insert into public.agent_templates (organization_id, name, description, category, personality_config,"
        " model_config, tools_config, memory_config) values (%s, 'x', 'x', 'SALES', '{}', '{}', '{}', '{}')",
        ACME,
    )
    assert both(fresh_database, ("member", template), ("admin", template)) == ["done", "PT402"]


def test_attack_review_a_template_twice(matrix: Matrix, database: Database) -> None:
    review = "insert into public.template_reviews (organization_id, template_id, rating) values (%s, %s, 1)"
    with database.acting_as("admin") as cursor:
        cursor.execute(review, [ACME, matrix.specimens.keys["agent_templates"]["theirs public"]])
        with pytest.raises(psycopg.errors.UniqueViolation, match="one review per template and reviewer"):
            cursor.execute(review, [ACME, matrix.specimens.keys["agent_templates"]["theirs public"]])
