"""`make schema`: writes every generated file again, from a temporary database with all migrations."""

import tempfile
from pathlib import Path

from local import ROOT
from local.schema import clients, files
from local.temporary import migrated


def main() -> None:
    with tempfile.TemporaryDirectory() as home, migrated(Path(home)) as cluster:
        with cluster.connect() as connection:
            write(files(connection))
        write(clients.files(cluster.url()))


def write(generated: dict[Path, str]) -> None:
    for pattern in ("schema/*.svg", "reference/*.md"):
        made = {path for path in generated if path.match(f"docs/{pattern}")}
        kept = {ROOT / "docs/reference/functions.md"}  # of the functions, not of the database
        if made - kept:
            for stale in set((ROOT / "docs").glob(pattern)) - made - kept:
                stale.unlink()
    for path, text in generated.items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
