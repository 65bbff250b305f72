"""Feature flags, evaluated in this process from the flags last loaded from the database."""

from shared.flags.context import Context
from shared.flags.evaluation import Evaluation
from shared.flags.serving import Flags
from shared.flags.snapshot import Snapshot

__all__ = ["Context", "Evaluation", "Flags", "Snapshot"]
