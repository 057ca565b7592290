"""Large numbers in short form, the same in plots, findings and reports."""


def si(value: float, *, unit: str = "") -> str:
    """Three digits and a decimal prefix: 880950 -> "881k", with unit "B" -> "881 kB"; 1e20 -> "1e+20"."""
    if value >= 1e15:
        return f"{value:.3g} {unit}".rstrip()
    gap = " " if unit else ""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.0f}{gap}{letter}{unit}" if scaled >= 99.95 else f"{scaled:.3g}{gap}{letter}{unit}"
    return f"{value:.3g}{gap}{unit}"
