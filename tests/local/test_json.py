"""Large JSON is read in parts: the same values and refusals as Python's own decoder, in proportion to the length."""

import json
import random
from typing import Any

import pytest

from local.api import http

SPECIAL = ["LONG", "", "},", "],", '"', "\\", "{", "[", ",", "é😀", "\x7f", " ", "x" * 300]


def document(dice: random.Random, depth: int) -> Any:
    kind = dice.randrange(6 if depth else 3)
    if kind <= 1:
        return dice.choice(SPECIAL)
    if kind == 2:
        return dice.choice([0, -1, 12.5, 1234567890123456.7, 1e300, True, None, 7])
    inner = [document(dice, depth - 1) for _ in range(dice.choice([0, 1, 3, 30]))]
    return inner if kind < 5 else {dice.choice(SPECIAL) + str(dice.randrange(50)): each for each in inner}


def written(dice: random.Random, value: Any) -> str:
    separators = dice.choice([(",", ":"), (", ", ": "), (" ,\n", "\t:  ")])
    text = json.dumps(value, ensure_ascii=dice.random() < 0.5, separators=separators)
    return text.replace('"LONG"', "-" + "9" * 5000)  # more digits than Python reads


def read(text: str) -> Any:
    try:
        return json.loads(text, parse_int=http.integer)
    except ValueError:
        return ValueError


def read_in_parts(text: str) -> Any:
    try:
        return http.strict_json(text)
    except ValueError:
        return ValueError


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WINDOW", 512)
    monkeypatch.setattr(http, "SMALLEST_WINDOW", 16)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("seed", range(3))
def test_json_read_in_parts_has_the_same_values(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(20):
        text = written(dice, document(dice, 5))
        assert read_in_parts(text) == read(text), text[:2000]


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("seed", range(3))
def test_broken_json_is_refused_in_every_part(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(20):
        text = written(dice, [document(dice, 4) for _ in range(5)])
        at = dice.randrange(len(text))
        changed = (
            text[:at] + dice.choice(["", ",", "]", "}", ":", '"', "[", "1", "\\"]) + text[at + dice.randrange(3) :]
        )
        assert read_in_parts(changed) == read(changed), changed


@pytest.mark.usefixtures("small_windows")
def test_elements_are_the_rows_of_a_list() -> None:
    rows = [{"a": each, "b": {"c": [each]}} for each in range(500)]
    assert list(http.strict_elements(json.dumps(rows))) == rows
    wide = {str(each): each for each in range(1000)}
    assert [set(row) for row in http.strict_elements(json.dumps([wide, {}]))] == [set(wide), set()]
    with pytest.raises(ValueError, match="follows"):
        list(http.strict_elements(json.dumps(rows) + "1"))


def halves(size: int) -> str:
    return "[" + (f"{halves(size // 2)},{halves(size // 2)}" if size > 60 else "0," * (size // 2) + "0") + "]"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({f"key{each}": each for each in range(30_000)}),
        "[" + ",".join(["[" * 250 + "0," * 16_500 + "0" + "]" * 250] * 10) + "]",
        "[" + ",".join([halves(34_000)] * 10) + "]",
        '{"a":[' + ",".join(['"],"'] * 100_000) + "]}",
        "[" + ",".join(['{"a":"},","b":[0,"],"]}'] * 20_000) + "]",
    ],
    ids=["keys", "towers", "halves", "decoys", "decoy rows"],
)
def test_time_is_in_proportion_to_the_length(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    work = []

    class Counting(json.JSONDecoder):
        def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
            try:
                value, end = super().raw_decode(s, idx)
            except json.JSONDecodeError as error:
                work.append(error.pos - idx)
                raise
            work.append(end - idx)
            return value, end

    monkeypatch.setattr(http, "DECODER", Counting(parse_constant=http._no_constant))
    http.strict_json(text)
    assert sum(work) < 30 * len(text)
    assert max(work) <= http.WINDOW + 1
