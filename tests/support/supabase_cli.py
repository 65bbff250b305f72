"""The real Supabase CLI, speaking to a database of ours without Docker."""

import os
import subprocess
from pathlib import Path

from local import NODE, ROOT
from tests.support.world import Database


def supabase(*words: str, database: Database, home: Path) -> subprocess.CompletedProcess[str]:
    """Run in a project directory `home`, where it may create files; it connects only to the database."""
    cli = ROOT / "node_modules/.bin/supabase"
    to = ["--db-url", f"{database.url()}?sslmode=disable", "--workdir", str(home)]
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "SUPABASE_TELEMETRY_DISABLED": "1",
        "DO_NOT_TRACK": "1",
    }
    return subprocess.run(
        [NODE, cli, *words, *to, "--agent", "no", "--yes"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=env,
        cwd=home,
    )
