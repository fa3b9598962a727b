"""One run from loaded rows to its report, as every worker computes it."""
