import math
import re
from collections.abc import Callable

import pytest

from phin.errors import PhinError
from phin.registry import build

REGISTRY: dict[str, Callable[..., object]] = {
    "pair": lambda first=1, second=2: (first, second),
    "bare": lambda: "bare",
    "tuple": lambda values: values,
    "picky": lambda n: n if n > 0 else _fail(f"n = {n} must be positive"),
}


def _fail(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pair", (1, 2)),
        (" pair( 3 ) ", (3, 2)),
        ("pair(second=-0.5)", (1, -0.5)),
        ("pair(bare, pair('x', None))", ("bare", ("x", None))),
        ("pair(given)", (7, 2)),
        ("tuple((1, 2))", (1, 2)),
    ],
)
def test_text_names_an_entry_and_its_arguments(text: str, expected: object) -> None:
    assert build(text, REGISTRY, "thing", {"given": 7}) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pear", "unknown thing 'pear'; there are pair, bare, tuple, picky"),
        ("pair(pear)", "'pear' is no number and none of pair, bare, tuple, picky, given"),
        ("", "thing '' is not understood: write a name"),
        ("pair(", "thing 'pair(' is not understood: write a name"),
        ("pair bare", "not understood"),
        ("3", "write a name"),
        ("bare.upper()", "write a name"),
        ("pair(1 + given)", "1 + given is neither a number nor a text nor a name"),
        ("pair(third=3)", "third"),
        ("bare(1)", "not understood"),
        ("picky(-1)", "n = -1 must be positive"),
        ("__import__('os')", "unknown thing '__import__'"),
        ("pair(open('x'))", "unknown thing 'open'"),
        ("pair(*[1, 2])", "not understood"),
    ],
)
def test_what_is_not_understood_is_named(text: str, message: str) -> None:
    with pytest.raises(PhinError, match=re.escape(message)) as error:
        build(text, REGISTRY, "thing", {"given": 7})
    assert "\n" not in str(error.value)


PARTS: dict[str, Callable[..., object]] = {"given": lambda of=0: ("part", of), "brick": lambda size=1: size}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pair(brick, brick(size=3))", (1, 3)),
        ("pair(given)", (("part", 0), 2)),  # what is both is a part where it stands alone
        ("pair(given(brick(5)))", (("part", 5), 2)),
        ("pair(second=given)", (1, 7)),  # and the name behind a keyword
    ],
)
def test_arguments_may_be_made_of_parts(text: str, expected: object) -> None:
    assert build(text, REGISTRY, "thing", {"given": 7}, PARTS) == expected
    with pytest.raises(PhinError, match="'bare' is no number and none of given, brick"):
        build("pair(bare)", REGISTRY, "thing", {"given": 7}, PARTS)
    with pytest.raises(PhinError, match="unknown argument of a thing 'bare'; there are given, brick"):
        build("pair(bare())", REGISTRY, "thing", {"given": 7}, PARTS)


@pytest.mark.parametrize(
    "text",
    [
        "pair(first=1, first=2)",
        "pair(**{'first': 1})",
        "ratio(0)",
        "ratio(1e-400)",
        "power(1e300)",
        "shout(3)",
        "pair(" * 3000,
        "pair(" + "-" * 9000 + "1)",
        "lines()",
    ],
)
def test_whatever_a_factory_says_to_its_arguments_is_one_line(text: str) -> None:
    registry = REGISTRY | {
        "ratio": lambda x: 1 / x,
        "power": lambda x: math.exp(x),
        "shout": lambda x: x.upper(),
        "lines": lambda: _fail("one\ntwo"),
    }
    with pytest.raises(PhinError, match="is not understood") as error:
        build(text, registry, "thing")
    assert "\n" not in str(error.value)
