"""Jobs in a cluster, as their user sees them: submitted, watched, read and fetched with the user's own rights."""
