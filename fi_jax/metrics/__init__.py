"""Per-example scores of completions, their means by group, and fills that need no network."""
