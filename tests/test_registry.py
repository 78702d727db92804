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
        ("pair(pear)", "unknown thing 'pear'"),
        ("", "thing '' is not understood"),
        ("pair(", "thing 'pair(' is not understood"),
        ("pair bare", "not understood"),
        ("3", "write a name"),
        ("bare.upper()", "write a name"),
        ("pair(1 + given)", "not understood"),
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
