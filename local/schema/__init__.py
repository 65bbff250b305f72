"""What is generated from the schema of the database: two Python modules and the entity diagrams (make schema)."""

from pathlib import Path

from local import ROOT
from local.schema import catalog, diagram, python


def files(connection: catalog.Connection) -> dict[Path, str]:
    """Every generated file and what stands in it; `connection` is to a database that is migrated."""
    schema = catalog.read(connection)
    made = {
        ROOT / "shared/schema.py": python.schema(schema),
        ROOT / "shared/database/version.py": python.version(),
    }
    for domain in schema.domains:
        made[ROOT / f"docs/schema/{domain}.svg"] = diagram.render(schema, domain)
    return made
