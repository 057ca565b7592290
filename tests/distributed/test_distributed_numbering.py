"""Numbers of processes that work without communication, from the variables of launchers."""

import pytest

from compressed_lm.distributed.numbering import Numbering, detect
from compressed_lm.errors import InputError

OWN = {"COMPRESSED_LM_PROCESS_ID": "1", "COMPRESSED_LM_NUM_PROCESSES": "3"}
ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "5"}
STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "4"}
MPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "8"}
SKYPILOT = {"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "2"}
TPU = {"TPU_WORKER_ID": "3", "TPU_WORKER_HOSTNAMES": "a,b,c,d"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (OWN, Numbering(1, 3, "COMPRESSED_LM_PROCESS_ID")),
        (ARRAY, Numbering(2, 4, "a Slurm array")),
        (STEP, Numbering(3, 4, "srun")),
        (MPI, Numbering(2, 8, "Open MPI")),
        (SKYPILOT, Numbering(0, 2, "SkyPilot")),
        (TPU, Numbering(3, 4, "a TPU")),
        (TPU | {"MEGASCALE_SLICE_ID": "2", "MEGASCALE_NUM_SLICES": "3"}, Numbering(11, 12, "a TPU")),
    ],
)
def test_the_number_is_that_of_the_launcher(environ, expected):
    """Each launcher's variables give the number of the process, counted from 0, and the number of processes."""
    assert detect(environ) == expected


def test_the_variables_of_the_scripts_come_first():
    """COMPRESSED_LM_PROCESS_ID is used although a launcher's variables are set, and an array before its step."""
    assert detect(MPI | TPU | SKYPILOT | STEP | ARRAY | OWN).launcher == "COMPRESSED_LM_PROCESS_ID"
    assert detect(STEP | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"} | ARRAY) == Numbering(2, 4, "a Slurm array")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"COMPRESSED_LM_PROCESS_ID": "1"},
        {"COMPRESSED_LM_PROCESS_ID": "", "COMPRESSED_LM_NUM_PROCESSES": "3"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16", "SLURM_PROCID": "0"},
        {"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"},
        {"TPU_WORKER_ID": "WARNING: could not determine TPU worker number"},
        {"JOB_COMPLETION_INDEX": "3"},
    ],
    ids=[
        "nothing",
        "no count",
        "empty",
        "a shell in a Slurm job",
        "one TPU host",
        "libtpu alone",
        "a pod without a count",
    ],
)
def test_a_process_alone_does_all_the_work(environ):
    """Without the variables of several processes the process is number 0 of 1, so that no documents are left out."""
    assert detect(environ) == Numbering(0, 1, "")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (OWN | {"COMPRESSED_LM_PROCESS_ID": "3"}, "COMPRESSED_LM_PROCESS_ID=3, COMPRESSED_LM_NUM_PROCESSES=3; a whole"),
        (OWN | {"COMPRESSED_LM_PROCESS_ID": "two"}, "COMPRESSED_LM_PROCESS_ID=two"),
        (OWN | {"COMPRESSED_LM_PROCESS_ID": "-1"}, "COMPRESSED_LM_PROCESS_ID=-1"),
        # An array with gaps, --array=0-30:10, has fewer processes than its largest index.
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "15"}, "SLURM_ARRAY_TASK_ID=15, SLURM_ARRAY_TASK_COUNT=4"),
        (STEP | {"SLURM_PROCID": ""}, "srun gave SLURM_PROCID=,"),
    ],
)
def test_wrong_numbers_are_refused(environ, message):
    """Numbers that are not whole or not below the count are refused with the variables and what to do."""
    with pytest.raises(InputError, match=message) as caught:
        detect(environ)
    assert "Give --process_index and --process_count" in str(caught.value)
