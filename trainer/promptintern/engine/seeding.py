"""Seeds that depend only on numbers such as a job's seed, a step and a rank, and not on the state of a generator."""


def mix(*numbers: int) -> int:
    """Hash ``numbers``, which are at least 0, into one seed (FNV-1a, 64 bits)."""
    state = 0xCBF29CE484222325
    for number in numbers:
        for byte in number.to_bytes(8, "little"):
            state = ((state ^ byte) * 0x100000001B3) % 2**64
    return state
