"""What an agency sells: listings, leads, contacts, deals, activities and appointments."""

# ruff: noqa: PLR2004 - shares and days of a story, not settings

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

from local.demo.story import STREETS, Agency, Row, Story

STAGES = ("LEAD", "QUALIFIED", "PROPOSAL", "NEGOTIATION", "CLOSING")


def add_sales(
    story: Story, agency: Agency, org: UUID, people: list[UUID], scale: int, companies: list[Row], reasons: list[Row]
) -> list[Row]:
    """Listings, leads, deals and appointments; returns the contacts that leads became."""
    random = story.random
    listings = [_listing(story, agency, org, people) for _ in range(agency.leads // 5 * scale)]
    contacts: list[Row] = []
    for _ in range(agency.leads * scale):
        lead = _lead(story, agency, org, people)
        if lead["status"] == "CONVERTED":
            contacts.append(_contact(story, org, lead, companies))
            lead["converted_contact_id"] = contacts[-1]["id"]
    for contact in contacts:
        for _ in range(random.randint(0, 2)):
            _deal(story, org, contact, random.choice(listings), reasons)
    for contact in contacts[:: max(1, scale)]:
        story.add(
            "notes",
            organization_id=org,
            author_id=contact["assigned_to_id"],
            contact_id=contact["id"],
            created_at=story.moment(90),
            body=random.choice(("Prefers mornings.", "Has two dogs.", "Sells first, then buys.")),
        )
    _calendar(story, org, people, contacts, listings, scale)
    return contacts


def _listing(story: Story, agency: Agency, org: UUID, people: list[UUID]) -> Row:
    random, (city, state) = story.random, story.random.choice(agency.cities)
    listed, feet = story.moment(), story.random.randint(6, 60) * 100
    kind = random.choice(agency.kinds)
    street = random.choice(STREETS)
    age = (story.at - listed).days
    number = random.randint(1, 999)
    return story.add(
        "listings",
        organization_id=org,
        title=f"{kind.replace('_', ' ').capitalize()} on {street}",
        city=city,
        state=state,
        description=f"{feet} square feet, close to the center of {city}.",
        address=f"{number} {street}",
        zip_code=f"{random.randint(10000, 99999)}",
        property_type=kind,
        square_feet=feet,
        bedrooms=random.randint(*agency.rooms),
        bathrooms=random.randint(2, 8) / 2,
        year_built=random.randint(1920, story.at.year),
        price=random.randint(*agency.prices) // 1000 * 1000,
        created_at=listed,
        listing_date=listed,
        status=random.choice(("SOLD", "SOLD", "EXPIRED", "WITHDRAWN"))
        if age > 120
        else random.choice(("ACTIVE", "ACTIVE", "ACTIVE", "PENDING", "CONTINGENT")),
        images=[f"https://images.strive.test/{number}-{n}.jpg" for n in range(3)],
        mls_number=f"MLS{random.randint(10**6, 10**7)}",
        features=random.sample(["garage", "garden", "pool", "fireplace", "elevator", "view"], 2),
        assigned_to_id=random.choice(people),
    )


def _lead(story: Story, agency: Agency, org: UUID, people: list[UUID]) -> Row:
    random, name, came = story.random, story.name(), story.moment()
    score = random.randint(0, 100)
    fresh = (story.at - came).days < 20
    status = random.choice(
        ("NEW_LEAD", "NEW_LEAD", "IN_CONTACT")
        if fresh
        else ("CONVERTED", "CONVERTED", "LOST", "UNQUALIFIED", "IN_CONTACT", "QUALIFIED")
    )
    owner = random.choice(people)
    lead = story.add(
        "leads",
        organization_id=org,
        name=name,
        phone=story.phone(),
        created_at=came,
        status=status,
        score_value=score,
        email=f"{name.lower().replace(' ', '.')}{random.randint(1, 9999)}@example.test",
        assigned_to_id=owner,
        source=random.choice(("WEBSITE", "WEBSITE", "REFERRAL", "GOOGLE_ADS", "SOCIAL_MEDIA", "EVENT", "PARTNER")),
        score="HOT" if score >= 80 else "WARM" if score >= 50 else "COLD",
        budget=random.randint(*agency.prices) // 5000 * 5000,
        cities=[random.choice(agency.cities)[0]],
        property_types=[random.choice(agency.kinds)],
        min_bedrooms=agency.rooms[0] or None,
        timeline=random.choice(("this month", "this quarter", "this year")),
        tags=[random.choice(("buyer", "seller", "investor"))],
        is_watching=random.random() < 0.3,
    )
    if status != "NEW_LEAD":
        for _ in range(random.randint(1, 3)):
            when = min(came + timedelta(days=random.randint(0, 20), hours=1), story.at)
            _activity(story, org, owner, random.choice(("CALL", "EMAIL", "FOLLOW_UP")), name, when, lead_id=lead["id"])
            lead["last_contact_at"] = max(lead.get("last_contact_at", when), when)
    record = "leads", lead["id"]
    story.log(org, owner, record, came, {"name": name, "status": "NEW_LEAD", "source": lead["source"]})
    for step, (before, after) in enumerate(pairwise(_statuses(status))):
        came = max(came, min(came + timedelta(days=random.randint(1, 6)), story.at)) + timedelta(seconds=step + 1)
        story.log(org, owner, record, came, {"status": after}, {"status": before})
    return lead


def _statuses(status: str) -> list[str]:
    """How a lead comes to this status."""
    path = ["NEW_LEAD", "IN_CONTACT", "QUALIFIED"]
    return path[: path.index(status) + 1] if status in path else [*path[: 3 if status == "CONVERTED" else 2], status]


def _activity(story: Story, org: UUID, who: UUID, kind: str, name: str, when: datetime, **about: Any) -> None:
    story.add(
        "activities",
        organization_id=org,
        created_by_id=who,
        type=kind,
        created_at=when,
        completed_at=when,
        title=f"{kind.replace('_', ' ').capitalize()} with {name}",
        duration_minutes=story.random.randint(3, 60),
        **about,
    )
    if (story.at - when).days < 45:
        (entity, entity_id), *_ = about.items()
        story.add(
            "activity_feeds",
            organization_id=org,
            user_id=who,
            type="USER_ACTION",
            entity_id=str(entity_id),
            title=f"{kind.replace('_', ' ').capitalize()} with {name}",
            entity_type=entity.removesuffix("_id"),
            action=kind.lower(),
            created_at=when,
        )


def _contact(story: Story, org: UUID, lead: Row, companies: list[Row]) -> Row:
    company = story.random.choice(companies) if story.random.random() < 0.4 else None
    same = ("name", "email", "phone", "budget", "cities", "property_types", "assigned_to_id", "tags", "is_watching")
    contact = story.add(
        "contacts",
        organization_id=org,
        **{name: lead[name] for name in same},
        type=story.random.choice(("CLIENT", "PAST_CLIENT")),
        created_at=min(lead["created_at"] + timedelta(days=9), story.at),
        company_id=company and company["id"],
        company=company and company["name"],
        last_contact_at=lead.get("last_contact_at"),
        preferred_contact_method=story.random.choice(("email", "phone", "text")),
    )
    made = {"name": contact["name"], "type": contact["type"]}
    story.log(org, lead["assigned_to_id"], ("contacts", contact["id"]), contact["created_at"], made)
    return contact


def _deal(story: Story, org: UUID, contact: Row, listing: Row, reasons: list[Row]) -> None:
    random, began = story.random, min(contact["created_at"] + timedelta(days=story.random.randint(0, 30)), story.at)
    is_old = (story.at - began).days > 60
    end = random.choice(("CLOSED_WON", "CLOSED_WON", "CLOSED_LOST")) if is_old else random.choice(STAGES)
    path = [*STAGES[: random.randint(2, 5)], end] if is_old else list(STAGES[: STAGES.index(end) + 1])
    times = sorted(min(began + timedelta(days=n * random.randint(3, 12)), story.at) for n in range(len(path)))
    steps = [when - timedelta(minutes=len(path) - n) for n, when in enumerate(times)]  # no two at the same time
    reason = random.choice(reasons) if end == "CLOSED_LOST" else None
    who = contact["assigned_to_id"]
    status, probability = story.stages[end]
    deal = story.add(
        "deals",
        organization_id=org,
        title=f"{listing['title']} for {contact['name']}",
        value=listing["price"],
        stage=end,
        contact_id=contact["id"],
        company_id=contact["company_id"],
        listing_id=listing["id"],
        assigned_to_id=who,
        status=status,
        probability=probability,
        expected_close_date=began + timedelta(days=random.randint(30, 150)),
        created_at=began,
        updated_at=steps[-1],
        actual_close_date=steps[-1] if is_old else None,
        lost_reason=reason and reason["name"],
        lost_reason_id=reason and reason["id"],
    )
    for before, after, when in zip([None, *path], path, steps, strict=False):
        story.add(
            "deal_stage_changes",
            organization_id=org,
            deal_id=deal["id"],
            from_stage=before,
            to_stage=after,
            value=deal["value"],
            changed_by=who,
            changed_at=when,
        )
        story.log(org, who, ("deals", deal["id"]), when, {"stage": after}, {"stage": before} if before else None)
    _activity(
        story,
        org,
        who,
        random.choice(("MEETING", "SHOWING")),
        contact["name"],
        steps[0],
        deal_id=deal["id"],
        contact_id=contact["id"],
    )


def _calendar(
    story: Story, org: UUID, people: list[UUID], contacts: list[Row], listings: list[Row], scale: int
) -> None:
    random = story.random
    kinds = ("MEETING", "CALL", "SHOWING", "OPEN_HOUSE", "FOLLOW_UP", "OTHER")
    for n in range(90 * scale):
        start = (story.at + timedelta(days=random.randint(-200, 30))).replace(hour=random.randint(8, 18))
        house, contact = random.choice(listings), random.choice(contacts) if contacts else None
        is_past = start < story.at
        appointment = story.add(
            "appointments",
            organization_id=org,
            title=f"{kinds[n % 6].replace('_', ' ').capitalize()}: {house['title']}",
            type=kinds[n % 6],
            start_time=start,
            end_time=start + timedelta(minutes=45),
            location=house["address"],
            status=random.choice(
                ("COMPLETED", "COMPLETED", "COMPLETED", "CANCELLED", "NO_SHOW")
                if is_past
                else ("SCHEDULED", "CONFIRMED")
            ),
            assigned_to=random.choice(people),
            listing_id=house["id"],
            contact_id=contact and contact["id"],
            created_at=min(start - timedelta(days=3), story.at),
        )
        if is_past:  # attendees of those to come would be mailed
            story.add(
                "appointment_attendees",
                organization_id=org,
                appointment_id=appointment["id"],
                user_id=random.choice(people),
                reply=random.choice(("ACCEPTED", "DECLINED", "PENDING")),
            )
