"""What `make schema` generates from the database: Python modules, entity diagrams, the reference of the data API."""

import json
from pathlib import Path

from local import ROOT
from local.schema import catalog, diagram, mails, python, reference


def files(connection: catalog.Connection) -> dict[Path, str]:
    """Every generated file with its content; `connection` is to a migrated database."""
    schema = catalog.read(connection)
    made = {
        ROOT / "shared/schema.py": python.schema(schema),
        ROOT / "shared/app/events.json": json.dumps(
            {kind: event._asdict() for kind, event in schema.events.items()}, indent=2
        )
        + "\n",
        ROOT / "shared/database/version.py": python.version(),
    }
    for domain in schema.domains:
        for name, picture in diagram.diagrams(schema, domain).items():
            made[ROOT / "docs/schema" / name] = picture
    for page, text in reference.pages(connection).items():
        made[ROOT / "docs/reference" / page] = text
    made[ROOT / "shared/app/reference/catalog.json"] = reference.catalog(connection)
    made |= mails.files()
    return made
