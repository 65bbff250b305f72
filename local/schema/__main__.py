"""Makes the generated files again, from a database of its own that lives as long as this command."""

import tempfile
from pathlib import Path

from local import ROOT
from local.schema import files
from local.temporary import migrated


def main() -> None:
    with tempfile.TemporaryDirectory() as home, migrated(Path(home)) as cluster, cluster.connect() as connection:
        made = files(connection)
    for stale in set((ROOT / "docs/schema").glob("*.svg")) - set(made):
        stale.unlink()
    for path, text in made.items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
