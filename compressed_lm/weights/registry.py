"""Representations by name: `representation("sparse(s=0.5)+int(b=4)")`."""

from compressed_lm.errors import InputError
from compressed_lm.weights import options
from compressed_lm.weights.blocks import MXFP4, NVFP4, Outlier
from compressed_lm.weights.plain import Dense, Noise
from compressed_lm.weights.protocol import Representation
from compressed_lm.weights.rf8 import RF8
from compressed_lm.weights.scalar import Fp, Int, Lloyd, Ternary
from compressed_lm.weights.sparsity import NM, Sparse
from compressed_lm.weights.vectors import VQ

FAMILIES: dict[str, type[Representation]] = {
    family.name: family
    for family in (Dense, Int, Ternary, Fp, Lloyd, MXFP4, NVFP4, RF8, Outlier, Sparse, NM, VQ, Noise)
}
"""Representations by name; their fields are the options of a spec."""


def representation(spec: "str | Representation") -> Representation:
    """Returns the representation of a spec; a representation is returned unchanged.

    Args:
        spec: a name with options, such as `dense`, `int(b=4,rule=quest)` or `e4m3`; or two of them joined by `+`:
            sparsity, then the format of the remaining weights. `str` of the result is the canonical spec.

    Raises:
        InputError: an unknown name or option (the message lists the valid ones), a value out of range, a spec that
            cannot be read, or two representations that cannot be joined.
    """
    if isinstance(spec, Representation):
        return spec
    first, *others = [options.parse(part, FAMILIES) for part in spec.split("+")]
    if len(others) > 1:
        raise InputError(f"{spec!r} joins {len(others) + 1} representations; expected sparsity and one format.")
    return first.then(others[0]) if others else first
