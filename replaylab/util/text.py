"""Numbers, shares and durations as text, and escaping of external text."""

import re

import numpy as np

MINUS = "\N{MINUS SIGN}"
_OF_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>$&#!|~@])")


def duration(seconds: float) -> str:
    """Seconds as "0.4 s", "19 s", "3 min 20 s" or "2 h 5 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def printable(text: str) -> str:
    """The text for a terminal: control characters, and bytes that are not text, as escapes."""
    return "".join(each if each.isprintable() or each in "\n\t" else repr(each)[1:-1] for each in text)


def in_markdown(text: str) -> str:
    """A name escaped for Markdown, so that it is not read as HTML, emphasis, link, formula or role."""
    return _OF_MARKDOWN.sub(r"\\\1", " ".join(printable(text).split()))


def capital(text: str) -> str:
    """The text with a capital first letter; a Greek one is a symbol, and stays."""
    return (text[0] if "α" <= text[0] <= "ω" else text[0].upper()) + text[1:]


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 seed", "5 seeds"."""
    return f"{count} {noun}s" if count > 1 else f"{count} {noun}"


def percent(fraction: float) -> str:
    """A share in percent: 0.25 is "25 %"."""
    return f"{100 * fraction:.3g} %"


def number(value: float, digits: str = "") -> str:
    """A number with a minus sign, formatted by `digits`, or with three significant digits and no exponent below a million:
    0.0123, 5.67, 1234.
    """
    if np.isnan(value):
        return "not measured"
    if np.isinf(value):
        return f"{MINUS}∞" if value < 0 else "∞"
    if digits:
        text = f"{value:{digits}}"
    else:
        text = f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:#.3g}".rstrip(".")
    return with_minus_sign(text)


def with_minus_sign(text: str) -> str:
    """A formatted number with a minus sign instead of a hyphen, and none before a zero."""
    is_zero = not re.search(r"[1-9∞]", text)
    return text.removeprefix("-") if is_zero else text.replace("-", MINUS, 1) if text.startswith("-") else text


def plain_number(value: float, digits: str = "") -> str:
    """As `number`, but an exact 0 without decimals."""
    return "0" if value == 0 else number(value, digits)
