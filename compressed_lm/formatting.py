"""Short text for durations and quantities."""


def duration(seconds: float) -> str:
    """Returns a duration (seconds) as "7.2 s", "41 s", "8 min 44 s" or "3 h 5 min"."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def si(value: float, *, unit: str = "") -> str:
    """Returns three digits and a decimal prefix: 880950 -> "881k"; 881 kB with unit "B"; 1e20 -> "1e+20"."""
    if value >= 1e15:
        return f"{value:.3g} {unit}".rstrip()
    gap = " " if unit else ""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.0f}{gap}{letter}{unit}" if scaled >= 99.95 else f"{scaled:.3g}{gap}{letter}{unit}"
    return f"{value:.3g}{gap}{unit}"


def byte_size(n_bytes: float) -> str:
    """Returns a number of bytes as "881 kB" or "1.5 MB" (decimal prefixes)."""
    return si(n_bytes, unit="B")


def quantity(value: float, unit: str) -> str:
    """Returns a number of units: "1.5 MB" if the unit is "B", otherwise "1,500 steps"."""
    if unit == "B":
        return byte_size(value)
    return f"{value:,.0f} {unit}".rstrip() if value >= 10 or value == int(value) else f"{value:.1f} {unit}".rstrip()
