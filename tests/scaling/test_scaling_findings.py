"""Verdicts follow the numbers: each prediction can hold, fail, or lack its data."""

import pandas as pd
import pytest

from compressed_lm.scaling import check_theory

RATIOS = {"bytes": 1.0, "static_ac(v=256)": 1.6, "eiw(b=16,v=256)": 2.1, "ac(v=256)": 3.2}
RUNS = {
    "ac(v=256)": [(2e6, 2.49)],
    "bytes": [(1e6, 2.6), (4e6, 2.2)],
    "eiw(b=12,v=4096)": [(2e6, 2.3)],
    "eiw(align=word,b=12,v=4096)": [(2e6, 2.1)],
}
ENTROPY, BETWEEN, NOTHING, BEATS, BEATS_SOFTMAX, ALIGNED, ALIGNED_FLOPS = range(7)


def verdicts(*, ratios=RATIOS, runs=RUNS, m1=2.5):
    rows = [
        {
            "run": f"{codec}/{cost}",
            "codec": codec,
            "n_params": int(cost),
            "n_nonembed": 1000 * (i + 1),
            "flops_per_byte": cost,
            "flops_per_byte_softmax": cost * (1.25 if "4096" in codec else 1),
            "bits_per_byte": bits,
            "seed": 0,
            "final": True,
            "group": "m2",
        }
        for codec, points in runs.items()
        for i, (cost, bits) in enumerate(points)
    ]
    rows.append({**rows[0], "run": "m1", "codec": "bytes", "group": "m1", "flops_per_byte": 2e6, "bits_per_byte": 0.1})
    table = pd.DataFrame(
        [{"codec": codec, "vocab_size": 256, "bytes_per_token": value} for codec, value in ratios.items()]
    )
    return check_theory(pd.DataFrame(rows), table.assign(m1_bits_per_byte=m1))


def test_everything_holds_on_a_run_that_obeys_the_theory():
    """All seven predictions hold, and M1's own row is not used."""
    findings = verdicts()
    assert [finding.verdict for finding in findings] == ["holds"] * 7
    assert findings[ENTROPY].detail == "8 / 3.200 = 2.500 bits per byte against M1's 2.500: +0.0%."
    assert "2.300 against 2.400 bits per byte (-0.100)" in findings[BEATS].detail


@pytest.mark.parametrize(
    ("which", "changes"),
    [
        (ENTROPY, {"m1": 2.6}),
        (ENTROPY, {"m1": 2.4}),
        (BETWEEN, {"ratios": {**RATIOS, "eiw(b=16,v=256)": 1.5}}),
        (BETWEEN, {"ratios": {**RATIOS, "eiw(b=16,v=256)": 3.3}}),
        (NOTHING, {"runs": {**RUNS, "ac(v=256)": [(2e6, 2.3)]}}),
        (BEATS, {"runs": {**RUNS, "eiw(b=12,v=4096)": [(2e6, 2.45)]}}),
        (BEATS_SOFTMAX, {"runs": {**RUNS, "eiw(b=12,v=4096)": [(2e6, 2.35)]}}),
        (ALIGNED, {"runs": {**RUNS, "eiw(align=word,b=12,v=4096)": [(2e6, 2.31)]}}),
        (ALIGNED_FLOPS, {"runs": {**RUNS, "eiw(align=word,b=12,v=4096)": [(2e6, 2.31)]}}),
    ],
)
def test_a_prediction_that_the_numbers_contradict_does_not_hold(which, changes):
    """No verdict is fixed: for each prediction, some numbers reverse it."""
    assert verdicts(**changes)[which].verdict == "does not hold here"


def test_what_was_not_run_is_not_judged():
    """Without its codecs, a prediction is `not measured`, and the detail says what is missing."""
    findings = verdicts(ratios={"bytes": 1.0}, runs={"bytes": [(1e6, 2.6)]}, m1=None)
    assert {finding.verdict for finding in findings} == {"not measured"}
    assert "no run of the codec 'eiw(b=12,v=4096)'" in findings[BEATS].detail
    empty = check_theory(
        pd.DataFrame(columns=["run", "codec", "n_nonembed", "seed", "final"]).astype({"final": bool}), pd.DataFrame()
    )
    assert {finding.verdict for finding in empty} == {"not measured"}


def test_extrapolation_and_small_differences_are_reported():
    """An evaluation outside the measured costs and a difference within seed noise are reported."""
    far = verdicts(runs={**RUNS, "eiw(b=12,v=4096)": [(1e7, 2.0)]})[BEATS]
    assert "this is an extrapolation" in far.detail
    close = verdicts(runs={**RUNS, "eiw(b=12,v=4096)": [(2e6, 2.395)]})[BEATS]
    assert close.verdict == "holds" and "can be due to the seed alone" in close.detail
