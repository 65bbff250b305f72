"""Where a unit falls: the same place in every process, for as long as the flag keeps its seed."""

import math
from functools import lru_cache
from hashlib import sha256

# A place is the first 52 bits of SHA-256 of "<seed>:<salt>:<unit>", which a double represents exactly.
PLACES = 1 << 52
_PLACE_BYTES = 7


def prefix(seed: str, salt: str) -> bytes:
    return f"{seed}:{salt}:".encode()


def place(begin: bytes, unit: bytes) -> int:
    return int.from_bytes(sha256(begin + unit).digest()[:_PLACE_BYTES], "big") >> 4


@lru_cache(maxsize=1024)  # most percentages are whole numbers
def threshold(percent: float) -> bytes:
    """A unit is within `percent` if its digest is below this. Comparing bytes avoids making a number of the digest."""
    places = math.ceil(percent / 100 * PLACES)
    return (places << 4).to_bytes(_PLACE_BYTES + 1, "big")[1:] if places < PLACES else b"\xff" * 33


def drawn(weighted: tuple[tuple[bytes, float], ...], unit: bytes) -> int:
    """The index of the (prefix, weight) that wins, each with a probability by its weight.

    Each draws a score of its own, so more weight for one moves units only to it, never between the others.
    """
    best, winner = -1.0, 0
    for number, (begin, weight) in enumerate(weighted):
        score = weight / -math.log((place(begin, unit) + 0.5) / PLACES)
        if score > best:
            best, winner = score, number
    return winner
