"""Makes the generated files again, from a database of its own that lives as long as this command."""

import secrets
import tempfile
from pathlib import Path

from local import ROOT, database
from local.postgres import SUPERUSER, Cluster
from local.schema import files
from local.stack import free_port


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        cluster = Cluster(
            Path(home), free_port(), secrets.token_urlsafe(12), Path(home) / "postgres.log", durable=False
        )
        cluster.initialise()
        cluster.start()
        try:
            database.create_roles(cluster)
            with cluster.connect(SUPERUSER) as connection:
                database.create_schemas(connection)
            with cluster.connect() as connection:
                database.migrate(connection)
                made = files(connection)
        finally:
            cluster.stop()
    for stale in set((ROOT / "docs/schema").glob("*.svg")) - set(made):
        stale.unlink()
    for path, text in made.items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
