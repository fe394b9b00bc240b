"""Small things that are said in one way everywhere: durations, shares, counts and names."""

ACCURACIES = ("top1", "top5")
"""The last parts of the names of metrics that are from 0 to 1, and shown in percent."""


def duration(seconds: float) -> str:
    """Such as `3.4 s`, `34 s`, `12 min 5 s`, `3 h 20 min` or `2 d 4 h`."""
    whole = round(seconds)
    for large, unit, small, part in ((86400, "d", "h", 3600), (3600, "h", "min", 60)):
        if whole >= large:
            return f"{whole // large} {unit} {whole % large // part} {small}"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60} s"
    return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"


def is_accuracy(name: str) -> bool:
    """Whether a metric, such as `test/top1`, is from 0 to 1, and shown in percent."""
    return name.rpartition("/")[2] in ACCURACIES


def percent(share: float, form: str = ".2f") -> str:
    """A share of 1, such as `93.10 %`; `form` is that of the number."""
    return f"{100 * share:{form}} %"


def plural(count: int, word: str) -> str:
    """`1 run`, `1,000 runs`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def shortened(text: str, length: int) -> str:
    """The text, or its beginning and `…`: so many characters at most."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def printable(text: str) -> str:
    """What a terminal would obey, or cannot show, is written as Python writes it."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def one_line(text: str) -> str:
    """`printable` in one line, with single spaces: for text that is a stranger's."""
    return printable(" ".join(text.split()))
