"""How an agency works: its companies, follow-up plans, usage, keys, webhooks and subscription."""

# ruff: noqa: PLR2004 - shares and days of a story, not settings

from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from uuid import UUID

from local.demo.story import Agency, Row, Story

REASONS = ("Price", "Bought elsewhere", "Financing failed", "No longer moving")


def add_settings(story: Story, agency: Agency, org: UUID, people: list[UUID]) -> tuple[list[Row], list[Row]]:
    random = story.random
    companies = [
        story.add(
            "companies",
            organization_id=org,
            name=name,
            phone=story.phone(),
            created_at=story.moment(365, 300),
            website=f"https://{name.lower().replace(' ', '').replace('&', '')}.test",
            assigned_to_id=random.choice(people),
        )
        for name in agency.companies
    ]
    reasons = [
        story.add("lost_reasons", organization_id=org, name=name, position=place) for place, name in enumerate(REASONS)
    ]
    return companies, reasons


def add_follow_up(story: Story, org: UUID, people: list[UUID], contacts: list[Row]) -> None:
    random = story.random
    plan = story.add("follow_up_plans", organization_id=org, name="New buyer", description="The first three weeks.")
    for day, kind, title in ((0, "CALL", "Call"), (3, "EMAIL", "Send listings"), (10, "SHOWING", "First viewing")):
        story.add("follow_up_steps", organization_id=org, plan_id=plan["id"], day=day, activity_type=kind, title=title)
    for contact in contacts[-40:]:
        due = story.at + timedelta(days=random.randint(-10, 14))
        done = due < story.at and random.random() < 0.7
        story.add(
            "tasks",
            organization_id=org,
            title=f"Call {contact['name']}",
            activity_type="CALL",
            due_date=due,
            contact_id=contact["id"],
            assigned_to=contact["assigned_to_id"],
            created_by=contact["assigned_to_id"],
            status="DONE" if done else "TODO",  # both are values of TaskStatus
            completed_at=due if done else None,
            created_at=due - timedelta(days=5),
            follow_up_plan_id=plan["id"],
        )
    for person in people:
        story.add(
            "tasks",
            organization_id=org,
            title="Weekly report",
            recurrence="WEEKLY",
            assigned_to=person,
            created_by=person,
            due_date=story.at + timedelta(days=2),
        )
        for name, source, condition in (
            ("My hot leads", "leads", {"score": "HOT"}),
            ("Closing", "deals", {"stage": "CLOSING"}),
        ):
            story.add("saved_views", organization_id=org, user_id=person, name=name, source=source, filter=condition)
        for back in range(12):
            month = date(story.at.year, story.at.month, 1)
            for _ in range(back):
                month = (month - timedelta(days=1)).replace(day=1)
            story.add("sales_goals", organization_id=org, user_id=person, month=month, measure="WON_DEALS", target=4)


def add_usage(story: Story, agency: Agency, org: UUID, people: list[UUID], key: UUID) -> None:
    """What the organization used on each day of the year, more on working days, and what it had."""
    random, share = story.random, (agency.leads / 240) ** 2
    for back in range(365, 0, -1):
        day, grown = (story.at - timedelta(days=back)).date(), 1 - back / 500
        busy = grown if day.weekday() < 5 else grown / 6

        def use(resource: str, name: str, amount: float, day: date = day, **who: UUID) -> None:
            story.add(
                "usage_tracking",
                organization_id=org,
                resource_type=resource,
                resource_name=name,
                usage_amount=round(amount),
                day=day,
                created_at=datetime(day.year, day.month, day.day, 9, tzinfo=UTC),
                updated_at=datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, minutes=1),
                **who,
            )

        for person in people:
            use("API_CALLS", "dashboard-snapshot", busy * random.randint(20, 60), user_id=person)
            use("API_CALLS", "record-activity", busy * random.randint(5, 30), user_id=person)
        use("API_CALLS", "ingest", share * grown * random.randint(30, 90), api_key_id=key)
        use("API_CALLS", "data-api", share * grown * random.randint(100, 300), api_key_id=key)
        use("AI_TOKENS", "demo", share * busy * random.randint(500, 8_000), user_id=random.choice(people))
        use("STORAGE", "attachments", grown * 40_000_000)
        use("SEATS", "organization_members", len(people))


def add_office(story: Story, org: UUID, people: list[UUID]) -> UUID:
    random = story.random
    for person in people:
        for title in ("Draft an e-mail", "Price of a house"):
            story.add(
                "ai_conversations",
                organization_id=org,
                user_id=person,
                title=title,
                ai_model="demo",
                usage_tokens=420,
                conversation_data={"messages": [{"role": "user", "content": title}]},
                created_at=story.moment(30),
            )
        for title in ("A lead wrote", "Appointment tomorrow", "Deal won"):
            story.add(
                "notifications",
                organization_id=org,
                user_id=person,
                type="INFO",
                title=title,
                message=f"{title}.",
                read=random.random() < 0.5,
                created_at=story.moment(14),
            )
    for days, accepted in ((40, True), (2, False), (20, False)):
        sent = story.at - timedelta(days=days)
        story.add(
            "organization_invitations",
            organization_id=org,
            email=f"colleague{days}@example.test",
            invited_by=people[0],
            token_hash=f"{random.getrandbits(256):064x}",
            created_at=sent,
            expires_at=sent + timedelta(days=7),
            accepted_at=sent + timedelta(days=1) if accepted else None,
        )
    story.add("subscriptions", organization_id=org, status="ACTIVE", billing_cycle="MONTHLY", **_tier(story, org))
    for entry in story.rows["activity_feeds"][-40:-5]:
        if entry["organization_id"] == org:
            story.add("activity_feed_reads", organization_id=org, user_id=people[0], activity_feed_id=entry["id"])
    key = "strive_test_" + f"{random.getrandbits(192):048x}"
    made = story.add(
        "api_keys",
        organization_id=org,
        name="Portal",
        prefix=key[:18],
        key_hash=sha256(key.encode()).hexdigest(),
        scopes=["CRM_READ", "CRM_WRITE"],
        created_by=people[0],
        created_at=story.at - timedelta(days=366),
    )
    endpoint = story.add(
        "webhook_endpoints",
        organization_id=org,
        url="https://erp.example.test/strive",
        kinds=["crm.deal.won"],
        is_active=False,
        created_at=story.at - timedelta(days=60),
    )
    story.add(
        "webhook_deliveries",
        organization_id=org,
        endpoint_id=endpoint["id"],
        kind="crm.deal.won",
        payload='{"type": "crm.deal.won", "version": 1}',
        status="DELIVERED",
        attempts=1,
        response_status=204,
        delivered_at=story.at - timedelta(days=2),
        created_at=story.at - timedelta(days=2),
    )
    gone = story.name()
    lead: Row = {
        "id": str(UUID(int=random.getrandbits(128), version=4)),
        "organization_id": str(org),
        "name": gone,
        "source": "OTHER",
        "status": "LOST",
        "score": "COLD",
        "score_value": 5,
        "property_types": [],
        "cities": [],
        "tags": [],
        "is_watching": False,
        "created_at": story.at.isoformat(),
        "updated_at": story.at.isoformat(),
    }
    story.add(
        "trash",
        organization_id=org,
        kind="leads",
        record_id=lead["id"],
        title=gone,
        record=lead,
        deleted_by=people[0],
        deleted_at=story.at - timedelta(days=3),
        purge_at=story.at + timedelta(days=27),
    )
    key_id: UUID = made["id"]
    return key_id


def _tier(story: Story, org: UUID) -> Row:
    first = story.at - timedelta(days=12)
    is_acme = str(org).endswith("1")
    return {
        "tier": "GROWTH" if is_acme else "FREE",
        "amount_cents": 69_900 if is_acme else 0,
        "current_period_start": first,
        "current_period_end": first + timedelta(days=30),
    }
