"""Launch scripts run what their dry run prints, and `local.sh` runs a pod of processes."""

import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = {
    "local.sh": ["--processes", "2"],
    "tpu_vm.sh": ["run", "--name", "clm", "--zone", "z"],
    "gke_xpk.sh": ["--cluster", "c", "--name", "n", "--image", "i"],
    "jobset.sh": ["--name", "n", "--image", "i", "--hosts", "2"],
    "slurm.sbatch": ["--nodes=4"],
    "skypilot.sh": ["--bucket", "gs://b"],
    "ray.sh": [],
}
TRAINS = [script for script in SCRIPTS if script != "ray.sh"]
# Words that a shell would change if unquoted: spaces, quotes, a variable, a glob, a backslash, "", a line break.
HARD = ["--store", "a b", "--set", "x='$HOME *'", 'a"b', "\\n", "", "two\nlines", "$(date)"]


def run(script, *arguments, **options):
    options = {"capture_output": True, "text": True, "timeout": 60} | options
    return subprocess.run([str(LAUNCH / script), *arguments], **options)


@pytest.fixture
def tools(tmp_path):
    """Stand-ins for gcloud, xpk, ... on PATH that record their arguments; `answer` sets the body of one."""

    class Tools:
        calls_file = tmp_path / "calls"
        path = tmp_path / "bin"

        def answer(self, name, body=""):
            tool = self.path / name
            record = f"import json,sys;open({str(self.calls_file)!r},'a').write(json.dumps(sys.argv[1:])+'\\n')"
            tool.write_text(f'#!/usr/bin/env bash\n{sys.executable} -c {shlex.quote(record)} {name} "$@"\n{body}\n')
            tool.chmod(0o755)

        def calls(self):
            lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
            return [json.loads(line) for line in lines]

        def environment(self, **more):
            return os.environ | {"PATH": f"{self.path}:{os.environ['PATH']}"} | more

    (tmp_path / "bin").mkdir()
    made = Tools()
    for name in (
        "gcloud",
        "xpk",
        "kubectl",
        "sbatch",
        "srun",
        "scontrol",
        "sky",
        "ray",
        "git",
        "compressed-lm",
        "sleep",
    ):
        made.answer(name)
    return made


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_teaches_and_errors_tell_where(script):
    """The help of each script has an example; wrong or missing arguments end in status 2 and point to --help."""
    text = run(script, "--help")
    assert text.returncode == 0 and "\nexample" in text.stdout and f"launch/{script}" in text.stdout
    wrong = ([], ["--nonsense"], ["--"], ["--", "decode", "x"], ["--", "--store", "x"])
    for arguments in (*([*SCRIPTS[script], *words] for words in wrong), []):
        result = run(script, *arguments)
        assert result.returncode == 2 and "--help" in result.stderr + result.stdout, arguments


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_runs_nothing(script, tools):
    """With --dry-run a script prints commands and calls no tool."""
    for command in ("compress", "train")[: 1 + (script in TRAINS)]:
        result = run(script, *SCRIPTS[script], "--dry-run", "--", command, *HARD, env=tools.environment())
        assert result.returncode == 0 and result.stdout and tools.calls() == []


def test_local_prints_one_command_for_each_process():
    """The dry run of `local.sh` prints one command per process, with 4 virtual devices or one GPU each."""
    arguments = ["--dry-run", "--port", "5000", "--", "train", "--store", "a b", "--out", "gs://b/x"]
    both = "COMPRESSED_LM_COORDINATOR=127.0.0.1:5000 COMPRESSED_LM_NUM_PROCESSES=2 COMPRESSED_LM_PROCESS_ID="
    train = "compressed-lm train --store 'a b' --out gs://b/x --distributed=on &"
    assert run("local.sh", *arguments).stdout.splitlines() == [
        f"env {both}0 JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=4 {train}",
        f"env {both}1 JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=4 {train}",
        "wait",
    ]
    visible = os.environ | {"CUDA_VISIBLE_DEVICES": "6,7"}
    assert run("local.sh", "--gpus", *arguments, env=visible).stdout.splitlines() == [
        f"env {both}0 CUDA_VISIBLE_DEVICES=6 {train}",
        f"env {both}1 CUDA_VISIBLE_DEVICES=7 {train}",
        "wait",
    ]


def test_tpu_vm_prints_the_life_of_a_slice():
    """The dry run of `tpu_vm.sh run` prints all commands: create, wait, copy, install, train, delete."""
    options = ["--name", "clm", "--zone", "us-west4-a", "--project", "p", "--type", "v6e-16", "--spot", "--dry-run"]
    options += ["--store", "gs://b/s"]
    where = "--zone=us-west4-a --project=p"
    vm, resources = "gcloud compute tpus tpu-vm", "gcloud compute tpus queued-resources"
    assert run("tpu_vm.sh", "run", *options, "--", "train", "--store", "tokens").stdout.splitlines() == [
        f"{resources} create clm {where} --node-id=clm --accelerator-type=v6e-16 --runtime-version=v2-alpha-tpuv6e "
        "--spot",
        "# every 30 seconds until it prints ACTIVE:",
        f"{resources} describe clm {where} '--format=value(state.state)'",
        f"git -C {ROOT} archive --format=tar.gz --prefix=compressed_lm/ --output=/tmp/compressed_lm.tar.gz HEAD",
        f"{vm} scp /tmp/compressed_lm.tar.gz clm:compressed_lm.tar.gz --worker=all {where}",
        f"{vm} ssh clm --worker=all {where} '--command=python3 -m pip install --quiet --user uv && python3 -m uv venv "
        "--quiet --clear --python 3.12 ~/venv && python3 -m uv pip install --quiet --python ~/venv/bin/python "
        '"compressed_lm[gcs,tpu] @ file://$HOME/compressed_lm.tar.gz" && mkdir -p tokens && gcloud storage rsync '
        "--recursive gs://b/s tokens'",
        f"{vm} ssh clm --worker=all {where} '--command=exec ~/venv/bin/compressed-lm train --store tokens "
        "--distributed=on'",
        "# after a preemption, at most 20 times: run the last command below, then repeat from the first",
        f"{resources} delete clm {where} --force --quiet",
    ]


@pytest.mark.parametrize(
    ("type_", "runtime"),
    [("v5litepod-256", "v2-alpha-tpuv5-lite"), ("v5p-128", "v2-alpha-tpuv5"), ("v4-32", "tpu-ubuntu2204-base")],
)
def test_tpu_vm_knows_the_software_of_a_type(type_, runtime):
    """The default runtime version of a TPU type is the one that Google lists for JAX."""
    out = run("tpu_vm.sh", "create", "--name", "n", "--zone", "z", "--type", type_, "--dry-run").stdout
    assert f"--accelerator-type={type_} --runtime-version={runtime}" in out


def test_tpu_vm_trains_on_a_new_slice_after_a_preemption(tools, tmp_path):
    """After a preemption `run` deletes the slice, creates and trains on a second one, and exits with status 0."""
    states = tmp_path / "states"
    states.write_text("ABSENT\nPROVISIONING\nACTIVE\nSUSPENDED\nSUSPENDED\nACTIVE\n")
    tools.answer(
        "gcloud",
        f"""case "$*" in
  *describe*) state=$(head -n 1 {states}); sed -i 1d {states}; [ $state != ABSENT ] || exit 1; echo $state ;;
  *compressed-lm\\ train*) if [ ! -e {tmp_path}/lost ]; then touch {tmp_path}/lost; exit 255; fi ;;
esac""",
    )
    result = run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], "--", "train", "--store", "t", env=tools.environment())
    assert result.returncode == 0, result.stderr
    actions = [
        next(word for word in ("create", "delete", "scp", "venv ", "train") if word in " ".join(call))
        for call in tools.calls()
        if call[0] == "gcloud" and "describe" not in call
    ]
    once = ["create", "scp", "venv ", "train", "delete"]
    assert actions == once * 2


def test_tpu_vm_does_not_repeat_an_error(tools):
    """If training fails while the slice is alive, its status is reported and nothing is deleted."""
    tools.answer("gcloud", 'case "$*" in *describe*) echo ACTIVE ;; *compressed-lm\\ train*) exit 2 ;; esac')
    result = run("tpu_vm.sh", *SCRIPTS["tpu_vm.sh"], "--", "train", "--store", "t", env=tools.environment())
    assert result.returncode == 2 and "status 2, and the slice is alive" in result.stderr
    assert not [call for call in tools.calls() if "delete" in call or "create" in call]


def test_xpk_gets_one_command():
    """The dry run of `gke_xpk.sh` prints one xpk command, with --command quoted for the shell of the pod."""
    arguments = ["--cluster", "tpus", "--name", "n", "--image", "gcr.io/p/i", "--zone", "z", "--spot", "--dry-run"]
    arguments += ["--storage", "b"]
    assert run("gke_xpk.sh", *arguments, "--", "train", "--store", "/bucket/s", "--set", "a b").stdout == (
        "xpk workload create --cluster=tpus --workload=n --docker-image=gcr.io/p/i --tpu-type=v5litepod-16 "
        "--num-slices=1 --priority=medium --max-restarts=20 --termination-grace-period-seconds=120 --storage=b "
        "--zone=z --spot '--command=exec compressed-lm train --store /bucket/s --set '\\''a b'\\'' --distributed=on'\n"
    )


@pytest.mark.parametrize("script", ["gke_xpk.sh", "skypilot.sh", "slurm.sbatch", "tpu_vm.sh", "ray.sh"])
def test_hard_words_arrive_as_they_were(script, tools):
    """Quotes, spaces and dollar signs in arguments reach `compressed-lm` unchanged."""
    command = "train" if script in TRAINS else "compress"
    expected = ["compressed-lm", "train", *HARD, "--distributed=on"]
    inside = {"SLURM_JOB_ID": "7"} if script == "slurm.sbatch" else {}
    first = ["start", *SCRIPTS[script][1:]] if script == "tpu_vm.sh" else SCRIPTS[script]
    result = run(script, *first, "--", command, *HARD, env=tools.environment(**inside))
    assert result.returncode == 0, result.stderr
    (call,) = tools.calls()
    if script == "slurm.sbatch":
        assert call == ["srun", "--kill-on-bad-exit=1", "--label", *expected]
    elif script == "skypilot.sh":
        (program,) = [word.removeprefix("PROGRAM=") for word in call if word.startswith("PROGRAM=")]
        assert shlex.split(program) == expected[1:]
    elif script == "ray.sh":
        assert call[:4] == ["ray", "job", "submit", "--"]
        assert call[4:] == ["compressed-lm", "compress", "--engine", "ray", "--ray_address", "auto", *HARD]
    else:
        (command,) = [word.removeprefix("--command=") for word in call if word.startswith("--command=")]
        assert shlex.split(command.replace("~/venv/bin/", "")) == ["exec", *expected]


def manifest(*arguments):
    lines = run("jobset.sh", *arguments[:6], "--dry-run", *arguments[6:]).stdout.splitlines()
    assert lines[0] == "kubectl apply -f - <<'END'" and lines[-1] == "END"
    return yaml.safe_load("\n".join(lines[1:-1]))


def test_jobset_of_gpus_names_the_coordinator():
    """The manifest has one pod per host with its index, and the coordinator has the JobSet name of pod 0."""
    jobset = manifest(*SCRIPTS["jobset.sh"], "--gpus", "8", "--spot", "--", "train", *HARD)
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and jobset["metadata"]["name"] == "n"
    job = jobset["spec"]["replicatedJobs"][0]
    assert (job["name"], job["template"]["spec"]["parallelism"]) == ("worker", 2)
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert pod["terminationGracePeriodSeconds"] == 120
    (container,) = pod["containers"]
    hard = [word.replace("$(", "$$(") for word in HARD]  # Kubernetes reads $$( as $(
    assert container["command"] + container["args"] == ["compressed-lm", "train", *hard, "--distributed=on"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "8"}}
    environment = {entry["name"]: entry.get("value") or entry["valueFrom"] for entry in container["env"]}
    assert environment == {
        "COMPRESSED_LM_COORDINATOR": "n-worker-0-0.n:8476",
        "COMPRESSED_LM_NUM_PROCESSES": "2",
        "COMPRESSED_LM_PROCESS_ID": {
            "fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}
        },
    }


def test_jobset_of_tpus_leaves_the_start_to_gke():
    """A TPU slice is selected by accelerator and topology; no variables are set, since GKE sets its own."""
    tpu = ["--tpu", "tpu-v5-lite-podslice", "--topology", "4x4", "--chips", "4"]
    jobset = manifest(*SCRIPTS["jobset.sh"], *tpu, "--", "train", "--store", "t")
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert "env" not in pod["containers"][0]
    assert pod["containers"][0]["resources"] == {"limits": {"google.com/tpu": "4"}}


def test_jobset_mounts_a_bucket():
    """--bucket is mounted as /bucket in the pods, which run under the service account of --account."""
    jobset = manifest(*SCRIPTS["jobset.sh"], "--bucket", "b", "--account", "me", "--", "train", "--store", "/bucket/s")
    template = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert template["metadata"] == {"annotations": {"gke-gcsfuse/volumes": "true"}}
    assert template["spec"]["serviceAccountName"] == "me"
    assert template["spec"]["containers"][0]["volumeMounts"] == [{"name": "bucket", "mountPath": "/bucket"}]
    (volume,) = template["spec"]["volumes"]
    assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "b"


def test_slurm_submits_itself(tools):
    """Outside a job the script submits itself with sbatch, with the options of sbatch and the training arguments."""
    result = run("slurm.sbatch", "--nodes", "4", "--", "train", *HARD, env=tools.environment())
    assert result.returncode == 0
    defaults = ["--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=8"]
    words = ["--nodes", "4", str(LAUNCH / "slurm.sbatch"), "--", "train", *HARD]
    assert tools.calls() == [["sbatch", *defaults, *words]]
    assert "#SBATCH --signal=TERM@120\n#SBATCH --requeue\n" in (LAUNCH / "slurm.sbatch").read_text()


@pytest.mark.parametrize(
    ("status", "restarts", "again"),
    [(0, "0", False), (143, "", True), (134, "3", True), (2, "0", False), (143, "20", False)],
)
def test_slurm_requeues_runs_that_can_resume(status, restarts, again, tools):
    """A job that saved or lost a process is requeued at most 20 times; a finished or failed job is not."""
    tools.answer("srun", f"exit {status}")
    environment = tools.environment(SLURM_JOB_ID="7", SLURM_RESTART_COUNT=restarts)
    result = run("slurm.sbatch", "--", "train", "--store", "t", env=environment)
    assert result.returncode == status
    assert (["scontrol", "requeue", "7"] in tools.calls()) == again


def test_skypilot_gives_the_variables_that_its_task_wants():
    """The dry run of `skypilot.sh` sets every variable that skypilot.yaml leaves open, and mounts the bucket."""
    out = run("skypilot.sh", *SCRIPTS["skypilot.sh"], "--nodes", "2", "--dry-run", "--", "train", "--store", "t").stdout
    assert out == (
        f"sky jobs launch --name=compressed-lm --workdir={ROOT} --gpus=H100:8 --num-nodes=2 --use-spot "
        "--env BUCKET=gs://b --env 'PROGRAM=train --store t --distributed=on' --yes "
        f"{LAUNCH / 'skypilot.yaml'}\n"
    )
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert [name for name, value in task["envs"].items() if value is None] == ["BUCKET", "PROGRAM"]
    assert task["file_mounts"] == {"/bucket": {"source": "${BUCKET}", "mode": "MOUNT"}}


def test_skypilot_task_sets_the_variables_of_each_host(tools, tmp_path):
    """The run script of skypilot.yaml passes coordinator, process count and index of a host to the program."""
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    program = tmp_path / "venv" / "bin" / "compressed-lm"
    program.parent.mkdir(parents=True)
    program.write_text(
        '#!/bin/sh\necho "$COMPRESSED_LM_COORDINATOR $COMPRESSED_LM_NUM_PROCESSES" \\\n'
        '  "$COMPRESSED_LM_PROCESS_ID"; for word; do echo "<$word>"; done\n'
    )
    program.chmod(0o755)
    given = {
        "HOME": str(tmp_path),
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1",
        "PROGRAM": "train --set 'a b' --distributed=on",
    }
    out = subprocess.run(["bash", "-c", task["run"]], env=os.environ | given, capture_output=True, text=True).stdout
    assert out.splitlines() == ["10.0.0.1:8476 2 1", "<train>", "<--set>", "<a b>", "<--distributed=on>"]


def program(folder, body, interpreter="/usr/bin/env bash"):
    """Returns environment variables that replace compressed-lm by a script with this body."""
    path = folder / "program"
    path.write_text(f"#!{interpreter}\n{textwrap.dedent(body)}")
    path.chmod(0o755)
    return {"COMPRESSED_LM": str(path)}


def test_local_gives_each_process_its_words_and_its_name(tmp_path):
    """Each process of `local.sh` gets the arguments unchanged, and each output line is labelled with its process."""
    env = os.environ | program(tmp_path, 'printf "<%s>\\n" "$COMPRESSED_LM_PROCESS_ID" "$@"\n')
    result = run("local.sh", "--processes", "3", "--", "train", "a b", "$HOME", "", env=env)
    assert result.returncode == 0
    for i in range(3):
        mine = [line.removeprefix(f"[{i}] ") for line in result.stdout.splitlines() if line.startswith(f"[{i}] ")]
        assert mine == [f"<{i}>", "<train>", "<a b>", "<$HOME>", "<>", "<--distributed=on>"]


@pytest.mark.slow("starts processes by launch scripts")
def test_local_ends_the_others_when_one_fails(tmp_path):
    """If one process fails with status 3, the run ends with 3 within seconds, even if the others ignore SIGTERM."""
    env = os.environ | program(
        tmp_path, '[ "$COMPRESSED_LM_PROCESS_ID" = 1 ] && exit 3\ntrap "" TERM\nsleep 300 & echo $!; wait; sleep 300\n'
    )
    start = time.monotonic()
    result = run("local.sh", "--", "train", "x", env=env)
    assert result.returncode == 3 and "process 1 ended with status 3; ending the others" in result.stderr
    assert time.monotonic() - start < 30
    child = int(re.search(r"\[0\] (\d+)", result.stdout)[1])
    left = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], capture_output=True, text=True).stdout
    assert left == "" or left.startswith("Z")  # no process is left, except possibly a zombie


def test_local_hands_sigterm_on_and_takes_the_worst_status(tmp_path):
    """SIGTERM reaches all processes; one that ignores it is killed after --grace, and its status is returned."""
    env = os.environ | program(
        tmp_path,
        """
        [ "$COMPRESSED_LM_PROCESS_ID" = 1 ] && trap 'echo saved; exit 7' TERM || trap 'echo deaf' TERM
        echo ready
        while true; do sleep 0.1; done
        """,
    )
    running = subprocess.Popen(
        [str(LAUNCH / "local.sh"), "--grace", "2", "--", "train", "x"], env=env, stdout=subprocess.PIPE, text=True
    )
    ready = [running.stdout.readline() for _ in range(2)]
    assert sorted(ready) == ["[0] ready\n", "[1] ready\n"]
    running.send_signal(signal.SIGTERM)
    out, _ = running.communicate(timeout=30)
    assert running.returncode == 128 + signal.SIGKILL
    assert "[1] saved" in out and "[0] deaf" in out


def test_tpu_vm_numbers_the_processes_of_a_compression_job(tools, tmp_path):
    """The command of each host gets its number from the metadata server, and only the chips of its host."""
    first = ["start", *SCRIPTS["tpu_vm.sh"][1:]]
    assert run("tpu_vm.sh", *first, "--", "compress", *HARD, env=tools.environment()).returncode == 0
    ((*_, command),) = tools.calls()
    body = 'echo $COMPRESSED_LM_PROCESS_ID of $COMPRESSED_LM_NUM_PROCESSES, "$TPU_PROCESS_BOUNDS"; printf "<%s>" "$@"\n'
    program = tmp_path / "venv" / "bin" / "compressed-lm"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/usr/bin/env bash\n{body}")
    program.chmod(0o755)

    def start(hosts):
        number = "case $* in *agent-worker-number*) echo 2 ;; "
        tools.answer("curl", f"{number}*worker-network-endpoints*) echo -n {hosts} ;; *) exit 1 ;; esac")
        environment = tools.environment(HOME=str(tmp_path))
        words = ["bash", "-c", command.removeprefix("--command=")]
        return subprocess.run(words, env=environment, capture_output=True, text=True)

    arguments = "".join(f"<{word}>" for word in ("compress", *HARD))
    assert start("a:b:10.0.0.1,a:b:10.0.0.2,a:b:10.0.0.3").stdout == f"2 of 3, 1,1,1\n{arguments}"
    assert start("a:b:10.0.0.1").stdout == f"2 of 1, \n{arguments}"
    failed = start("; exit 1")  # no number: nothing is started, since all hosts would do all the work
    assert failed.returncode and failed.stdout == ""


def test_xpk_gives_each_process_of_a_compression_job_its_host(tools):
    """A process of `compress` is limited to the chips of its host, if the slice has several hosts."""
    assert run("gke_xpk.sh", *SCRIPTS["gke_xpk.sh"], "--", "compress", "a b", env=tools.environment()).returncode == 0
    ((*_, command),) = tools.calls()
    tools.answer("compressed-lm", 'echo "$TPU_PROCESS_BOUNDS"; printf "<%s>" "$@"')
    for hosts, expected in (("a,b", "1,1,1\n<compress><a b>"), ("a", "\n<compress><a b>")):
        environment = tools.environment(TPU_WORKER_HOSTNAMES=hosts)
        words = ["sh", "-c", command.removeprefix("--command=")]
        assert subprocess.run(words, env=environment, capture_output=True, text=True).stdout == expected
    slices = run("gke_xpk.sh", *SCRIPTS["gke_xpk.sh"], "--slices", "2", "--", "compress", env=tools.environment())
    assert slices.returncode == 2 and "one slice" in slices.stderr


@pytest.mark.parametrize(
    "machines", [["--cpus", "16"], ["--tpu", "tpu-v5-lite-podslice", "--topology", "4x4", "--chips", "4"]]
)
def test_jobset_numbers_the_pods_of_a_compression_job(machines):
    """A pod of `compress` has the index of its pod, no coordinator, and is replaced alone."""
    jobset = manifest(*SCRIPTS["jobset.sh"], *machines, "--", "compress", "--out", "gs://b/s")
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 2 * 20
    (container,) = job["template"]["spec"]["containers"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert container["args"] == ["compress", "--out", "gs://b/s"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["COMPRESSED_LM_NUM_PROCESSES"] == "2" and "COMPRESSED_LM_PROCESS_ID" in environment
    assert "COMPRESSED_LM_COORDINATOR" not in environment
    assert ("TPU_PROCESS_BOUNDS" in environment) == ("--tpu" in machines)


def test_slurm_lets_tasks_of_a_compression_job_end_alone(tools):
    """A task of `compress` that fails or finishes does not end the others; it has the CPUs of the job."""
    words = ["--array=0-3", "--", "compress", *HARD]
    assert run("slurm.sbatch", *words, env=tools.environment()).returncode == 0
    inside = tools.environment(SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="16")
    assert run("slurm.sbatch", *words[1:], env=inside).returncode == 0
    defaults = ["--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=16"]
    step = ["srun", "--kill-on-bad-exit=0", "--wait=0", "--cpus-per-task=16", "--label", "compressed-lm"]
    assert tools.calls() == [
        ["sbatch", *defaults, "--array=0-3", str(LAUNCH / "slurm.sbatch"), *words[1:]],
        [*step, "compress", *HARD],
    ]


def test_slurm_requeues_one_job_of_an_array(tools):
    """Only the job that was ended is requeued, since one of them has the number of the whole array."""
    tools.answer("srun", "exit 143")
    environment = tools.environment(SLURM_JOB_ID="7", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")
    assert run("slurm.sbatch", "--", "compress", "--out", "s", env=environment).returncode == 143
    assert ["scontrol", "requeue", "7_3"] in tools.calls()


def test_slurm_has_the_functions_of_words():
    """The functions that slurm.sbatch cannot source are the same as in words.sh."""
    words, script = ((LAUNCH / name).read_text() for name in ("words.sh", "slurm.sbatch"))
    for body in re.findall(r"^(?:fail|quote|set_program)\(\) .*?\}$", words, re.MULTILINE | re.DOTALL):
        assert body.replace("${0##*/}", "slurm.sbatch") in script


def test_skypilot_starts_compression_jobs_on_cpus(tools):
    """With --cpus no accelerators are requested, and JAX is installed without them."""
    words = [*SCRIPTS["skypilot.sh"], "--cpus", "32+", "--nodes", "4", "--", "compress", "--out", "gs://b/s"]
    assert run("skypilot.sh", *words, env=tools.environment()).returncode == 0
    (call,) = tools.calls()
    assert {"--gpus=none", "--cpus=32+", "JAX=jax", "PROGRAM=compress --out gs://b/s"} <= set(call)


def test_ray_runs_only_compression_jobs(tools):
    """`ray.sh` passes address and name to `ray job submit`, and refuses `train`."""
    words = ["--address", "http://h:8265", "--name", "c4", "--", "compressed-lm", "compress", "--out", "s"]
    assert run("ray.sh", *words, env=tools.environment()).returncode == 0
    (call,) = tools.calls()
    assert call[3:6] == ["--address=http://h:8265", "--submission-id=c4", "--"]
    assert call[-4:] == ["--ray_address", "auto", "--out", "s"]
    refused = run("ray.sh", "--", "train", "--store", "s", env=tools.environment())
    assert refused.returncode == 2 and "only compress" in refused.stderr


def test_local_goes_on_without_a_failed_process_of_a_compression_job(tmp_path):
    """If one process of `compress` fails, the others finish their own documents; the status is that of the failure."""
    body = '[ "$COMPRESSED_LM_PROCESS_ID" = 1 ] && exit 3\nsleep 1\necho finished "$@"\n'
    result = run("local.sh", "--", "compress", "x", env=os.environ | program(tmp_path, body))
    assert (result.returncode, result.stdout) == (3, "[0] finished compress x\n")


@pytest.mark.slow("starts processes by launch scripts")
def test_local_compresses_with_two_processes(tmp_path):
    """Two real processes of `local.sh` write the store that one process writes, byte for byte."""
    lines = [json.dumps({"text": f"document {i} " * 2000}) for i in range(300)]
    for i in range(3):
        (tmp_path / f"{i}.json").write_text("\n".join(lines[i::3]))
    (tmp_path / "0.json").write_text("\n".join(lines[::3] * 4))  # beyond the size of small files: a unit of its own
    command = ["compress", "--corpus", f"json:{tmp_path}/*.json", "--codec", "bytes", "--workers", "1", "--out"]
    installed = str(pathlib.Path(sys.executable).with_name("compressed-lm"))
    result = run("local.sh", "--", *command, str(tmp_path / "two"), env=os.environ | {"COMPRESSED_LM": installed})
    assert result.returncode == 0, result.stdout
    assert "Process 1 of 2 (COMPRESSED_LM_PROCESS_ID)." in result.stdout
    subprocess.run([installed, *command, str(tmp_path / "one")], check=True, capture_output=True)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and "tokens-00000.ids" in one


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


REAL = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import time
from compressed_lm.distributed import startup
from compressed_lm.training import make_mesh
assert sys.argv[1:] == ["train", "--store", "t", "--distributed=on"], sys.argv
print(startup.initialize("on"))
print(startup.startup_table(make_mesh((4, 2, 1))))
from jax.experimental import multihost_utils
for step in range(100_000):
    multihost_utils.sync_global_devices("step")
    if step == 3:
        print("three steps", flush=True)
    if multihost_utils.reached_preemption_sync_point(step):
        print("saved", flush=True)
        sys.exit(143)
    time.sleep(0.02)
"""


@pytest.mark.slow("starts processes by launch scripts")
def test_local_is_a_pod_of_two_processes(tmp_path):
    """Two real JAX processes x 4 virtual devices connect, compute together, and both save on SIGTERM."""
    env = os.environ | program(tmp_path, REAL, interpreter=sys.executable)
    command = [str(LAUNCH / "local.sh"), "--port", str(free_port()), "--", "compressed-lm", "train", "--store", "t"]
    running = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    lines, ready = [], 0
    for line in running.stdout:
        lines.append(line)
        ready += "three steps" in line
        if ready == 2:
            running.send_signal(signal.SIGTERM)
            ready = 0
    out = "".join(lines)
    assert running.wait(60) == 143, out
    assert "2 processes on 1 host, 8 cpu devices; mesh data 4, fsdp 2, tensor 1" in out
    assert "[0] saved" in out and "[1] saved" in out
