"""Integers only: frequency tables, range coder, window rule, bit packing, longest-match dictionary.

No neural network, no files, and nothing imported from the rest of the package.
"""
