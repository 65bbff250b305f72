"""The secrets of one workdir: generated once, readable by their owner only, printed by `strive status` alone."""

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4


@dataclass(frozen=True)
class Keys:
    publishable_key: str
    secret_key: str
    jwt_secret: str
    database_password: str
    jwk: dict[str, Any]

    @property
    def stripe_secret_key(self) -> str:
        """For the Stripe double; derived from another secret, so that the key file needs no migration."""
        return f"sk_test_{self._derived('stripe key')}"

    @property
    def stripe_webhook_secret(self) -> str:
        return f"whsec_{self._derived('stripe webhooks')}"

    def _derived(self, what: str) -> str:
        return hmac.new(self.jwt_secret.encode(), what.encode(), hashlib.sha256).hexdigest()[:32]


def load_keys(file: Path) -> Keys:
    return Keys(**json.loads(file.read_text()))


def ensure_keys(file: Path) -> None:
    """Generate the keys if there are none; the caller holds the lock of the workdir."""
    if file.exists():
        return
    # Written to another name and renamed: an interruption leaves no half-written file.
    aside = file.with_suffix(".new")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        json.dump(asdict(_generate()), output, indent=2)
    aside.rename(file)


def _generate() -> Keys:
    # Imported here: cryptography costs more than the rest of a warm start.
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - see above
    from jwt.algorithms import ECAlgorithm  # noqa: PLC0415 - see above

    private = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
    return Keys(
        publishable_key=f"sb_publishable_{secrets.token_urlsafe(24)}",
        secret_key=f"sb_secret_{secrets.token_urlsafe(24)}",
        jwt_secret=secrets.token_urlsafe(48),
        database_password=secrets.token_urlsafe(18),
        jwk={**private, "kid": str(uuid4()), "alg": "ES256", "use": "sig"},
    )
