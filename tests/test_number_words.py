"""Numbers in words, against lists from grammars, what their words are worth, and a library."""

import re
import unicodedata
from collections.abc import Callable
from functools import cache

import pytest

from phin.data.number_words import LANGUAGES, MOST, english, russian, vietnamese

KNOWN = {
    0: ("zero", "không", "ноль"),
    1: ("one", "một", "один"),
    4: ("four", "bốn", "четыре"),
    5: ("five", "năm", "пять"),
    10: ("ten", "mười", "десять"),
    11: ("eleven", "mười một", "одиннадцать"),
    14: ("fourteen", "mười bốn", "четырнадцать"),
    15: ("fifteen", "mười lăm", "пятнадцать"),
    20: ("twenty", "hai mươi", "двадцать"),
    21: ("twenty-one", "hai mươi mốt", "двадцать один"),
    25: ("twenty-five", "hai mươi lăm", "двадцать пять"),
    40: ("forty", "bốn mươi", "сорок"),
    42: ("forty-two", "bốn mươi hai", "сорок два"),
    51: ("fifty-one", "năm mươi mốt", "пятьдесят один"),
    55: ("fifty-five", "năm mươi lăm", "пятьдесят пять"),
    90: ("ninety", "chín mươi", "девяносто"),
    100: ("one hundred", "một trăm", "сто"),
    101: ("one hundred one", "một trăm linh một", "сто один"),
    105: ("one hundred five", "một trăm linh năm", "сто пять"),
    110: ("one hundred ten", "một trăm mười", "сто десять"),
    115: ("one hundred fifteen", "một trăm mười lăm", "сто пятнадцать"),
    200: ("two hundred", "hai trăm", "двести"),
    555: ("five hundred fifty-five", "năm trăm năm mươi lăm", "пятьсот пятьдесят пять"),
    1000: ("one thousand", "một nghìn", "одна тысяча"),
    1001: ("one thousand one", "một nghìn không trăm linh một", "одна тысяча один"),
    1015: ("one thousand fifteen", "một nghìn không trăm mười lăm", "одна тысяча пятнадцать"),
    1100: ("one thousand one hundred", "một nghìn một trăm", "одна тысяча сто"),
    2000: ("two thousand", "hai nghìn", "две тысячи"),
    2026: ("two thousand twenty-six", "hai nghìn không trăm hai mươi sáu", "две тысячи двадцать шесть"),
    4321: (
        "four thousand three hundred twenty-one",
        "bốn nghìn ba trăm hai mươi mốt",
        "четыре тысячи триста двадцать один",
    ),
    5000: ("five thousand", "năm nghìn", "пять тысяч"),
    10_000: ("ten thousand", "mười nghìn", "десять тысяч"),
    11_011: ("eleven thousand eleven", "mười một nghìn không trăm mười một", "одиннадцать тысяч одиннадцать"),
    12_000: ("twelve thousand", "mười hai nghìn", "двенадцать тысяч"),
    14_000: ("fourteen thousand", "mười bốn nghìn", "четырнадцать тысяч"),
    21_000: ("twenty-one thousand", "hai mươi mốt nghìn", "двадцать одна тысяча"),
    22_002: (
        "twenty-two thousand two",
        "hai mươi hai nghìn không trăm linh hai",
        "двадцать две тысячи два",
    ),
    25_105: (
        "twenty-five thousand one hundred five",
        "hai mươi lăm nghìn một trăm linh năm",
        "двадцать пять тысяч сто пять",
    ),
    40_213: (
        "forty thousand two hundred thirteen",
        "bốn mươi nghìn hai trăm mười ba",
        "сорок тысяч двести тринадцать",
    ),
    99_999: (
        "ninety-nine thousand nine hundred ninety-nine",
        "chín mươi chín nghìn chín trăm chín mươi chín",
        "девяносто девять тысяч девятьсот девяносто девять",
    ),
}
"""English, Vietnamese and Russian, as grammars have them."""


@cache
def names(language: str) -> list[str]:
    return [LANGUAGES[language](number) for number in range(MOST + 1)]


@pytest.mark.parametrize("number", KNOWN)
def test_numbers_are_called_what_they_are_called(number: int) -> None:
    assert (english(number), vietnamese(number), russian(number)) == KNOWN[number]
    assert LANGUAGES["digits"](number) == str(number)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_two_numbers_have_one_name(language: str) -> None:
    said = names(language)
    assert len(set(said)) == MOST + 1
    assert all(name == unicodedata.normalize("NFC", name).lower().strip() for name in said)
    assert not any("  " in name for name in said)


ENGLISH = {
    name: value
    for names, first, step in (
        ("zero one two three four five six seven eight nine ten eleven twelve", 0, 1),
        ("thirteen fourteen fifteen sixteen seventeen eighteen nineteen", 13, 1),
        ("twenty thirty forty fifty sixty seventy eighty ninety", 20, 10),
    )
    for value, name in zip(range(first, 100, step), names.split(), strict=False)
}
RUSSIAN = {
    name: value
    for names, first, step in (
        ("ноль один два три четыре пять шесть семь восемь девять десять", 0, 1),
        ("одиннадцать двенадцать тринадцать четырнадцать пятнадцать шестнадцать", 11, 1),
        ("семнадцать восемнадцать девятнадцать", 17, 1),
        ("двадцать тридцать сорок пятьдесят шестьдесят семьдесят восемьдесят девяносто", 20, 10),
        ("сто двести триста четыреста пятьсот шестьсот семьсот восемьсот девятьсот", 100, 100),
    )
    for value, name in zip(range(first, 1000, step), names.split(), strict=False)
} | {"одна": 1, "две": 2}
VIETNAMESE = dict(zip("không một hai ba bốn năm sáu bảy tám chín".split(), range(10), strict=True))
VIETNAMESE |= {"mốt": 1, "lăm": 5}


def english_value(name: str) -> int:
    value = 0
    for word in re.split("[ -]", name):
        value = value * 1000 if word == "thousand" else value
        if word == "hundred":  # of what was said last
            value += 99 * (value % 10)
        value += ENGLISH.get(word, 0)
    return value


def russian_value(name: str) -> int:
    words = name.split()
    at = next((k for k, word in enumerate(words) if word.startswith("тысяч")), None)
    if at is None:
        return sum(RUSSIAN[word] for word in words)
    thousands, rest = (sum(RUSSIAN[word] for word in part) for part in (words[:at], words[at + 1 :]))
    assert {"один", "два"}.isdisjoint(words[:at])
    assert {"одна", "две"}.isdisjoint(words[at:])
    last, teen = thousands % 10, 10 < thousands % 100 < 20
    assert words[at] == (
        "тысяча" if last == 1 and not teen else "тысячи" if 1 < last < 5 and not teen else "тысяч"
    )
    return 1000 * thousands + rest


def vietnamese_value(name: str) -> int:
    value, digit = 0, 0
    for word in name.split():
        if word in VIETNAMESE:
            digit = VIETNAMESE[word]
        elif word == "mười":
            value, digit = value + 10, 0
        elif word != "linh":
            value, digit = value + digit * {"mươi": 10, "trăm": 100, "nghìn": 1}[word], 0
            value = value * 1000 if word == "nghìn" else value
    return value + digit


@pytest.mark.parametrize(
    ("language", "value"),
    [("english", english_value), ("russian", russian_value), ("vietnamese", vietnamese_value)],
)
def test_words_are_worth_their_number(language: str, value: Callable[[str], int]) -> None:
    """Read word by word, by a grammar of its own, all names give their numbers back."""
    assert not [number for number, name in enumerate(names(language)) if value(name) != number]


def test_vietnamese_words_change_beside_others() -> None:
    for name in names("vietnamese"):
        assert not re.search(r"mươi (một|năm)\b|mười năm\b", name)
        assert not re.search(r"(?<!mươi )\bmốt\b", name)
        assert not re.search(r"(?<!mươi )(?<!mười )\blăm\b", name)
        assert ("linh" in name) == bool(re.search(r"trăm linh \w+$", name))


def test_a_library_says_the_same() -> None:
    """Of num2words, where it is installed, less its "and"s, and with the northern words.

    It leaves out the hundreds that are none, in "một nghìn không trăm linh một".
    """
    num2words = pytest.importorskip("num2words").num2words
    for number in range(MOST + 1):
        assert num2words(number).replace(" and ", " ").replace(",", "") == names("english")[number]
        assert num2words(number, lang="ru") == names("russian")[number]
        if not (number > 1000 and 0 < number % 1000 < 100):
            said = unicodedata.normalize("NFC", num2words(number, lang="vi"))
            assert said.replace(" lẻ ", " linh ") == names("vietnamese")[number]
