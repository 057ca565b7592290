"""Analysis of tokens: stability, texts of ids, uniformity, loss by position (Lester et al. 2024, section 6)."""
