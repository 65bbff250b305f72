"""For whom a flag is evaluated."""

from collections.abc import Mapping
from typing import Any

# What says who somebody is. Only the database or our own servers say it, never a client.
IDENTITY = ("targetingKey", "user_id", "organization_id", "tier", "org_role", "global_role", "email")


class Context:
    """`unit` is drawn by percentages; `user_id`, `organization_id` and `tier` are looked up in a flag's lists."""

    __slots__ = ("attributes", "organization_id", "organization_unit", "tier", "unit", "user_id")

    def __init__(
        self,
        attributes: Mapping[str, Any],
        *,
        unit: str | None = None,
        user_id: str | None = None,
        organization_id: str | None = None,
        tier: str | None = None,
    ) -> None:
        self.attributes = attributes
        self.unit = unit.encode() if unit else None
        self.user_id = user_id
        self.organization_id = organization_id
        self.organization_unit = organization_id.encode() if organization_id else None
        self.tier = tier

    @classmethod
    def asserted(cls, attributes: Mapping[str, Any]) -> "Context":
        """As one of our own servers says: every attribute is believed."""
        said = attributes.get
        key, organization = _text(said("targetingKey")), _text(said("organization_id"))
        user = _text(said("user_id")) or key
        return cls(
            attributes,
            unit=key or user,
            # Ids are UUIDs, which the database writes in lower case.
            user_id=user and user.lower(),
            organization_id=organization and organization.lower(),
            tier=_text(said("tier")),
        )

    @classmethod
    def identified(cls, identity: Mapping[str, Any], attributes: Mapping[str, Any]) -> "Context":
        """As the database knows the user; what the client says of itself counts only beside that."""
        return cls.asserted({**_unsigned(attributes), **identity, "targetingKey": identity["user_id"]})

    @classmethod
    def anonymous(cls, attributes: Mapping[str, Any]) -> "Context":
        """Of somebody nobody knows: their targeting key draws them, and names no user."""
        key = _text(attributes.get("targetingKey"))
        return cls({**_unsigned(attributes), **({"targetingKey": key} if key else {})}, unit=key)


def _unsigned(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in IDENTITY}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
