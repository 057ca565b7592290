"""Command `doctor`: versions are judged by the extras in use."""

import importlib.metadata

import pytest

from compressed_lm.cli import main
from compressed_lm.commands import doctor

REQUIRED = [
    "sentencepiece<0.3,>=0.2.1",
    'pyarrow<28,>=21; extra == "hf"',
    'datasets<6,>=4.4; extra == "hf"',
    'apache-beam<3,>=2.77; extra == "beam"',
    'sentencepiece<0.2.3,>=0.2.1; extra == "beam"',
]
BEAM = ["pyarrow<26.0.0,>=14.0.1", 'pillow<13; python_version > "3"', 'gcsfs<1; extra == "gcp"']


def versions(**installed):
    return {name.replace("_", "-"): version for name, version in installed.items()}.get


@pytest.mark.parametrize(
    "installed, expected",
    [
        (dict(sentencepiece="0.2.3"), []),
        (dict(sentencepiece="0.2.3", pyarrow="20.0.0"), []),
        (dict(sentencepiece="0.2.3", pyarrow="20.0.0", datasets="5.2.0"), ["pyarrow 20.0.0; expected <28,>=21 with"]),
        (dict(sentencepiece="0.2.2", apache_beam="2.77.0", pyarrow="25.0.1", datasets="5.2.0"), []),
        (dict(sentencepiece="0.2.3", apache_beam="2.77.0"), ["sentencepiece 0.2.3; expected <0.2.3,>=0.2.1 with"]),
        (dict(), ["sentencepiece is missing; expected <0.3,>=0.2.1. Fix: pip install 'sentencepiece<0.3,>=0.2.1'"]),
    ],
    ids=["base", "extra not in use", "extra in use", "beam", "wrong for beam", "missing"],
)
def test_versions_are_judged_by_the_extras_in_use(installed, expected):
    """A bound of an extra counts once all its packages are installed; the bounds of the base always count."""
    problems = doctor.version_problems(doctor.judge(REQUIRED, versions(**installed)))
    assert len(problems) == len(expected)
    assert all(problem.startswith(start) for problem, start in zip(problems, expected, strict=True))


def test_packages_that_apache_beam_does_not_accept_are_named():
    """In an environment with Beam, a pyarrow that our extras accept and Beam does not is a problem with a fix."""
    found = doctor.conflicts({"apache-beam": BEAM}, versions(apache_beam="2.77.0", pyarrow="26.0.1", gcsfs="2026.1"))
    assert found == [
        "apache-beam 2.77.0 needs pyarrow<26.0.0,>=14.0.1; 26.0.1 is installed. Fix: pip install "
        "'pyarrow<26.0.0,>=14.0.1'"
    ]
    assert (
        doctor.conflicts({"apache-beam": BEAM}, versions(apache_beam="2.77.0", pyarrow="25.0.1", pillow="12.3")) == []
    )


@pytest.mark.parametrize(
    "installed, expected",
    [
        (dict(protobuf="6.33.6", sentencepiece="0.2.3"), "'protobuf>=7'"),
        (dict(protobuf="6.33.6", sentencepiece="0.2.3", apache_beam="2.77.0"), "'sentencepiece<0.2.3'"),
        (dict(protobuf="6.33.6", sentencepiece="0.2.2", apache_beam="2.77.0"), None),
        (dict(protobuf="7.36.2", sentencepiece="0.2.3"), None),
    ],
)
def test_sentencepiece_and_protobuf_must_fit(installed, expected):
    """sentencepiece 0.2.3 with protobuf 6, which cannot be imported, is a problem whose fix depends on Beam."""
    problems = doctor.known_pairs(versions(**installed))
    assert (expected in problems[0]) if expected else not problems


@pytest.mark.slow("starts JAX and compiles loops")
def test_doctor_prints_every_requirement_of_this_installation(capsys):
    """`doctor` lists the packages of the base and of all extras with their versions."""
    main(["doctor"])
    printed = capsys.readouterr().out
    assert f"compressed_lm {importlib.metadata.version('compressed_lm')}" in printed
    for name in ("jax", "seqio", "sentencepiece"):
        assert name in printed
