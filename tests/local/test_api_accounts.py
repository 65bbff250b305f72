"""Accounts and sessions as in GoTrue, through supabase-py or over HTTP."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from supabase import AuthApiError, AuthWeakPasswordError
from tests.local.api import PASSWORD, Api, decoded, error_of, running
from tests.support.world import Database

Session = dict[str, Any]


def token(api: Api, grant: str, **body: Any) -> httpx.Response:
    return api.http().post("/auth/v1/token", params={"grant_type": grant}, json=body)


def refused(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert body["code"] == answer.status_code
    assert answer.headers["x-sb-error-code"] == body["error_code"]
    return answer.status_code, body["error_code"]


def mailed(api: Api, to: str) -> tuple[str, str]:
    """Code and link of the newest mail to this address."""
    page = api.http().get("/mail").text
    found = re.search(rf"to <b>{re.escape(to)}</b>.*?<code>(\d+)</code>.*?href=\"([^\"]+)\"", page, re.DOTALL)
    assert found, page
    return found[1], found[2].replace("&amp;", "&")


def parameters(answer: httpx.Response) -> httpx.QueryParams:
    assert answer.status_code == 303, answer.text
    address = httpx.URL(answer.headers["location"])
    return httpx.QueryParams(address.fragment) if address.fragment else address.params


# Signing up and in ---------------------------------------------------------------------------------------------------


def test_supabase_py_signs_up_in_and_out(api: Api) -> None:
    client = api.supabase()
    email = f"{uuid4()}@api.test"
    signed_up = client.auth.sign_up(
        {"email": email, "password": PASSWORD, "options": {"data": {"name": "Zoë", "age": 7}}}
    )
    assert signed_up.session
    assert signed_up.user
    assert signed_up.user.user_metadata | {"name": "Zoë", "age": 7} == signed_up.user.user_metadata
    client.auth.sign_out()
    signed_in = client.auth.sign_in_with_password({"email": email.upper(), "password": PASSWORD})
    assert signed_in.user
    assert signed_in.user.last_sign_in_at
    found = client.auth.get_user()
    assert found
    assert (found.user.email, found.user.app_metadata["providers"]) == (email, ["email"])
    refreshed = client.auth.refresh_session()
    assert refreshed.session
    claims = client.auth.get_claims()  # verified against the published keys
    assert claims
    assert claims["claims"]["sub"] == found.user.id


def test_metadata_is_stored_as_objects_not_as_text(api: Api) -> None:
    session = api.sign_up(nested={"a": [1, None, "x"]}, text='{"looks": "like json"}')
    [(kind, stored)] = api.sql(
        "select jsonb_typeof(raw_user_meta_data), raw_user_meta_data from auth.users where id = %s",
        session["user"]["id"],
    )
    assert kind == "object"
    assert (stored["nested"], stored["text"]) == ({"a": [1, None, "x"]}, '{"looks": "like json"}')
    assert api.sql(
        "select jsonb_typeof(identity_data) from auth.identities where user_id = %s", session["user"]["id"]
    ) == [("object",)]


def test_times_are_written_as_clients_read_them(api: Api) -> None:
    user = api.sign_up()["user"]
    for name in ("created_at", "updated_at", "last_sign_in_at", "email_confirmed_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", user[name])


def test_access_token_has_subject_method_and_expiry(api: Api) -> None:
    session = api.sign_up(name="Ada")
    header = jwt.get_unverified_header(session["access_token"])
    assert (header["alg"], header["kid"]) == ("ES256", api.keys.jwk["kid"])
    claims = decoded(session["access_token"])
    user = session["user"]
    assert claims["iss"] == f"{api.url}/auth/v1"
    assert (claims["sub"], claims["email"], claims["phone"]) == (user["id"], user["email"], "")
    assert (claims["aud"], claims["role"], claims["aal"]) == ("authenticated", "authenticated", "aal1")
    assert claims["is_anonymous"] is False
    assert claims["app_metadata"]["provider"] == "email"
    assert claims["user_metadata"]["name"] == "Ada"
    assert [entry["method"] for entry in claims["amr"]] == ["password"]
    assert claims["amr"][0]["timestamp"] == pytest.approx(time.time(), abs=60)
    assert claims["exp"] - claims["iat"] == 3600 == session["expires_in"]
    assert api.sql("select id::text from auth.sessions where user_id = %s", user["id"]) == [(claims["session_id"],)]


def test_anyone_can_check_a_token_with_the_published_keys(api: Api) -> None:
    published = api.plain.get(f"{api.url}/auth/v1/.well-known/jwks.json").json()
    assert [key["kid"] for key in published["keys"]] == [api.keys.jwk["kid"]]
    assert not any("d" in key for key in published["keys"])
    access = api.sign_up()["access_token"]
    key = jwt.PyJWKSet.from_dict(published).keys[0]
    assert jwt.decode(access, key.key, ["ES256"], audience="authenticated", issuer=f"{api.url}/auth/v1")
    refreshed = token(api, "refresh_token", refresh_token=api.sign_up()["refresh_token"]).json()
    assert jwt.decode(refreshed["access_token"], key.key, ["ES256"], audience="authenticated")


def test_database_sees_the_claims(api: Api) -> None:
    session = api.sign_up()
    known = api.http(token=session["access_token"]).post("/rest/v1/rpc/whoami", json={}).json()
    assert (known["uid"], known["role"], known["email"]) == (
        session["user"]["id"],
        "authenticated",
        session["user"]["email"],
    )
    assert known["jwt"] == decoded(session["access_token"])
    assert known["current"] == "authenticated"


def test_the_projects_hook_writes_the_claims(api: Api) -> None:
    session = api.sign_up()
    api.sql(
        "insert into public.organization_members (user_id, organization_id) values (%s, %s)",
        session["user"]["id"],
        acme(),
    )
    for answer in (
        token(api, "password", email=session["user"]["email"], password=PASSWORD),
        token(api, "refresh_token", refresh_token=session["refresh_token"]),
    ):
        assert decoded(answer.json()["access_token"])["app_metadata"]["org_id"] == acme()


def acme() -> str:
    from tests.support.world import ACME  # noqa: PLC0415

    return str(ACME)


def test_refusing_or_broken_hook_blocks_sign_in(fresh_database: Database, tmp_path: Any) -> None:
    hook = """
        create or replace function public.gate(event jsonb) returns jsonb language plpgsql as $$ begin
          if current_user <> 'supabase_auth_admin' then raise exception 'called as %', current_user; end if;
          {body}
        end $$;
        grant execute on function public.gate(jsonb) to supabase_auth_admin;
        grant usage on schema public to supabase_auth_admin;
    """
    with running(fresh_database, tmp_path / "api", ACCESS_TOKEN_HOOK="pg-functions://postgres/public/gate") as api:
        for body, status in (
            ("return jsonb_build_object('claims', event -> 'claims' || '{\"tier\": \"gold\"}');", 200),
            (
                "return jsonb_build_object('error', jsonb_build_object('http_code', 403, 'message', 'Closed today'));",
                403,
            ),
            ("raise exception 'bug';", 500),
            ("return jsonb_build_object('claims', jsonb_build_object('sub', 'x'));", 500),
            ("perform pg_sleep(5); return event;", 500),
        ):
            api.sql(hook.replace("{body}", body))
            answer = api.http().post("/auth/v1/signup", json={"email": f"{uuid4()}@api.test", "password": PASSWORD})
            assert answer.status_code == status, answer.text
            if status == 200:
                assert decoded(answer.json()["access_token"])["tier"] == "gold"
            if status == 403:
                assert answer.json()["msg"] == "Closed today"
        api.sql("drop function public.gate(jsonb)")
        assert api.http().post("/auth/v1/signup", json={"email": "a@api.test", "password": PASSWORD}).status_code == 500
        assert api.sql("select count(*) from auth.users where email like '%@api.test'") == [(1,)]


def test_wrong_credentials_all_get_the_same_answer(api: Api) -> None:
    email = api.sign_up()["user"]["email"]
    wrong = [
        token(api, "password", email=email, password="wrong-password"),
        token(api, "password", email="nobody@api.test", password=PASSWORD),
        token(api, "password", email=email, password=""),
        token(api, "password", email=email),
        token(api, "password", email={"$ne": 1}, password=[1]),
    ]
    assert {(answer.status_code, answer.text) for answer in wrong} == {(400, wrong[0].text)}
    assert refused(wrong[0]) == (400, "invalid_credentials")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"email": "not an address", "password": PASSWORD}, "validation_failed"),
        ({"email": "a@b.test", "password": "x" * 73}, "validation_failed"),
        ({"email": "a@b.test", "password": "short"}, "weak_password"),
        ({"email": "a@b.test"}, "validation_failed"),
        ({"email": "a@b.test", "password": 12345678}, "validation_failed"),
        ({"phone": "+4912345", "password": PASSWORD}, "phone_provider_disabled"),
    ],
)
def test_a_sign_up_that_cannot_be_is_explained(api: Api, body: dict[str, Any], code: str) -> None:
    answer = api.http().post("/auth/v1/signup", json=body)
    assert answer.status_code in {400, 422}
    assert refused(answer)[1] == code


def test_concurrent_sign_ups_of_one_address_succeed_once(api: Api) -> None:
    body = {"email": f"{uuid4()}@api.test", "password": PASSWORD}
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda _: api.plain.post(f"{api.url}/auth/v1/signup", json=body, headers=key(api)), range(6))
        )
    assert sorted(answer.status_code for answer in answers) == [200, 422, 422, 422, 422, 422]
    assert {refused(answer)[1] for answer in answers if answer.status_code == 422} == {"user_already_exists"}
    with pytest.raises(AuthApiError, match="already registered"):
        api.supabase().auth.sign_up({"email": body["email"], "password": PASSWORD})


def key(api: Api) -> dict[str, str]:
    return {"apikey": api.keys.publishable_key}


def test_anonymous_account_can_be_made_permanent(api: Api) -> None:
    client = api.supabase()
    session = client.auth.sign_in_anonymously().session
    assert session
    claims = decoded(session.access_token)
    assert claims["is_anonymous"] is True
    assert [entry["method"] for entry in claims["amr"]] == ["anonymous"]
    assert claims["role"] == "authenticated"
    email = f"{uuid4()}@api.test"
    changed = client.auth.update_user({"email": email, "password": PASSWORD})
    assert (changed.user.is_anonymous, changed.user.email) == (False, email)
    signed_in = api.supabase().auth.sign_in_with_password({"email": email, "password": PASSWORD})
    assert signed_in.user
    assert signed_in.user.id == changed.user.id


# Sessions ------------------------------------------------------------------------------------------------------------


def test_refresh_token_works_once(api: Api) -> None:
    session = api.sign_up()
    renewed = token(api, "refresh_token", refresh_token=session["refresh_token"]).json()
    assert renewed["refresh_token"] != session["refresh_token"]
    assert decoded(renewed["access_token"])["session_id"] == decoded(session["access_token"])["session_id"]
    # Two tabs at once: the older token still leads to the newest for a moment.
    again = token(api, "refresh_token", refresh_token=session["refresh_token"]).json()
    assert again["refresh_token"] == renewed["refresh_token"]


def test_reused_refresh_token_ends_the_session(api: Api) -> None:
    session = api.sign_up()
    renewed = token(api, "refresh_token", refresh_token=session["refresh_token"]).json()
    api.sql(
        "update auth.refresh_tokens set updated_at = now() - interval '1 minute' where token = %s",
        session["refresh_token"],
    )
    assert refused(token(api, "refresh_token", refresh_token=session["refresh_token"])) == (
        400,
        "refresh_token_already_used",
    )
    assert refused(token(api, "refresh_token", refresh_token=renewed["refresh_token"])) == (
        400,
        "refresh_token_already_used",
    )


def test_refreshing_in_parallel_leaves_one_valid_token(api: Api) -> None:
    session = api.sign_up()
    body = {"refresh_token": session["refresh_token"]}
    address = f"{api.url}/auth/v1/token?grant_type=refresh_token"
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: api.plain.post(address, json=body, headers=key(api)), range(6)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1


def test_unknown_and_malformed_refresh_tokens_are_refused(api: Api) -> None:
    assert refused(token(api, "refresh_token", refresh_token="x" * 12)) == (400, "refresh_token_not_found")
    assert refused(token(api, "refresh_token", refresh_token=7)) == (400, "validation_failed")
    assert refused(token(api, "refresh_token")) == (400, "validation_failed")
    assert refused(token(api, "telepathy")) == (400, "invalid_credentials")


@pytest.mark.parametrize(("scope", "own", "other"), [("local", 403, 200), ("others", 200, 403), ("global", 403, 403)])
def test_signing_out_ends_the_sessions_of_its_scope(api: Api, scope: str, own: int, other: int) -> None:
    session = api.sign_up()
    second = token(api, "password", email=session["user"]["email"], password=PASSWORD).json()
    client = api.http(token=session["access_token"])
    assert client.post(f"/auth/v1/logout?scope={scope}").status_code == 204
    assert client.get("/auth/v1/user").status_code == own
    assert api.http(token=second["access_token"]).get("/auth/v1/user").status_code == other
    refreshed = token(api, "refresh_token", refresh_token=session["refresh_token"])
    assert refreshed.status_code == (200 if own == 200 else 400)


def test_metadata_that_a_trigger_refuses_is_422_or_as_in_gotrue_500(api: Api) -> None:
    large = {"about": "x" * 20_000}
    body = {"email": "large@api.test", "password": PASSWORD, "data": large}
    client = api.http(token=api.sign_up("grower")["access_token"])
    for answer in (client.post("/auth/v1/signup", json=body), client.put("/auth/v1/user", json={"data": large})):
        assert error_of(answer) == (422, "PT422")
        assert answer.json()["message"] == "user_metadata is too large"
        assert "16384 bytes" in answer.json()["hint"]
    newer = client.post("/auth/v1/signup", json=body, headers={"x-supabase-api-version": "2024-01-01"})
    assert refused(newer) == (500, "unexpected_failure")


def test_user_changes_metadata_and_password_but_not_role(api: Api) -> None:
    session = api.sign_up(color="red", size=1)
    second = token(api, "password", email=session["user"]["email"], password=PASSWORD).json()
    client = api.http(token=session["access_token"])
    changed = client.put(
        "/auth/v1/user", json={"data": {"color": None, "shape": "round"}, "role": "service_role"}
    ).json()
    assert changed["user_metadata"] | {"size": 1, "shape": "round"} == changed["user_metadata"]
    assert "color" not in changed["user_metadata"]
    assert changed["role"] == "authenticated"
    assert refused(client.put("/auth/v1/user", json={"app_metadata": {"org_id": "x"}})) == (403, "not_admin")
    assert refused(client.put("/auth/v1/user", json={"password": PASSWORD})) == (422, "same_password")
    assert refused(client.put("/auth/v1/user", json={"password": "short"})) == (422, "weak_password")
    assert client.put("/auth/v1/user", json={"password": "another-horse-2"}).status_code == 200
    assert token(api, "password", email=session["user"]["email"], password=PASSWORD).status_code == 400
    assert token(api, "password", email=session["user"]["email"], password="another-horse-2").status_code == 200
    # Other sessions end; the session that changed the password stays.
    assert token(api, "refresh_token", refresh_token=second["refresh_token"]).status_code == 400
    assert token(api, "refresh_token", refresh_token=session["refresh_token"]).status_code == 200


def test_address_in_use_is_refused(api: Api) -> None:
    existing = api.sign_up()["user"]["email"]
    client = api.http(token=api.sign_up()["access_token"])
    assert refused(client.put("/auth/v1/user", json={"email": existing})) == (422, "email_exists")


@pytest.mark.parametrize("made", ["none", "key", "foreign", "expired", "no_subject", "stranger", "ended"])
def test_user_is_visible_to_itself_only(api: Api, made: str) -> None:
    session = api.sign_up()
    subject = session["user"]["id"]
    tokens: dict[str, tuple[str | None, int]] = {
        "none": (None, 401),
        "key": (api.keys.publishable_key, 401),
        "foreign": (jwt.encode({"sub": subject, "role": "authenticated"}, "x" * 40, "HS256"), 403),
        "expired": (api.mint(sub=subject, exp=int(time.time()) - 100), 403),
        "no_subject": (api.mint(), 403),
        "stranger": (api.mint(sub=str(uuid4())), 403),
        "ended": (api.mint(sub=subject, session_id=str(uuid4())), 403),
    }
    access, status = tokens[made]
    assert refused(api.http(token=access).get("/auth/v1/user"))[0] == status


# Mail ----------------------------------------------------------------------------------------------------------------


def test_a_forgotten_password_is_reset_by_the_mailed_code(api: Api) -> None:
    email = api.sign_up()["user"]["email"]
    assert api.http().post("/auth/v1/recover", json={"email": email}).json() == {}
    code, _ = mailed(api, email)
    verified = api.http().post("/auth/v1/verify", json={"type": "recovery", "email": email, "token": code})
    assert verified.status_code == 200
    assert refused(api.http().post("/auth/v1/verify", json={"type": "recovery", "email": email, "token": code})) == (
        403,
        "otp_expired",
    )
    client = api.http(token=verified.json()["access_token"])
    assert client.put("/auth/v1/user", json={"password": "brand-new-horse"}).status_code == 200


def test_recovery_does_not_reveal_accounts(api: Api) -> None:
    answer = api.http().post("/auth/v1/recover", json={"email": "nobody-here@api.test"})
    assert (answer.status_code, answer.json()) == (200, {})


def test_supabase_py_signs_in_by_mailed_link_with_pkce(api: Api) -> None:
    client = api.supabase()
    email = f"{uuid4()}@api.test"
    client.auth.sign_in_with_otp({"email": email})
    _, link = mailed(api, email)
    opened = parameters(api.plain.get(link))
    stolen = token(api, "pkce", auth_code=opened["code"], code_verifier="x" * 43)
    assert refused(stolen) == (400, "bad_code_verifier")


def test_a_mailed_link_leads_back_with_a_session(api: Api) -> None:
    email = f"{uuid4()}@api.test"
    assert api.http().post("/auth/v1/otp", json={"email": email}).json() == {}
    _, link = mailed(api, email)
    opened = parameters(api.plain.get(link))
    assert decoded(opened["access_token"])["email"] == email
    assert opened["type"] == "magiclink"
    assert parameters(api.plain.get(link))["error_code"] == "otp_expired"


def test_a_client_with_the_verifier_gets_the_session(api: Api) -> None:
    email = f"{uuid4()}@api.test"
    verifier = "v" * 50
    challenge = {"code_challenge": verifier, "code_challenge_method": "plain"}
    assert api.http().post("/auth/v1/otp", json={"email": email, **challenge}).status_code == 200
    code = parameters(api.plain.get(mailed(api, email)[1]))["code"]
    answer = token(api, "pkce", auth_code=code, code_verifier=verifier)
    assert answer.json()["user"]["email"] == email
    assert refused(token(api, "pkce", auth_code=code, code_verifier=verifier)) == (404, "flow_state_not_found")


def test_mailed_links_lead_to_no_stranger(api: Api) -> None:
    email = api.sign_up()["user"]["email"]
    api.http().post("/auth/v1/recover?redirect_to=https://evil.example/", json={"email": email})
    answer = api.plain.get(mailed(api, email)[1] + "&redirect_to=https://evil.example/")
    assert httpx.URL(answer.headers["location"]).host == "127.0.0.1"


@pytest.mark.parametrize("address", ["http://127.0.0.1:3000/✓", "http://127.0.0.1:3000/a\r\nb: c", "a" * 50_000])
def test_odd_address_of_a_mailed_link_is_a_header(api: Api, address: str) -> None:
    parameters = {"type": "signup", "token": "unknown", "redirect_to": address}
    answer = api.plain.get(f"{api.url}/auth/v1/verify", params=parameters)
    location = answer.headers["location"]
    assert (answer.status_code, location.isascii(), "b" in answer.headers) == (303, True, False)
    assert location.startswith("http://127.0.0.1:3000/%E2%9C%93#" if "✓" in address else "http://127.0.0.1:3000")


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("resend", {"type": ["signup"]}, "Missing one of these types: signup, email_change, sms, phone_change"),
        ("recover", {}, "Password recovery requires an email"),
        ("signup", {"email": "a@b.test", "password": "a" * 73}, "Password cannot be longer than 72 characters"),
    ],
)
def test_refusals_have_the_words_of_auth(api: Api, path: str, body: dict[str, object], message: str) -> None:
    answer = api.http().post(f"/auth/v1/{path}", json=body)
    assert (answer.status_code, answer.json()["msg"]) == (400, message)


def test_large_objects_are_rejected(api: Api) -> None:
    assert api.http().post("/auth/v1/signup", json={"data": {"a": "b" * 1024 * 1024}}).status_code == 413


def test_new_address_is_confirmed_at_both_addresses(api: Api) -> None:
    session = api.sign_up()
    old, new = session["user"]["email"], f"{uuid4()}@api.test"
    client = api.http(token=session["access_token"])
    changed = client.put("/auth/v1/user", json={"email": new}).json()
    assert (changed["email"], changed["new_email"]) == (old, new)
    first = {"type": "email_change", "email": old, "token": mailed(api, old)[0]}
    assert "proceed to confirm" in client.post("/auth/v1/verify", json=first).json()["msg"]
    assert client.get("/auth/v1/user").json()["email"] == old
    second = {"type": "email_change", "email": new, "token": mailed(api, new)[0]}
    assert client.post("/auth/v1/verify", json=second).json()["user"]["email"] == new
    existing = api.sign_up()
    assert (
        refused(api.http(token=existing["access_token"]).put("/auth/v1/user", json={"email": new}))[1] == "email_exists"
    )


def test_last_identity_is_never_removed(api: Api) -> None:
    session = api.sign_up()
    identity = session["user"]["identities"][0]["identity_id"]
    answer = api.http(token=session["access_token"]).delete(f"/auth/v1/user/identities/{identity}")
    assert refused(answer) == (422, "single_identity_not_deletable")


def test_sign_in_by_mail_creates_no_account_unless_wanted(api: Api) -> None:
    answer = api.http().post("/auth/v1/otp", json={"email": "not-me@api.test", "create_user": False})
    assert refused(answer) == (422, "otp_disabled")


# Administration ------------------------------------------------------------------------------------------------------


def test_supabase_py_administers_users(api: Api) -> None:
    admin = api.supabase(api.keys.secret_key).auth.admin
    email = f"{uuid4()}@api.test"
    created = admin.create_user(
        {
            "email": email,
            "password": PASSWORD,
            "email_confirm": True,
            "user_metadata": {"name": "Made"},
            "app_metadata": {"plan": "gold"},
        }
    ).user
    assert created.email_confirmed_at
    assert (created.app_metadata["plan"], created.app_metadata["provider"]) == ("gold", "email")
    assert admin.get_user_by_id(created.id).user.user_metadata["name"] == "Made"
    changed = admin.update_user_by_id(
        created.id, {"app_metadata": {"plan": None, "seats": 3}, "email": f"new-{email}"}
    ).user
    assert (changed.app_metadata["seats"], "plan" in changed.app_metadata, changed.email) == (3, False, f"new-{email}")
    assert created.id in {user.id for user in admin.list_users(page=1, per_page=200)}
    admin.delete_user(created.id)
    with pytest.raises(AuthApiError, match="User not found"):
        admin.get_user_by_id(created.id)
    with pytest.raises((AuthApiError, AuthWeakPasswordError)):
        admin.create_user({"email": email, "password": "short"})


def test_users_are_listed_in_pages(api: Api) -> None:
    for _ in range(3):
        api.sign_up("paged")
    admin = api.admin()
    total = int(admin.get("/auth/v1/admin/users").headers["x-total-count"])
    pages = [admin.get("/auth/v1/admin/users", params={"page": page, "per_page": 2}) for page in (1, 2)]
    ids = [user["id"] for page in pages for user in page.json()["users"]]
    assert len(set(ids)) == 4
    assert '</admin/users?page=2&per_page=2>; rel="next"' in pages[0].headers["link"]
    last = -(-total // 2)
    assert f'page={last}&per_page=2>; rel="last"' in pages[0].headers["link"]
    assert refused(admin.get("/auth/v1/admin/users?page=0")) == (400, "validation_failed")


def test_banned_user_cannot_sign_in_refresh_or_act(api: Api) -> None:
    session = api.sign_up()
    admin = api.admin()
    address = f"/auth/v1/admin/users/{session['user']['id']}"
    assert admin.put(address, json={"ban_duration": "1h30m"}).json()["banned_until"]
    email = session["user"]["email"]
    assert refused(token(api, "password", email=email, password=PASSWORD)) == (400, "user_banned")
    assert refused(token(api, "refresh_token", refresh_token=session["refresh_token"])) == (400, "user_banned")
    assert refused(api.http(token=session["access_token"]).get("/auth/v1/user")) == (403, "user_banned")
    assert "banned_until" not in admin.put(address, json={"ban_duration": "none"}).json()
    assert token(api, "password", email=email, password=PASSWORD).status_code == 200
    assert refused(admin.put(address, json={"ban_duration": "forever"})) == (400, "validation_failed")


def test_an_unconfirmed_user_cannot_sign_in_until_confirmed(api: Api) -> None:
    admin = api.admin()
    email = f"{uuid4()}@api.test"
    user = admin.post("/auth/v1/admin/users", json={"email": email, "password": PASSWORD}).json()
    assert refused(token(api, "password", email=email, password=PASSWORD)) == (400, "email_not_confirmed")
    admin.put(f"/auth/v1/admin/users/{user['id']}", json={"email_confirm": True})
    assert token(api, "password", email=email, password=PASSWORD).status_code == 200


def test_links_for_mails_of_our_own(api: Api) -> None:
    admin = api.supabase(api.keys.secret_key).auth.admin
    email = f"{uuid4()}@api.test"
    signup = admin.generate_link({"type": "signup", "email": email, "password": PASSWORD})
    assert signup.user.email == email
    assert parameters(api.plain.get(signup.properties.action_link))["access_token"]
    assert token(api, "password", email=email, password=PASSWORD).status_code == 200
    magic = admin.generate_link({"type": "magiclink", "email": email})
    verified = api.http().post(
        "/auth/v1/verify", json={"type": "magiclink", "token_hash": magic.properties.hashed_token}
    )
    assert verified.json()["user"]["email"] == email
    invited = admin.invite_user_by_email(f"guest-{email}")
    assert invited.user.invited_at
    assert mailed(api, f"guest-{email}")


@pytest.mark.parametrize("credential", ["publishable", "user"])
def test_administration_is_for_the_secret_key(api: Api, credential: str) -> None:
    client = api.http(token=api.sign_up()["access_token"] if credential == "user" else None)
    other = api.sign_up()["user"]["id"]
    for method, path in (
        ("GET", "admin/users"),
        ("POST", "admin/users"),
        ("GET", f"admin/users/{other}"),
        ("PUT", f"admin/users/{other}"),
        ("DELETE", f"admin/users/{other}"),
        ("POST", "admin/generate_link"),
        ("POST", "invite"),
    ):
        assert refused(client.request(method, f"/auth/v1/{path}", json={"email": "x@api.test"})) == (403, "not_admin")
    assert api.sql("select count(*) from auth.users where id = %s", other) == [(1,)]


def test_a_trigger_of_the_project_that_refuses_undoes_the_account(fresh_database: Database, tmp_path: Any) -> None:
    with running(fresh_database, tmp_path / "api") as api:
        api.sql("""
            create function private.no() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
            create trigger no before insert on public.users for each row execute function private.no();
        """)
        answer = api.http().post("/auth/v1/signup", json={"email": "x@api.test", "password": PASSWORD})
        assert refused(answer) == (500, "unexpected_failure")
        assert api.sql("select count(*) from auth.users where email = 'x@api.test'") == [(0,)]


@pytest.mark.parametrize(
    "path", ["factors", "sso", "authorize?provider=github", "admin/oauth/clients", "user/identities/authorize"]
)
def test_unsupported_endpoint_error_names_the_alternative(api: Api, path: str) -> None:
    answer = api.admin().get(f"/auth/v1/{path}")
    assert refused(answer) == (501, "not_served")
    assert "supabase start" in answer.json()["msg"]


@pytest.mark.parametrize("content", ["{", "[]", '"x"', "null", "\x00"])
def test_malformed_bodies_are_the_clients_fault(api: Api, content: str) -> None:
    for path in ("signup", "token?grant_type=password", "otp", "verify", "recover"):
        assert refused(api.http().post(f"/auth/v1/{path}", content=content)) == (400, "bad_json")


def test_odd_input_is_refused_without_a_failure_of_ours(api: Api) -> None:
    client = api.http()
    assert client.post("/auth/v1/signup", json={"email": "nul\x00@api.test", "password": PASSWORD}).status_code == 400
    data = {"email": f"{uuid4()}@api.test", "password": PASSWORD, "data": {"x": "\x00"}}
    assert client.post("/auth/v1/signup", json=data).status_code == 400
    assert client.get("/auth/v1/nothing").status_code == 404
    assert client.delete("/auth/v1/signup").status_code == 405
    assert api.admin().get("/auth/v1/admin/users/not-a-uuid").status_code == 404
    assert client.get("/auth/v1/settings").json()["external"]["email"] is True
    assert client.get("/auth/v1/health").status_code == 200
