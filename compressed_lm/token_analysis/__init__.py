"""Properties of tokens: stability under edits, uniformity, what they mean by position."""
