"""The actors: one for each column of the table of expectations, and twins that must get the same outcomes."""

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from tests.support.world import ACME, GLOBEX, MEMBERS, PEOPLE, Connection, claims_of, fixed_id

# Additional people for these tests: name → roles in Acme and in Globex.
CROSSING: dict[str, tuple[str | None, str | None]] = {
    "owner_of_both": ("OWNER", "OWNER"),
    "viewer_here_owner_there": ("VIEWER", "OWNER"),
    "deactivated": ("OWNER", None),
    "deactivated_platform_admin": (None, None),
    "suspension_over": ("ADMIN", None),
    "suspended_for_a_day": ("OWNER", None),
    "moderator": (None, None),
}
NAMES = {who: name for name, who in PEOPLE.items()}


@dataclass(frozen=True)
class Actor:
    name: str
    column: str
    """The column of the table that says how this one must fare."""
    role: str = "authenticated"
    claims: str = ""
    headers: str = "{}"
    user: object = None

    def settings(self) -> dict[str, str]:
        return {"role": self.role, "claims": self.claims, "headers": self.headers}


def person(name: str, column: str, *, actor: str = "", org: object = None, **claims: Any) -> Actor:
    """A person with a token of the auth service and forged `claims`, naming `org` in x-org-id."""
    if name in MEMBERS:
        token = claims_of(name)
    else:
        token = claims_of("outsider", sub=str(fixed_id(name)), email=f"{name}@strive.test")
    return Actor(
        actor or name,
        column,
        claims=json.dumps(token | claims),
        headers=json.dumps({"x-org-id": str(org)} if org else {}),
        user=fixed_id(name),
    )


def invalid(actor: str, claims: str) -> Actor:
    return Actor(actor, "susp", claims=claims)


OWNERSHIP = {
    "org_id": str(ACME),
    "organization_id": str(ACME),
    "role": "OWNER",
    "org_role": "OWNER",
    "global_role": "SUPER_ADMIN",
    "is_admin": True,
}

ACTORS = [
    Actor("anon", "anon", role="anon", claims='{"role": "anon"}'),
    person("outsider", "outs"),
    person("viewer", "view"),
    person("member", "memb"),
    person("admin", "admi"),
    person("owner", "ownr"),
    person("globex_owner", "othr"),
    person("removed", "remv"),
    person("suspended", "susp"),
    person("platform_admin", "plat", org=ACME),
    Actor("service_role", "serv", role="service_role", claims='{"role": "service_role"}'),
    person("owner", "head", actor="owner naming another organization", org=GLOBEX),
]

TWINS = [
    Actor("anon naming an organization", "anon", role="anon", headers=json.dumps({"x-org-id": str(ACME)})),
    Actor("anon claiming to be the owner", "anon", role="anon", claims=json.dumps(claims_of("owner", role="anon"))),
    person("outsider", "outs", actor="outsider naming an organization", org=ACME),
    person("outsider", "outs", actor="outsider with forged user_metadata", user_metadata=OWNERSHIP),
    person("outsider", "outs", actor="outsider with forged app_metadata", app_metadata=OWNERSHIP),
    person("outsider", "outs", actor="outsider with forged top-level claims", **{**OWNERSHIP, "role": "service_role"}),
    person("removed", "remv", actor="removed member naming the organization", org=ACME),
    person("suspended_for_a_day", "susp", org=ACME),
    person("deactivated", "susp", org=ACME),
    person("viewer", "view", actor="viewer with forged metadata", user_metadata=OWNERSHIP, app_metadata=OWNERSHIP),
    person("viewer_here_owner_there", "view", org=ACME),
    person("suspension_over", "admi"),
    person("owner_of_both", "ownr", actor="owner of both in ours", org=ACME),
    person("owner_of_both", "othr", actor="owner of both in theirs", org=GLOBEX),
    person("globex_owner", "head", actor="globex owner naming another organization", org=ACME),
    person("member", "head", actor="member naming another organization", org=GLOBEX),
    person("moderator", "outs", org=ACME),
    # Signed in without an active account: like the suspended.
    person("deactivated_platform_admin", "susp", org=ACME),
    invalid("empty claims", "{}"),
    invalid("no claims", ""),
    invalid("null subject", '{"sub": null, "role": "authenticated"}'),
    invalid("unknown subject", json.dumps({"sub": str(fixed_id("unknown")), "app_metadata": OWNERSHIP})),
]


READING = ["CRM_READ", "TASKS_READ", "ORDERS_READ", "DASHBOARD_READ", "BILLING_READ", "ORGANIZATION_READ"]
WRITING = ["CRM_WRITE", "TASKS_WRITE", "ORDERS_WRITE"]
# API keys of Acme: name → who made it, and its scopes. Those of the CRM are separate, so that each table has a key with
# its scopes and one that writes elsewhere.
API_KEYS: dict[str, tuple[str, list[str]]] = {
    "reading key": ("admin", READING),
    "CRM key": ("admin", [scope for scope in READING + WRITING if scope.startswith("CRM")]),
    "key without CRM": ("admin", [scope for scope in READING + WRITING if not scope.startswith("CRM")]),
    "key of the owner of both": ("owner_of_both", READING + WRITING),
}


def api_key(name: str) -> Actor:
    creator, scopes = API_KEYS[name]
    user = fixed_id(creator)
    claims = {
        "role": "strive_api_key",
        "sub": str(user),
        "api_key_id": str(fixed_id(name)),
        "app_metadata": {"org_id": str(ACME)},
        "scopes": scopes,
    }
    return Actor(name, "", role="strive_api_key", claims=json.dumps(claims), user=user)


# What they may do follows from the lists in expected.toml and from the columns of a VIEWER and a MEMBER. The last one
# tries also the tables that are closed to keys.
KEYS = [api_key(name) for name in API_KEYS]

# These claims name no user, so no function refuses them as suspended.
WITHOUT_USER = {"empty claims", "no claims", "null subject", "unknown subject"}

# Tokens that no auth service signs. Most statements end in an error; none may do more than an anonymous caller.
MALFORMED = [
    invalid("claims that are no JSON", "{sub:"),
    invalid("claims that are a string", json.dumps(str(PEOPLE["owner"]))),
    invalid("claims that are an array", json.dumps([claims_of("owner")])),
    invalid("claims that are null", "null"),
    invalid("a subject that is no id", '{"sub": "\' or true --"}'),
    invalid("a subject that is an object", json.dumps({"sub": {"id": str(PEOPLE["owner"])}})),
    invalid("a list of subjects", json.dumps({"sub": [str(PEOPLE["outsider"]), str(PEOPLE["owner"])]})),
    Actor("app_metadata that is a string", "outs", claims=json.dumps(claims_of("outsider", app_metadata=str(ACME)))),
    Actor(
        "org_id that is an array",
        "outs",
        claims=json.dumps(claims_of("outsider", app_metadata={"org_id": [str(ACME)]})),
    ),
    Actor("headers that are no JSON", "outs", claims=json.dumps(claims_of("outsider")), headers="{x-org-id:"),
    Actor("a header that is no id", "outs", claims=json.dumps(claims_of("outsider")), headers='{"x-org-id": "%"}'),
]


def populate_crossing(connection: Connection) -> None:
    """Add the people of CROSSING to a populated world."""
    with connection.transaction(), connection.cursor() as cursor:
        for name, places in CROSSING.items():
            cursor.execute(
                "insert into auth.users (id, email, email_confirmed_at) values (%s, %s, now())",
                [fixed_id(name), f"{name}@strive.test"],
            )
            for organization, role in zip((ACME, GLOBEX), places, strict=True):
                if role:
                    cursor.execute(
                        "insert into public.organization_members (user_id, organization_id, role, joined_at)"
                        " values (%s, %s, %s, now() + interval '1 hour')",
                        [fixed_id(name), organization, role],
                    )
        for name, (creator, scopes) in API_KEYS.items():
            cursor.execute(
                "insert into public.api_keys (id, organization_id, name, prefix, key_hash, scopes, created_by)"
                """ values (%s, %s, %s, 'strive_test_000000', %s, %s::text[]::public."ApiKeyScope"[], %s)""",
                [fixed_id(name), ACME, name, sha256(name.encode()).hexdigest(), scopes, fixed_id(creator)],
            )
        states = {
            "deactivated": "is_active = false",
            "deactivated_platform_admin": "is_active = false, global_role = 'SUPER_ADMIN'",
            "suspension_over": "suspended_at = now() - interval '2 days', suspended_until = now() - interval '1 day'",
            "suspended_for_a_day": "suspended_at = now(), suspended_until = now() + interval '1 day'",
            "moderator": "global_role = 'MODERATOR'",
        }
        for name, state in states.items():
            cursor.execute(f"update public.users set {state} where id = %s", [fixed_id(name)])
