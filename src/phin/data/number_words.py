"""Numbers from 0 to 99,999 in words: English, Vietnamese and Russian, and in digits.

They make pairs to train and test by, and are no part of any model.

    english      American: no "and", tens and units with a hyphen: "forty-two thousand one hundred five".
    vietnamese   Of the north: "nghìn" and "linh". After "mươi", 1 is "mốt"; after "mười" and "mươi", 5 is
                 "lăm". What follows thousands begins with its hundreds, though they be none: "một nghìn không
                 trăm linh một".
    russian      Nominative, masculine; thousands are feminine, "одна", "две", and are counted as "тысяча",
                 "тысячи" or "тысяч".
"""

from collections.abc import Callable

MOST = 99_999


def digits(n: int) -> str:
    """The number as it is written."""
    return str(n)


def english(n: int) -> str:
    """Such as forty-two."""
    if n < 20:
        return ENGLISH[n]
    if n < 100:
        return _joined("-", ENGLISH_TENS[n // 10], ENGLISH[n % 10] if n % 10 else "")
    unit, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    return _joined(" ", english(n // unit), name, english(n % unit) if n % unit else "")


def vietnamese(n: int) -> str:
    """Such as bốn mươi hai."""
    if n < 100:
        return _vietnamese_tens(n)
    if n < 1000:
        return _vietnamese_hundreds(n)
    return _joined(" ", vietnamese(n // 1000), "nghìn", _vietnamese_hundreds(n % 1000) if n % 1000 else "")


def _vietnamese_hundreds(n: int) -> str:
    rest = n % 100
    linked = "" if rest == 0 else f"linh {VIETNAMESE[rest]}" if rest < 10 else _vietnamese_tens(rest)
    return _joined(" ", VIETNAMESE[n // 100], "trăm", linked)


def _vietnamese_tens(n: int) -> str:
    tens, one = divmod(n, 10)
    if not tens:
        return VIETNAMESE[one]
    changed = {0: "", 1: "mốt" if tens > 1 else "một", 5: "lăm"}
    return _joined(
        " ", "mười" if tens == 1 else f"{VIETNAMESE[tens]} mươi", changed.get(one, VIETNAMESE[one])
    )


def russian(n: int) -> str:
    """Such as сорок два."""
    thousands, rest = divmod(n, 1000)
    if not thousands:
        return _russian_hundreds(n)
    feminine = _joined(" ", *(FEMININE.get(word, word) for word in _russian_hundreds(thousands).split()))
    tens, one = divmod(thousands, 10)
    many = "тысяч" if tens % 10 == 1 or one not in (1, 2, 3, 4) else "тысяча" if one == 1 else "тысячи"
    return _joined(" ", feminine, many, _russian_hundreds(rest) if rest else "")


def _russian_hundreds(n: int) -> str:
    hundreds, rest = divmod(n, 100)
    tens, one = divmod(rest, 10) if rest >= 20 else (0, rest)
    last = RUSSIAN[one] if one or not n else ""
    return _joined(" ", RUSSIAN_HUNDREDS[hundreds], RUSSIAN_TENS[tens], last)


def _joined(by: str, *parts: str) -> str:
    return by.join(part for part in parts if part)


ENGLISH = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
ENGLISH_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
VIETNAMESE = ("không", "một", "hai", "ba", "bốn", "năm", "sáu", "bảy", "tám", "chín")
RUSSIAN = (
    *("ноль", "один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять", "десять"),
    *("одиннадцать", "двенадцать", "тринадцать", "четырнадцать", "пятнадцать", "шестнадцать"),
    *("семнадцать", "восемнадцать", "девятнадцать"),
)
RUSSIAN_TENS = (
    *("", "", "двадцать", "тридцать", "сорок", "пятьдесят", "шестьдесят", "семьдесят", "восемьдесят"),
    "девяносто",
)
RUSSIAN_HUNDREDS = (
    *("", "сто", "двести", "триста", "четыреста", "пятьсот", "шестьсот", "семьсот", "восемьсот"),
    "девятьсот",
)
FEMININE = {"один": "одна", "два": "две"}

LANGUAGES: dict[str, Callable[[int], str]] = {
    "digits": digits,
    "english": english,
    "vietnamese": vietnamese,
    "russian": russian,
}
"""Name -> the number from 0 to 99,999 in it."""
