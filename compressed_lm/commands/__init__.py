"""What each verb of `compressed-lm` calls: text, runs, weights."""
