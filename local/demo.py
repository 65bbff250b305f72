"""A year in the life of the demo organizations: made by a seeded generator, the same for the same seed and day.

Rows go in by COPY with triggers off: what triggers would stamp (times, history, stage changes) is part of the story.
"""

# ruff: noqa: PLR2004 - shares and days of a story, not settings

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from random import Random
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

Connection = psycopg.Connection[Any]
Row = dict[str, Any]

SIZES = {"small": 1, "large": 60}
"""How many times the rows of `small`."""

FIRST = (
    "Ana Ben Chloe Dario Emma Farid Greta Hiro Iris Jonas Karl Lena Mario Nora Otis Petra Quinn Rosa Samir Tess".split()  # noqa: SIM905 - words read better than a list of quotes
)
LAST = (
    "Abbott Becker Castillo Dubois Evans Fischer Garcia Haas Ito Jansen Keller Lopez Moreau Novak Okafor Petrov".split()  # noqa: SIM905 - as above
)
STREETS = ("Oak Street", "River Road", "Hill Lane", "Station Avenue", "Maple Court", "Harbor View", "Sunset Drive")
STAGES = ("LEAD", "QUALIFIED", "PROPOSAL", "NEGOTIATION", "CLOSING")
REASONS = ("Price", "Bought elsewhere", "Financing failed", "No longer moving")


@dataclass(frozen=True)
class Agency:
    """How an organization differs from the other."""

    slug: str
    leads: int
    cities: tuple[tuple[str, str], ...]
    kinds: tuple[str, ...]
    rooms: tuple[int, int]
    prices: tuple[int, int]
    companies: tuple[str, ...]


AGENCIES = (
    Agency(
        "acme",
        240,
        (("Austin", "TX"), ("Denver", "CO"), ("Portland", "OR")),
        ("RESIDENTIAL", "CONDO", "TOWNHOUSE", "LUXURY"),
        (1, 6),
        (180_000, 1_400_000),
        (
            "Hillside Lending",
            "Marlow Movers",
            "Northwind Homes",
            "Blue Door Mortgages",
            "Cedar Title",
            "Lone Star Inspections",
        ),
    ),
    Agency(
        "globex",
        60,
        (("Chicago", "IL"), ("Detroit", "MI")),
        ("COMMERCIAL", "LAND", "MULTI_FAMILY"),
        (0, 0),
        (600_000, 9_000_000),
        ("Initech", "Umbrella Offices", "Stark Logistics", "Wayne Towers"),
    ),
)


@dataclass
class Story:
    """The rows of one run; `at` is the end of the year that the data describes."""

    at: datetime
    random: Random
    stages: Mapping[str, tuple[str, int]]  # status and probability of a deal
    rows: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))

    def add(self, table: str, **columns: Any) -> Row:
        row = {"id": UUID(int=self.random.getrandbits(128), version=4), **columns}
        row.setdefault("created_at", self.at)
        self.rows[table].append(row)
        return row

    def moment(self, first: float = 365, last: float = 0) -> datetime:
        """A working hour so many days ago; more of them recently, since the agency grows."""
        days = last + (first - last) * (1 - self.random.random() ** 0.6)
        day = self.at - timedelta(days=days)
        if day.weekday() > 4 and self.random.random() < 0.8:
            day -= timedelta(days=2)
        return min(day.replace(hour=self.random.randint(8, 18), minute=self.random.randint(0, 59)), self.at)

    def name(self) -> str:
        return f"{self.random.choice(FIRST)} {self.random.choice(LAST)}"

    def phone(self) -> str:
        return f"+1 {self.random.randint(200, 989)} 555 {self.random.randint(0, 9999):04}"


def generate(
    connection: Connection, size: str = "small", seed: int = 7, *, at: datetime | None = None
) -> dict[str, int]:
    """Add a year to the demo organizations; `connection` is the superuser's. Returns how many rows each table got."""
    with connection.transaction():
        # A second year adds to the first, under ids of its own.
        before = connection.execute("select count(*) from public.lost_reasons").fetchone()
        leads = connection.execute("select count(*) from public.leads").fetchone()
        is_first = before == (0,)
        now = (at or datetime.now(UTC)).replace(minute=0, second=0, microsecond=0)
        stages = {
            stage: (status, probability)
            for stage, status, probability in connection.execute(
                "select stage, status, probability from private.deal_stages"
            )
        }
        story = Story(now, Random(seed if is_first else f"{seed} {leads}"), stages)  # noqa: S311
        people: dict[str, list[UUID]] = defaultdict(list)
        organizations: dict[str, UUID] = {}
        query = (
            "select o.slug, o.id, m.user_id from public.organizations o"
            " join public.organization_members m on m.organization_id = o.id"
            " where m.role <> 'VIEWER' order by m.user_id"
        )
        for slug, organization, person in connection.execute(query):
            organizations[slug] = organization
            people[slug].append(person)
        for agency in AGENCIES:
            if agency.slug in organizations:
                # Of its own, so that a new row of one agency does not change the other.
                story.random = Random(f"{seed} {agency.slug} {leads}")  # noqa: S311
                org, members = organizations[agency.slug], people[agency.slug]
                companies, reasons = _known(connection, org) if not is_first else _settings(story, agency, org, members)
                contacts = tell(story, agency, org, members, SIZES[size], companies, reasons)
                if is_first:
                    _plans(story, org, members, contacts)
                    key = _desk(story, org, members)
                    _usage(story, agency, org, members, key)
        if is_first:
            tell_platform(story, connection)
        connection.execute("set local session_replication_role = replica")
        for table, rows in story.rows.items():
            copy(connection, table, rows)
        connection.execute(
            "update public.project_showcases s set likes = l.count from"
            " (select showcase_id, count(*) from public.showcase_likes group by 1) l where l.showcase_id = s.id"
        )
        connection.execute("set local session_replication_role = origin")
    return {table: len(rows) for table, rows in story.rows.items()}


def copy(connection: Connection, table: str, rows: list[Row]) -> None:
    keyed = {
        row[0]
        for row in connection.execute(
            "select column_name from information_schema.columns where table_schema = 'public' and table_name = %s",
            [table],
        )
    }
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(name for name in row if name in keyed)].append(row)
    for columns, group in groups.items():
        statement = sql.SQL("copy public.{} ({}) from stdin").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        with connection.cursor() as cursor, cursor.copy(statement) as target:
            for row in group:
                target.write_row([json.dumps(v) if isinstance(v, dict) else v for v in (row[name] for name in columns)])


def _known(connection: Connection, org: UUID) -> tuple[list[Row], list[Row]]:
    def rows(table: str) -> list[Row]:
        query = sql.SQL("select id, name from public.{} where organization_id = %s order by id").format(
            sql.Identifier(table)
        )
        return [{"id": row_id, "name": name} for row_id, name in connection.execute(query, [org])]

    return rows("companies"), rows("lost_reasons")


def _settings(story: Story, agency: Agency, org: UUID, people: list[UUID]) -> tuple[list[Row], list[Row]]:
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


def tell(
    story: Story, agency: Agency, org: UUID, people: list[UUID], scale: int, companies: list[Row], reasons: list[Row]
) -> list[Row]:
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
    return lead


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
    return story.add(
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


def _deal(story: Story, org: UUID, contact: Row, listing: Row, reasons: list[Row]) -> None:
    random, began = story.random, min(contact["created_at"] + timedelta(days=story.random.randint(0, 30)), story.at)
    is_old = (story.at - began).days > 60
    end = random.choice(("CLOSED_WON", "CLOSED_WON", "CLOSED_LOST")) if is_old else random.choice(STAGES)
    path = [*STAGES[: random.randint(2, 5)], end] if is_old else list(STAGES[: STAGES.index(end) + 1])
    steps = [min(began + timedelta(days=n * random.randint(3, 12)), story.at) for n in range(len(path))]
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
        actual_close_date=max(steps) if is_old else None,
        lost_reason=reason and reason["name"],
        lost_reason_id=reason and reason["id"],
    )
    for before, after, when in zip([None, *path], path, sorted(steps), strict=False):
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
        story.add(
            "activity_logs",
            organization_id=org,
            user_id=who,
            resource_type="deals",
            resource_id=deal["id"],
            action="updated" if before else "created",
            created_at=when,
            old_data={"stage": before} if before else None,
            new_data={"stage": after},
        )
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


def _plans(story: Story, org: UUID, people: list[UUID], contacts: list[Row]) -> None:
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
            status="DONE" if done else "TODO",
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


def _usage(story: Story, agency: Agency, org: UUID, people: list[UUID], key: UUID) -> None:
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


def _desk(story: Story, org: UUID, people: list[UUID]) -> UUID:
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
    story.add("subscriptions", organization_id=org, status="ACTIVE", billing_cycle="MONTHLY", **_plan(story, org))
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


def _plan(story: Story, org: UUID) -> Row:
    first = story.at - timedelta(days=12)
    is_acme = str(org).endswith("1")
    return {
        "tier": "GROWTH" if is_acme else "FREE",
        "amount_cents": 69_900 if is_acme else 0,
        "current_period_start": first,
        "current_period_end": first + timedelta(days=30),
    }


def tell_platform(story: Story, connection: Connection) -> None:
    """400 days of metrics, an experiment that runs, alerts, tools."""
    random = story.random
    known = {day for (day,) in connection.execute("select date from public.platform_metrics")}
    used: dict[tuple[str, date], int] = defaultdict(int)
    for usage in story.rows["usage_tracking"]:
        used[usage["resource_type"], usage["day"]] += usage["usage_amount"]
    for back in range(400, 0, -1):
        day, grown = (story.at - timedelta(days=back)).date(), 1 - back / 500
        orgs = round(180 * grown)
        paying = round(orgs * 0.6)
        churn = round(random.uniform(0.01, 0.04), 4)
        if day not in known:
            story.add(
                "platform_metrics",
                date=day,
                total_users=orgs * 6,
                active_users=orgs * 4,
                new_users=random.randint(0, 9),
                total_orgs=orgs,
                active_orgs=round(orgs * 0.9),
                new_orgs=random.randint(0, 2),
                mrr_cents=paying * 52_000,
                arr_cents=paying * 624_000,
                churn_rate=churn,
                free_count=orgs - paying,
                starter_count=paying // 2,
                growth_count=paying // 3,
                elite_count=paying // 6,
                enterprise_count=2,
                total_storage=used["STORAGE", day],
                api_calls=used["API_CALLS", day],
                measured_at=datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1, minutes=1),
            )
            story.add("platform_revenue", **_revenue(day, paying, churn))
    admin = connection.execute("select id from public.users where global_role = 'SUPER_ADMIN' order by id").fetchone()
    if admin and not connection.execute("select from public.feature_flags where name = 'demo.start-page'").rowcount:
        flag = story.add(
            "feature_flags",
            name="demo.start-page",
            description="Which start page leads to more calls?",
            is_enabled=True,
            rollout_percent=100,
            created_by=admin[0],
            version=1,
            starts_at=story.at - timedelta(days=20),
            variants=json.dumps([{"name": "list", "weight": 1}, {"name": "map", "weight": 1}]),
            seed=UUID(int=random.getrandbits(128), version=4),
        )
        for unit in range(200):
            story.add(
                "feature_flag_exposures",
                flag_id=flag["id"],
                seed=flag["seed"],
                unit=f"visitor-{unit}",
                variant=random.choice(("list", "map")),
                created_at=story.moment(20),
            )
        group = story.add("feature_flag_groups", name="demo.testers", description="Agencies that try new pages first.")
        story.add("feature_flag_group_members", group_id=group["id"], value=json.dumps("acme"))
        liked = "select s.id, u.id from public.project_showcases s cross join public.users u order by u.id limit 3"
        for showcase, person in connection.execute(liked):
            story.add("showcase_likes", showcase_id=showcase, user_id=person, created_at=story.moment(30))
        for step, name in ((2, "Harbor Homes"), (3, "Sunset Estates")):
            story.add(
                "onboarding_sessions",
                token_hash=f"{random.getrandbits(256):064x}",
                current_step=step,
                org_name=name,
                selected_tier="STARTER" if step == 3 else None,
                billing_cycle="MONTHLY" if step == 3 else None,
                created_at=story.at,
                expires_at=story.at + timedelta(hours=24),
            )
        alert = story.add(
            "system_alerts",
            title="Maintenance on Sunday",
            message="Strive is read-only from 2:00 to 2:20 UTC.",
            level="WARNING",
            category="MAINTENANCE",
            is_global=True,
            created_by=admin[0],
            starts_at=story.at,
            ends_at=story.at + timedelta(days=7),
        )
        for table in ("system_alert_views", "system_alert_dismissals"):
            story.add(table, alert_id=alert["id"], user_id=admin[0])
        for name, kind in (("Listing writer", "text"), ("Price estimate", "analysis")):
            story.add("ai_tools", name=name, tool_type=kind, description=f"{name}, for every agent.")


def _revenue(day: date, paying: int, churn: float) -> Row:
    """The month before `day`: who paid at its start, came, or left."""
    price = 52_000
    start = round(paying * 0.98)
    left = round(start * churn)
    came = paying - start + left
    return {
        "date": day,
        "currency": "usd",
        "customers": paying,
        "mrr_cents": paying * price,
        "arr_cents": paying * price * 12,
        "start_customers": start,
        "start_mrr_cents": start * price,
        "churned_customers": left,
        "churned_mrr_cents": left * price,
        "new_customers": came,
        "new_mrr_cents": came * price,
        "logo_churn_rate": left / start,
        "revenue_churn_rate": left / start,
    }


def described(counts: dict[str, int]) -> Iterator[str]:
    yield f"{sum(counts.values())} rows in {len(counts)} tables:"
    yield from (f"  {count:>8} {table}" for table, count in sorted(counts.items()))
