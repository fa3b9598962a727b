"""The parts of a run, from loading the rows to writing the report."""
