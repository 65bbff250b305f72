"""Feature flags: who gets what, decided in this process from the last flags the database told."""

from shared.flags.context import Context
from shared.flags.evaluation import Evaluation
from shared.flags.serving import Flags
from shared.flags.snapshot import Snapshot

__all__ = ["Context", "Evaluation", "Flags", "Snapshot"]
