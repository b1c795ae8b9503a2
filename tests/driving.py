"""Generators that say how far they are, run to their end."""


def finish(generator):
    """Give (all it yielded, what it returned)."""
    records = []
    while True:
        try:
            records.append(next(generator))
        except StopIteration as stop:
            return records, stop.value
