"""Quantities of Kubernetes, such as 500m CPU or 512Mi of memory."""

from fractions import Fraction

_UNITS = {"": Fraction(1), "m": Fraction(1, 1000)} | {
    unit + ("i" if base == 1024 else ""): Fraction(base) ** power
    for base, units in ((1000, "kMGT"), (1024, "KMGT"))
    for power, unit in enumerate(units, start=1)
}


def parse_quantity(text: str) -> Fraction:
    """Return the number of cores or bytes in a quantity that has the format of ``compute.Quantity``."""
    number = text.rstrip("mkKMGTi")
    return Fraction(number) * _UNITS[text.removeprefix(number)]
