"""A whole run as every worker computes it, from loaded rows to the report."""
