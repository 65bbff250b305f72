"""The nearest of known names, for hints: the measure of the fuzzy sets that PostgREST uses.

Words are compared by their grams, pieces of two or three characters. The candidates with the most similar grams are
scored anew by their edit distance.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable

UNUSED = re.compile(r"[^\w ,]|_")
SIZES = (3, 2)
RESCORED = 50
LEAST = 0.33
LONGEST = 500  # each comparison takes time in proportion to the length


class FuzzySet:
    def __init__(self, names: Iterable[str]) -> None:
        # Of names that are equally near the last counts.
        self._exact = {name.lower(): name for name in reversed(list(names))}
        self._grams = {size: [(word, _grams(word, size)) for word in self._exact] for size in SIZES}

    def matches(self, name: str, least: float = LEAST) -> list[tuple[float, str]]:
        """Score and name of what is near, the nearest first."""
        word = name.lower()
        if len(word) > LONGEST:
            return []
        if word in self._exact:
            return [(1.0, self._exact[word])]
        for size in SIZES:
            found = self._scored(word, size)
            near = [(score, self._exact[match]) for score, match in found if score >= least]
            if near:
                return near
        return []

    def nearest(self, name: str, least: float = LEAST) -> str | None:
        return next((match for _, match in self.matches(name, least)), None)

    def _scored(self, word: str, size: int) -> list[tuple[float, str]]:
        own = _grams(word, size)
        length = _norm(own)
        near = []
        for other, grams in self._grams[size]:
            common = sum(count * grams[gram] for gram, count in own.items() if gram in grams)
            if common:
                near.append((common / (length * _norm(grams)), other))
        near.sort(key=lambda each: -each[0])
        rescored = [(_similarity(word, other), other) for _, other in near[:RESCORED]]
        rescored.sort(key=lambda each: -each[0])
        return rescored


def _grams(word: str, size: int) -> Counter[str]:
    padded = f"-{UNUSED.sub('', word)}-"
    padded += "-" * (size - len(padded))
    return Counter(padded[start : start + size] for start in range(len(padded) - size + 1))


def _norm(grams: Counter[str]) -> float:
    return math.sqrt(sum(count * count for count in grams.values()))


def _similarity(one: str, other: str) -> float:
    longest = max(len(one), len(other))
    return 1 - _distance(one, other) / longest if longest else 1.0


def _distance(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, char in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, match in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (char != match))
    return row[-1]
