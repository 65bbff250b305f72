"""The context of an evaluation: whom a flag is evaluated for."""

from collections.abc import Mapping
from typing import Any

# Attributes that say who a user is. They come from the database or from our own servers, never from a client.
IDENTITY = ("targetingKey", "user_id", "organization_id", "tier", "org_role", "global_role", "email")


class Context:
    """Made from attributes that are all trusted, such as those of our own servers.

    Percentages draw by `unit` or `organization_unit`; a flag's lists hold `user_id`, `organization_id` and `tier`.
    """

    # Few flags need the organization, so it is made on first use (__getattr__).
    __slots__ = ("attributes", "organization_id", "organization_unit", "tier", "unit", "user_id")
    organization_id: str | None
    organization_unit: bytes | None
    unit: bytes | None
    user_id: str | None

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self.attributes = attributes
        get = attributes.get
        key = get("targetingKey")
        user = get("user_id", key)
        self.tier = get("tier")
        if type(key) is str and type(user) is str and key and user:
            try:
                self.unit = key.encode()
            except UnicodeEncodeError:  # a lone surrogate
                self.unit = key.encode(errors="replace")
            # Ids are UUIDs, which the database writes in lower case.
            self.user_id = user.lower()
        else:
            key, user = _text(key), _text(user)
            unit = key or user
            self.unit = unit.encode(errors="replace") if unit else None
            self.user_id = (user or key or "").lower() or None

    def __getattr__(self, name: str) -> Any:
        value: str | bytes | None
        if name == "organization_unit":
            value = self.organization_id and self.organization_id.encode(errors="replace")
        elif name == "organization_id":
            organization = _text(self.attributes.get("organization_id"))
            value = organization and organization.lower()
        else:
            raise AttributeError(name)
        setattr(self, name, value)
        return value

    @classmethod
    def identified(cls, identity: Mapping[str, Any], attributes: Mapping[str, Any]) -> "Context":
        """A user whom the database knows; attributes sent by the client never replace the identity."""
        return cls({**_unsigned(attributes), **identity, "targetingKey": identity["user_id"]})

    @classmethod
    def anonymous(cls, attributes: Mapping[str, Any]) -> "Context":
        """An unknown user: the targeting key draws a result, but is never looked up as a user."""
        key = attributes.get("targetingKey")
        keyed = {"targetingKey": key} if isinstance(key, str) and key else {}
        context = cls({**_unsigned(attributes), **keyed})
        context.user_id = None
        return context


def _unsigned(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in IDENTITY}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
