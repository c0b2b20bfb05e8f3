"""Per-example scores of completions, their means by group, and baselines that need no network."""
