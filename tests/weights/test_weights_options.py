"""Specs of representations."""

import pytest

from compressed_lm import weights
from compressed_lm.errors import InputError


def test_a_spec_comes_back(spec_of_all):
    """`representation(str(rep))` is equal to `rep`, with the same spec and hash."""
    rep = weights.representation(spec_of_all)
    again = weights.representation(str(rep))
    assert again == rep and hash(again) == hash(rep) and str(again) == str(rep)
    assert weights.representation(rep) is rep


def test_canonical_specs():
    """Canonical specs have no defaults, one order of options, and numbers without needless digits."""
    canonical = {
        " int( rule = quest , b=4 , hadamard=128 ) ": "int(b=4,rule=quest)",
        "e4m3(rule=quest)": "fp(e=4,m=3,rule=quest)",
        "e4m3(nan=one)": "fp(e=4,m=3)",
        "e3m4(g=32)": "fp(e=3,m=4,nan=ieee,g=32)",
        "e3m4(nan=none)": "fp(e=3,m=4)",
        "sparse(s=.50)+e2m1": "sparse(s=0.5)+fp(e=2,m=1)",
        "nm(n=2,m=4)": "nm",
        "noise(gmse=1e-2)": "noise(gmse=0.01)",
        "vq(bits=2.0,dim=2)": "vq(dim=2,bits=2)",
        "lloyd(levels=8)": "lloyd(levels=8)",
    }
    assert {spec: str(weights.representation(spec)) for spec in canonical} == canonical


@pytest.mark.parametrize(
    "spec, message",
    [
        ("inr(b=4)", "no representation 'inr'. Did you mean int\\? Known: dense, int,"),
        ("int(bits=4)", "int has no option 'bits=4'.* Its options: b=..., rule=ste, scale=rms, g=0, hadamard=128"),
        ("int(b=4,rule=qest)", "Did you mean quest\\? Valid: ste, quest, lsq"),
        ("e3m4(nan=inf)", "nan=inf was given.* Valid: none, one, ieee"),
        ("int(b=9)", "b=9 .* from 1 to 8"),
        ("int(b=four)", "b=four .* a whole number was expected"),
        ("int(b=4,b=5)", "gives the option b twice"),
        ("int", "int needs b, which 'int' does not give"),
        ("int(b=4", "cannot be read"),
        ("", "cannot be read"),
        ("sparse(s=1.5)", "s=1.5 .* from 0 to 1"),
        ("sparse(s=nan)", "s=nan .* from 0 to 1"),
        ("nm(n=5,m=4)", "n=5 .* from 1 to 4"),
        ("vq(dim=3,bits=2)", "expected dim=2 or dim=4"),
        ("vq(dim=4,bits=4)", "bits must be one of 1, 1.25,"),
        ("int(b=4,rule=quest,hadamard=48)", "power of two"),
        ("int(b=4,rule=quest,g=32)", "hadamard=0"),
        ("int(b=4,rule=lsq,g=32)", "one scale per matrix; leave out both"),
        ("sparse(s=0.5,p=0.2)", "p=0.2 .* p is an option of rule=rbbm"),
        ("mxfp4(scale=flor)", "Did you mean floor"),
        ("e9m9", "e=9 .* from 2 to 6"),
    ],
)
def test_errors_list_what_is_valid(spec, message):
    """The error for each bad spec says what was given and what was expected."""
    with pytest.raises(InputError, match=message):
        weights.representation(spec)
