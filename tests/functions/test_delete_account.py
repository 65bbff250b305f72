"""delete-account over HTTP: deletes in the database, Auth and Storage, by the person or an admin."""

from typing import Any

import httpx

from tests.support.platform import Person, Platform
from tests.support.responses import refused

PICTURE = b"\x89PNG\r\n\x1a\n"


def ok(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json()


def with_pictures(platform: Platform) -> Person:
    person = platform.person(member_of=platform.organization())
    for path in ("me.png", "old/me.png"):
        answer = person.http.post(
            f"/storage/v1/object/avatars/{person.id}/{path}", content=PICTURE, headers={"content-type": "image/png"}
        )
        assert answer.status_code == 200, answer.text
    return person


def pictures(platform: Platform, person: Person) -> list[str]:
    rows = platform.sql(
        "select name from storage.objects where bucket_id = 'avatars' and starts_with(name, %s) order by name",
        person.id,
    )
    return [name for (name,) in rows]


def is_deleted(platform: Platform, person: Person) -> bool:
    user = platform.server.get(f"/auth/v1/admin/users/{person.id}").json()
    return bool(user.get("deleted_at")) and person.email not in str(user)


def test_deleted_account_has_no_avatars_or_sign_in(platform: Platform) -> None:
    person = with_pictures(platform)
    assert len(pictures(platform, person)) == 2
    response = ok(person.call("delete-account", confirm=person.email))
    assert (response["user_id"], response["auth"]) == (person.id, "synced")
    assert pictures(platform, person) == []
    assert is_deleted(platform, person)
    assert platform.sign_in(person).json()["error_code"] == "invalid_credentials"
    assert platform.refresh(person).status_code == 400
    assert ok(person.rpc("my_organizations")) == []
    assert platform.sql("select from public.organization_members where user_id = %s", person.id) == []
    (entry,) = platform.log(person.id)
    assert (entry["action"], entry["success"], entry["admin_id"]) == ("USER_DELETE", True, person.id)
    # The token is still valid: a repeated request gets the same response, and nothing more is logged.
    assert ok(person.call("delete-account", confirm=person.email)) == response
    assert len(platform.log(person.id)) == 1


def test_the_address_can_be_used_again_by_another_account(platform: Platform) -> None:
    person = platform.person()
    ok(person.call("delete-account", confirm=person.email))
    again = platform.anonymous.post("/auth/v1/signup", json={"email": person.email, "password": "strive-demo-2"})
    assert ok(again)["user"]["id"] != person.id


def test_admin_deletes_an_account_with_a_reason(platform: Platform) -> None:
    admin, person = platform.person("ADMIN"), with_pictures(platform)
    response = ok(admin.call("delete-account", user_id=person.id, reason="Asked by letter"))
    assert response["auth"] == "synced"
    assert is_deleted(platform, person)
    assert ok(admin.call("delete-account", user_id=person.id, reason="Asked by letter")) == response
    assert {(line["success"], line["admin_id"]) for line in platform.log(person.id)} == {(True, admin.id)}
    refused(admin.call("reactivate-user", user_id=person.id), 409, "PT409")
    refused(admin.call("suspend-user", user_id=person.id, reason="spam"), 409, "PT409")
    assert platform.sql("select is_active from public.users where id = %s", person.id) == [(False,)]


def test_attack_delete_a_foreign_account(platform: Platform) -> None:
    owner, person = platform.person(member_of=platform.organization(), org_role="OWNER"), platform.person()
    refused(owner.call("delete-account", user_id=person.id, reason="Mine"), 403, "42501")
    refused(owner.call("delete-account", confirm=person.email), 409, "PT409")
    refused(
        platform.person("ADMIN").call("delete-account", user_id=platform.person("ADMIN").id, reason="Mine"),
        403,
        "42501",
    )
    assert [line["success"] for line in platform.log(person.id)] == [False]
    assert platform.sign_in(person).status_code == 200


def test_attack_delete_an_account_by_impersonation(platform: Platform) -> None:
    admin, person = platform.person("SUPER_ADMIN"), platform.person()
    token = ok(admin.call("impersonate-user", user_id=person.id, reason="Support"))["access_token"]
    played = platform.client(token=token)
    refused(played.post("/functions/v1/delete-account", json={"confirm": person.email}), 403, "42501")
    assert platform.sign_in(person).status_code == 200


def test_last_owner_cannot_delete_their_account(platform: Platform) -> None:
    organization = platform.organization()
    owner = platform.person(member_of=organization, org_role="OWNER")
    answer = refused(owner.call("delete-account", confirm=owner.email), 409, "PT409")
    assert str(organization) in answer.json()["details"]
    platform.person(member_of=organization, org_role="OWNER")
    ok(owner.call("delete-account", confirm=owner.email))
