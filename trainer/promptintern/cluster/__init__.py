"""A cluster as its user sees it: jobs are submitted, watched, read and fetched with the user's own rights."""
