"""The computation of a whole run on every worker, from the loaded rows to the report."""
