"""The agencies of the demo data, and the rows that one run makes of them."""

# ruff: noqa: PLR2004 - shares and days of a story, not settings

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

Row = dict[str, Any]

FIRST = (
    "Ana Ben Chloe Dario Emma Farid Greta Hiro Iris Jonas Karl Lena Mario Nora Otis Petra Quinn Rosa Samir Tess".split()  # noqa: SIM905 - words read better than a list of quotes
)
LAST = (
    "Abbott Becker Castillo Dubois Evans Fischer Garcia Haas Ito Jansen Keller Lopez Moreau Novak Okafor Petrov".split()  # noqa: SIM905 - as above
)
STREETS = ("Oak Street", "River Road", "Hill Lane", "Station Avenue", "Maple Court", "Harbor View", "Sunset Drive")


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

    def log(
        self, org: UUID, who: UUID, record: tuple[str, UUID], when: datetime, new: Row, old: Row | None = None
    ) -> None:
        """An entry in the history of a record (table and id): changed if there are old values, else created."""
        self.add(
            "activity_logs",
            organization_id=org,
            user_id=who,
            resource_type=record[0],
            resource_id=record[1],
            action="updated" if old else "created",
            created_at=when,
            old_data=old,
            new_data=new,
        )

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
