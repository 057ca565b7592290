"""Train language models over compressed text, weights and input vectors.

Dimension letters used in every docstring: B batch, L length, V vocabulary, D width (d_model), H heads, K head width
(d_head), F feed-forward width, W window.
"""

__version__ = "0.1.0"
