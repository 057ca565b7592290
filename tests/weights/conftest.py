"""Runs tests with the argument `stored` or `spec_of_all` for every family and all options that change the bytes."""

import pytest

STORED = [
    "dense",
    "dense(dtype=bfloat16)",
    "int(b=1)",
    "int(b=3)",
    "int(b=8)",
    "int(b=4,scale=absmax,g=32)",
    "int(b=4,rule=lsq)",
    "int(b=4,rule=quest)",
    "ternary",
    "fp(e=2,m=1)",
    "fp(e=4,m=3)",
    "fp(e=5,m=2,rule=quest)",
    "lloyd(levels=5,rule=quest)",
    "mxfp4",
    "nvfp4",
    "rf8",
    "outlier(p=0.2,b=3,g=16)",
    "sparse(s=0.9,rule=rbbm,p=0.2)",
    "nm",
    "vq(dim=4,bits=2.5)",
    "sparse(s=0.5)+int(b=4)",
    "nm+nvfp4",
]

STORED_SLOW = [
    *(f"int(b={b})" for b in (2, 4, 5, 6, 7)),
    "int(b=4,g=32)",
    "int(b=3,scale=absmax)",
    "int(b=1,rule=quest)",
    "int(b=2,rule=quest,hadamard=16)",
    "int(b=2,rule=quest,hadamard=0)",
    "ternary(rule=quest)",
    *(f"fp(e={e},m={m})" for e, m in [(4, 1), (3, 2), (2, 3), (6, 1), (5, 2), (3, 4), (2, 5)]),
    "fp(e=2,m=1,rule=quest)",
    "lloyd(levels=256)",
    "mxfp4(scale=best)",
    "rf8(round=authors)",
    "outlier",
    "outlier(p=1)",
    "sparse(s=0)",
    "sparse(s=0.8,rule=area_rbbm)",
    "sparse(s=1)",
    "nm(n=4,m=8)",
    "nm(n=1,m=3,rule=ste)",
    "nm(n=8,m=16)",
    "nm(n=4,m=8,block=2)",
    "nm(n=2,m=6,block=2)+int(b=4)",
    "vq(dim=2,bits=2)",
    "vq(dim=4,bits=1,hadamard=0)",
    "sparse(s=0.5)+int(b=4,rule=lsq)",
    "sparse(s=0.9,rule=rbbm,p=0.1)+mxfp4",
    "sparse(s=0.5)+dense(dtype=bfloat16)",
    "sparse(s=0.3)+ternary",
    "sparse(s=0.5)+rf8",
    "nm+int(b=4,rule=quest,hadamard=0)",
]

UNSTORED = ["noise(gmse=0.01)", "sparse(s=0.5)+noise(gmse=0.01)"]


def pytest_generate_tests(metafunc):
    """Parametrizes `stored` with all representations that have a stored form, and `spec_of_all` with all."""
    slow = [pytest.param(spec, marks=pytest.mark.slow("compiles each format")) for spec in STORED_SLOW]
    for argument, specs in (("stored", STORED), ("spec_of_all", STORED + UNSTORED)):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, specs + slow)
