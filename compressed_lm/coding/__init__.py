"""Integer coding: frequency tables, range coder, window rules, bit packing, dictionaries, subword vocabularies.

It imports only `errors`, `caches` and `io`, and no JAX.
"""
