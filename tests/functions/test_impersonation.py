"""impersonate-user: a super admin acts as a user, for a limited time, audited, with the user's rights only."""

import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import pytest

from supabase import Client, ClientOptions, create_client
from tests.functions.test_suspension import SPAM, ok
from tests.support.platform import Person, Platform
from tests.support.responses import refused
from tests.support.serving import ENTRY, environment, serving, token
from tests.support.world import PEOPLE, Database

REASON = {"reason": "Support case 7"}


@pytest.fixture(scope="module")
def super_admin(platform: Platform) -> Person:
    return platform.person("SUPER_ADMIN")


@pytest.fixture(scope="module")
def organization(platform: Platform) -> UUID:
    return platform.organization()


@pytest.fixture(scope="module")
def member(platform: Platform, organization: UUID) -> Person:
    return platform.person(member_of=organization, org_role="OWNER")


def begin(platform: Platform, admin: Person, user: Person) -> Person:
    """The user, as the admin plays them."""
    started = ok(admin.call("impersonate-user", user_id=user.id, **REASON))
    assert started["expires_in"] == 900
    return Person(user.id, user.email, started, platform.client(token=started["access_token"]))


def claims_of(person: Person) -> dict[str, object]:
    claims: dict[str, object] = jwt.decode(person.session["access_token"], options={"verify_signature": False})
    return claims


@pytest.fixture
def played(platform: Platform, super_admin: Person, member: Person) -> Person:
    return begin(platform, super_admin, member)


def may_act(person: Person) -> bool:
    return bool(ok(person.rpc("my_organizations")))


def test_impersonation_logs_name_admin_and_user(
    platform: Platform, super_admin: Person, member: Person, organization: UUID, played: Person
) -> None:
    assert claims_of(played)["act"] == {"sub": super_admin.id}
    assert [each["id"] for each in ok(played.rpc("my_organizations"))] == [str(organization)]
    row = {"organization_id": str(organization), "name": "Ada"}
    made = played.http.post("/rest/v1/customers", json=row, headers={"prefer": "return=representation"})
    logged = platform.sql(
        "select user_id::text, impersonated_by::text from public.activity_logs where resource_id = %s",
        ok(made)[0]["id"],
    )
    assert logged == [(member.id, super_admin.id)]
    recorded = played.call("record-activity", **ENTRY)
    assert recorded.status_code == 201
    entries = platform.log(member.id)
    assert {(e["action"], e["success"], e["admin_id"]) for e in entries} == {("USER_IMPERSONATE", True, super_admin.id)}
    assert [e for e in entries if e["metadata"] == {"user_id": member.id, **REASON}]
    # And every request that may write.
    assert len([e for e in entries if "impersonation_id" in e["metadata"]]) >= 2


def test_supabase_py_works_with_the_token(platform: Platform, played: Person, organization: UUID) -> None:
    stack = platform.stack
    with httpx.Client() as http:
        headers = {"Authorization": f"Bearer {played.session['access_token']}"}
        options = ClientOptions(headers=headers, auto_refresh_token=False, persist_session=False, httpx_client=http)
        client: Client = create_client(stack.api_url, stack.publishable_key, options=options)
        rows = client.table("organizations").select("id").execute().data
    assert rows == [{"id": str(organization)}]


def test_attack_take_the_account_over_by_impersonation(platform: Platform, member: Person, played: Person) -> None:
    changes = {"password": "correct-horse-2", "email": f"{uuid4().hex}@platform.test", "data": {"a": 1}}
    for name, value in changes.items():
        answer = played.http.put("/auth/v1/user", json={name: value})
        assert (answer.status_code, answer.json()["error_code"]) == (403, "session_not_found")
    for address in ("user", "reauthenticate"):
        assert played.http.get(f"/auth/v1/{address}").status_code == 403
    assert played.http.post("/auth/v1/logout?scope=global").status_code == 403
    assert platform.sign_in(member).status_code == 200


def test_attack_renew_an_impersonation(platform: Platform, played: Person) -> None:
    assert "refresh_token" not in played.session
    for guess in (claims_of(played)["session_id"], played.session["access_token"]):
        answer = platform.anonymous.post("/auth/v1/token?grant_type=refresh_token", json={"refresh_token": guess})
        assert answer.status_code == 400


def test_attack_administer_or_impersonate_further_by_impersonation(
    platform: Platform, super_admin: Person, member: Person, played: Person
) -> None:
    other = platform.person()
    refused(played.call("impersonate-user", user_id=other.id, **REASON), 403, "42501")
    refused(played.call("suspend-user", user_id=other.id, **SPAM), 403, "42501")
    refused(played.call("bulk-admin-action", action="set_role", user_ids=[member.id], role="ADMIN"), 403, "42501")
    assert played.rpc("admin_users").status_code == 403
    assert ok(played.http.get("/rest/v1/admin_action_logs")) == []
    tried = [(line["success"], line["admin_id"], line["acting_as_id"]) for line in platform.log(other.id)]
    assert tried == [(False, super_admin.id, member.id)] * 2


def test_only_super_admins_impersonate_users(platform: Platform, super_admin: Person, member: Person) -> None:
    admin = platform.person("ADMIN")
    refused(admin.call("impersonate-user", user_id=member.id, **REASON), 403, "42501")
    refused(member.call("impersonate-user", user_id=admin.id, **REASON), 403, "42501")
    for target in (admin, platform.person("SUPER_ADMIN")):
        refused(super_admin.call("impersonate-user", user_id=target.id, **REASON), 403, "42501")
        assert [line["success"] for line in platform.log(target.id)][-1] is False
    refused(super_admin.call("impersonate-user", user_id=super_admin.id, **REASON), 422, "PT422")
    refused(super_admin.call("impersonate-user", user_id=str(uuid4()), **REASON), 404, "PT404")
    refused(super_admin.call("impersonate-user", user_id=member.id), 422, "invalid_body")
    suspended = platform.person()
    ok(super_admin.call("suspend-user", user_id=suspended.id, **SPAM))
    refused(super_admin.call("impersonate-user", user_id=suspended.id, **REASON), 409, "PT409")


def test_ended_impersonation_is_rejected(
    platform: Platform, super_admin: Person, member: Person, organization: UUID, played: Person
) -> None:
    assert may_act(played)
    ok(played.rpc("end_impersonation"))
    assert not may_act(played)
    row = {"organization_id": str(organization), "name": "Ada"}
    assert played.http.post("/rest/v1/customers", json=row).status_code == 403
    refused(played.call("record-activity", type="CALL", title="Call", lead_id=str(uuid4())), 401, "PT401")
    assert played.rpc("end_impersonation").status_code == 404
    assert platform.log(member.id)[-1]["description"] == "Impersonation ended"
    assert may_act(member)
    second = begin(platform, super_admin, member)
    ok(super_admin.rpc("end_impersonation", impersonation_id=second.session["impersonation_id"]))
    assert not may_act(second)


def test_attack_end_a_foreign_impersonation(platform: Platform, member: Person, played: Person) -> None:
    named = {"impersonation_id": played.session["impersonation_id"]}
    for person in (member, platform.person(), platform.person("ADMIN")):
        assert person.rpc("end_impersonation", **named).status_code == 404
    assert may_act(played)


def test_expired_impersonation_is_rejected(platform: Platform, played: Person) -> None:
    platform.sql(
        "update private.impersonations set started_at = now() - interval '15 min', expires_at = now() - interval '1 s'"
        " where id = %s",
        played.session["impersonation_id"],
    )
    assert not may_act(played)


def test_suspending_admin_or_user_ends_the_impersonation(platform: Platform, super_admin: Person) -> None:
    for role in ("SUPER_ADMIN", None):
        admin, user = platform.person("SUPER_ADMIN"), platform.person(member_of=platform.organization())
        played = begin(platform, admin, user)
        assert may_act(played)
        fallen = admin if role else user
        ok(super_admin.call("suspend-user", user_id=fallen.id, **SPAM))
        assert not may_act(played)
        ok(super_admin.call("reactivate-user", user_id=fallen.id))
        assert not may_act(played)


def test_attack_impersonate_a_user_promoted_to_admin(platform: Platform, super_admin: Person) -> None:
    user = platform.person(member_of=platform.organization())
    played = begin(platform, super_admin, user)
    ok(super_admin.call("bulk-admin-action", action="set_role", user_ids=[user.id], role="ADMIN"))
    assert user.rpc("admin_users").status_code == 200
    assert played.rpc("admin_users").status_code == 403
    assert not may_act(played)


def test_demoted_admin_cannot_impersonate(platform: Platform, super_admin: Person) -> None:
    admin, user = platform.person("SUPER_ADMIN"), platform.person(member_of=platform.organization())
    played = begin(platform, admin, user)
    ok(super_admin.call("bulk-admin-action", action="set_role", user_ids=[admin.id], role="USER"))
    assert not may_act(played)


# Tokens signed with the tests' own key.


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[httpx.Client]:
    with (
        serving(tmp_path_factory.mktemp("signing"), environment(database_url)) as running,
        running.client(None) as http,
    ):
        yield http


@pytest.mark.parametrize(
    "forged",
    [
        {"act": {"sub": str(PEOPLE["super_admin"])}},
        {"act": {"sub": str(PEOPLE["super_admin"])}, "session_id": str(uuid4())},
        {"act": {}},
        {"act": None, "user_metadata": {"act": {"sub": str(PEOPLE["super_admin"])}}},
    ],
    ids=["without a session", "of no session", "of an unknown user", "in user_metadata"],
)
def test_attack_forge_the_act_claim(signing: httpx.Client, database: Database, forged: dict[str, Any]) -> None:
    """A token with `act` is worth what the database knows of it; what users write of themselves is no claim."""
    body = {"type": "CALL", "title": "Call", "lead_id": str(uuid4())}
    forged = {"session_id": str(uuid4())} | forged
    headers = {"authorization": f"Bearer {token('member', **forged)}"}
    answer = signing.post("/functions/v1/record-activity", json=body, headers=headers)
    if forged["act"] is None:
        refused(answer, 404, "PT404")  # an ordinary member, who looks for a lead
        return
    refused(answer, 401, "PT401")
    with database.connect() as connection:
        assert not connection.execute("select from public.activities").rowcount


def test_impersonation_without_signing_key_is_501(signing: httpx.Client, database: Database) -> None:
    headers = {"authorization": f"Bearer {token('super_admin')}"}
    body = {"user_id": str(PEOPLE["member"]), **REASON}
    refused(signing.post("/functions/v1/impersonate-user", json=body, headers=headers), 501, "PT501")
    with database.connect() as connection:
        logged = connection.execute("select success, error from public.admin_action_logs").fetchall()
        assert connection.execute("select from private.impersonations").rowcount == 0
    assert logged == [(False, "SUPABASE_SIGNING_KEY is not configured (PT501)")]


def test_impersonation_token_lasts_15_minutes(platform: Platform, played: Person) -> None:
    claims = claims_of(played)
    assert isinstance(claims["exp"], int)
    assert 890 < claims["exp"] - time.time() <= 900
    assert (claims["role"], claims["aal"], claims["is_anonymous"]) == ("authenticated", "aal1", False)
    assert claims["iss"] == f"{platform.stack.api_url}/auth/v1"
