"""Numbers for people: in panels, pages and lists."""

from __future__ import annotations

from collections.abc import Mapping


def clock(seconds: float | None) -> str:
    """3725 -> 1:02:05; what is a hundred days or more away is unknown."""
    if seconds is None or seconds >= 100 * 86_400:
        return "--:--"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def short(count: float) -> str:
    """1234567 -> 1.23M, for counts of 0 or more."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def size(count: float | None) -> str | None:
    """3.25e6 bytes -> 3.25 MB."""
    if count is None:
        return None
    text = short(count)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def per_second(count: float | None) -> str | None:
    """3.25e6 bytes -> 3.25 MB/s."""
    return None if count is None else f"{size(count)}/s"


def span(low: float | None, high: float | None) -> str | None:
    """0.25, 1.8765 -> 0.25 to 1.9."""
    return None if low is None or high is None else f"{low:.2g} to {high:.2g}"


def number(value: float | str | None) -> str:
    """Three digits, or whole thousands; a dash for what is unknown, text as it is."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    value = float(value)
    if abs(value) >= 1e6:
        return short(value) if value > 0 else f"-{short(-value)}"
    if abs(value) >= 1e3 or value.is_integer():
        return f"{value:,.0f}"
    return f"{value:.3g}"


def age_shares(counts: Mapping[str, int]) -> str:
    """{"0": 1, "1": 3} -> 0 25%  1 75%; what is older than seven updates is one bin."""
    old = sum(n for label, n in counts.items() if int(label.split("-")[0]) > 7)
    young = {label: n for label, n in counts.items() if int(label.split("-")[0]) <= 7}
    bins = young | ({"8 or more": old} if old else {})
    return "  ".join(f"{label} {n}%" for label, n in whole_percents(bins).items())


def whole_percents(shares: Mapping[str, float]) -> dict[str, int]:
    """Shares of one whole as whole per cents that add up to 100: each rounded down, and what is then missing given to
    those that lost most (the largest remainders). Shares that do not add up to 1 are scaled until they do; all zero if
    there is nothing to share."""
    total = sum(shares.values())
    if not total > 0:
        return dict.fromkeys(shares, 0)
    exact = {name: 100 * share / total for name, share in shares.items()}
    whole = {name: int(share) for name, share in exact.items()}
    for name in sorted(exact, key=lambda name: whole[name] - exact[name])[: 100 - sum(whole.values())]:
        whole[name] += 1
    return whole
