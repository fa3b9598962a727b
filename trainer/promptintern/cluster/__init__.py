"""Submitting and watching jobs in a cluster, reading logs and fetching results, all with the user's own rights."""
