"""The sweep on a real SLURM, through its bad days: whatever happens to a run, it ends in the bits of one left alone.

One cluster of three nodes on this host for all tests (`slurm_cluster`). Runs are held at a step (`job_faults`), so that
what happens to them happens there, however slow the machine is. What every test asks of SLURM it asks again and again,
until a generous deadline.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import job_faults
import nbformat
import pandas as pd
import pytest
import yaml
from conftest import HELPERS, LIMIT_SECONDS, ROOT, require_or_skip
from light_runs import grid
from slurm_cluster import Cluster, lines_until, missing, wait_for

from replaylab.spec import MachineSpec, RunSpec
from replaylab.store import ReferenceSpec, Store, claim
from replaylab.sweeps import jobs as jobs_module
from replaylab.sweeps import sweep
from replaylab.sweeps.cluster import ClusterSpec, Job

pytestmark = pytest.mark.slow
LIGHT = [sys.executable, str(HELPERS / "light_runs.py")]  # python -m replaylab
HELD_AT = 3  # no step to measure at, nor one with a checkpoint of its own


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    require_or_skip(not missing(), f"SLURM: {missing()}")
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", f"{HELPERS}:{os.environ.get('PYTHONPATH', '')}")
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="module")
def left_alone(slurm, light):
    """A store with the light smoke sweep, trained by one process that nothing happened to."""
    return light


def cli(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([*LIGHT, *words], capture_output=True, text=True, timeout=LIMIT_SECONDS, **options)


def spec() -> RunSpec:
    return grid("smoke", [0.5])[0]


def a_store(folder: Path, left_alone: Path, *but: str) -> Path:
    """A store in which all is prepared and no run is there."""
    folder.mkdir(exist_ok=True)
    for shared in ("domains", "latents", ReferenceSpec.of(spec()).run_id):
        if shared not in but:
            (folder / shared).symlink_to(left_alone / shared)
    return folder


def a_file(path: Path, **settings) -> Path:
    path.write_text(yaml.safe_dump({"partition": "main", "cpus_per_task": 1, "time_minutes": 60, **settings}))
    return path


def submitted(store: Path, kind: str, *, machine: MachineSpec = MachineSpec(), **settings) -> Job:
    """The job of a run that stops at HELD_AT until the store's file `gate` is removed."""
    gate = store / "gate"
    gate.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs_module, "Task", job_faults.Task)
        fault = {"kind": kind, "where": "step", "step": HELD_AT, "gate": str(gate)}
        patch.setenv(job_faults.FAULT, json.dumps(fault))
        given = ClusterSpec.read(a_file(store / "cluster.yaml", **settings), "slurm")
        jobs_module.submit([spec()], store, machine, "slurm", given)
    job = Job.read(spec(), store)
    assert job is not None
    return job


def wait_until_held(store: Path) -> None:
    log = store / spec().run_id / "log.jsonl"
    wait_for(f"step {HELD_AT} in {log}", lambda: log.is_file() and len(log.read_text().splitlines()) == HELD_AT)


def picked_up(store: Path, machine: MachineSpec = MachineSpec()) -> sweep.Table:
    """What the sweep makes of the store, once every job has come to an end."""
    return sweep.run_specs("smoke", [spec()], store, "slurm", machine, store / "cluster.yaml", False, "")


def assert_same(run: RunSpec, one: Path, other: Path) -> None:
    """Weights, rows, the log but for its clock, and sample clips, bit for bit."""
    folders = [store / run.run_id for store in (one, other)]
    weights = [(folder / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    pd.testing.assert_frame_equal(*(pd.read_parquet(folder / "rows.parquet") for folder in folders), check_exact=True)
    logs = [[json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in folders]
    assert len(logs[0]) == run.training.steps
    assert [{**line, "seconds": 0} for line in logs[0]] == [{**line, "seconds": 0} for line in logs[1]]
    clips = [
        {path.relative_to(folder): path.read_bytes() for path in (folder / "samples").rglob("*") if path.is_file()}
        for folder in folders
    ]
    assert clips[0] and clips[0] == clips[1]


def sweep_words(file: Path, store: Path) -> list[str]:
    """What comes after `python -m replaylab`."""
    return [*["sweep", "--preset", "smoke", "--cluster", "slurm", "--cluster-file"], str(file), "--store", str(store)]


def assert_done(table: sweep.Table) -> None:
    assert (table.runs["state"] == "done").all(), table.runs["reason"].tolist()


# ---------------------------------------------------------------------------------------------------- one job, one fault
HELD = {  # the node of each run to which something happens, so that it happens to no other
    "time limit": {"slurm_nodelist": "n2", "time_minutes": 4},
    "preemption": {"slurm_nodelist": "n1"},
    "requeue": {"slurm_nodelist": "n2"},
    "scancel": {"slurm_nodelist": "n2"},
    "node failure": {"slurm_nodelist": "n3"},
}  # fmt: skip


@pytest.fixture(scope="module")
def held(slurm, left_alone, tmp_path_factory):
    """Fault -> (a store, its job), all at work at once: starting them takes the most time, and a time limit as long."""
    home = tmp_path_factory.mktemp("held")
    stores = {name: a_store(home / name.replace(" ", "-"), left_alone) for name in HELD}
    return {name: (store, submitted(store, "hold", **HELD[name])) for name, store in stores.items()}


def checkpoints(store: Path) -> list[str]:
    return sorted(path.name for path in (store / spec().run_id / "checkpoints").glob("step-*"))


def log_of(job: Job, store: Path) -> str:
    return job.log(store).with_suffix(".out").read_text()


def test_a_higher_partition_preempts_and_the_run_saves_first(slurm, held, left_alone):
    store, job = held["preemption"]
    wait_until_held(store)
    slurm.run("sbatch", "--partition=high", "--nodelist=n1", "--exclusive", f"--output={store}/higher", "--wrap=sleep 2")
    wait_for("the requeue", lambda: slurm.restarts(job.id) >= 1)
    assert f"step-{HELD_AT:06d}" in checkpoints(store)
    assert "this job is preempted" in log_of(job, store)
    (store / "gate").unlink()
    assert_done(picked_up(store))
    ended = ["REQUEUED", "COMPLETED"]  # by its own wish
    slurm.wait_for_history(job.id, ended)
    assert_same(spec(), left_alone, store)


def test_a_requeue_from_outside_is_a_surprise_and_no_loss(slurm, held, left_alone):
    store, job = held["requeue"]
    wait_until_held(store)
    slurm.run("scontrol", "requeue", job.id)
    wait_for("the requeue", lambda: slurm.restarts(job.id) >= 1)
    (store / "gate").unlink()
    assert_done(picked_up(store))
    assert Job.read(spec(), store) == job and "this job is" not in log_of(job, store)
    assert_same(spec(), left_alone, store)


def test_a_cancelled_run_is_a_row_and_goes_on_when_it_is_asked_for_again(slurm, held, left_alone):
    store, job = held["scancel"]
    wait_until_held(store)
    slurm.run("scancel", job.id)
    table = picked_up_once_gone(slurm, store, job)
    assert table.runs["state"].tolist() == ["failed"]
    assert f"job {job.id} ended as CANCELLED" in table.runs["reason"][0] and str(job.log(store)) in table.runs["reason"][0]
    assert f"step-{HELD_AT:06d}" in checkpoints(store)  # SIGTERM comes some seconds before the end
    (store / "gate").unlink()
    assert_done(picked_up(store))
    assert_same(spec(), left_alone, store)


def picked_up_once_gone(slurm, store: Path, job: Job) -> sweep.Table:
    """The jobs are looked at, and none is submitted: the one there is has just been cancelled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs_module, "submit", lambda *_: None)
        return picked_up(store)


def test_a_node_that_dies_loses_nothing_that_was_saved(slurm, held, left_alone):
    store, job = held["node failure"]
    wait_until_held(store)
    slurm.kill_node("n3")
    wait_for("SLURM to see it", lambda: slurm.state_of("n3").startswith("down"))
    (store / "gate").unlink()
    slurm.start_node("n3")
    assert_done(picked_up(store))
    slurm.wait_for_history(job.id, ["NODE_FAIL", "COMPLETED"])
    assert_same(spec(), left_alone, store)


def test_at_the_time_limit_a_run_saves_and_is_started_again(slurm, held, left_alone):
    store, job = held["time limit"]
    wait_for("the requeue", lambda: slurm.restarts(job.id) >= 1)
    assert f"step-{HELD_AT:06d}" in checkpoints(store)
    assert "this job is timed-out" in log_of(job, store)
    (store / "gate").unlink()
    assert_done(picked_up(store))
    assert_same(spec(), left_alone, store)


def test_a_run_that_raises_is_a_row_with_its_reason_and_its_log(slurm, left_alone, tmp_path):
    store = a_store(tmp_path / "raises", left_alone)
    job = submitted(store, "raise")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs_module, "submit", lambda *_: None)
        table = picked_up(store)
    assert table.runs["state"].tolist() == ["failed"]
    assert table.runs["reason"][0] == f"FloatingPointError: the loss is nan (log: {job.log(store)})"
    assert "the loss is nan" in job.log(store).read_text()
    (store / "gate").unlink()
    assert_done(picked_up(store))
    assert_same(spec(), left_alone, store)


def test_a_full_store_is_said_and_with_room_again_the_run_goes_on(slurm, left_alone, tmp_path):
    store = tmp_path / "full"
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(store)], check=True)
    try:
        a_store(store, left_alone)
        a_file(store / "cluster.yaml")
        table = picked_up(store)
        assert table.runs["state"].tolist() == ["failed"]
        assert "No space left on device" in table.runs["reason"][0] or f"{store} is full" in table.runs["reason"][0]
        assert checkpoints(store) == ["step-000002"]
        subprocess.run(["mount", "-o", "remount,size=200m", str(store)], check=True)
        assert_done(picked_up(store))
        assert_same(spec(), left_alone, store)
    finally:
        subprocess.run(["umount", "--lazy", str(store)], check=True)


# -------------------------------------------------------------------------------------------------------- several jobs
def test_an_array_is_left_by_its_sweep_and_found_again(slurm, left_alone, tmp_path):
    store = a_store(tmp_path / "array", left_alone, ReferenceSpec.of(spec()).run_id)  # floors are for a job to make
    file = a_file(tmp_path / "cluster.yaml", account="lab", qos="replay", gpus_per_node=1, memory_gb=1, runs_at_once=2,
                  slurm_comment="tests")  # fmt: skip
    words = sweep_words(file, store)
    planned = cli(*words, "--dry-run")
    assert planned.returncode == 0 and planned.stdout.count("missing") == 2
    assert "2 would be trained. Estimated:" in planned.stderr and "GPU hours" in planned.stderr
    assert not (store / "jobs").exists()
    left = subprocess.Popen([*LIGHT, *words], stderr=subprocess.PIPE, text=True)
    jobs = [Job.file(run, store) for run in grid("smoke")]
    assert left.stderr is not None
    before = lines_until("queued", left.stderr)
    left.send_signal(signal.SIGINT)
    said = before + left.communicate(timeout=LIMIT_SECONDS)[1]
    ids = [json.loads(file.read_text())["id"] for file in jobs]
    assert left.returncode == 130 and f"scancel {' '.join(ids)}" in said and "2 jobs continue without this process" in said
    about = slurm.run("scontrol", "show", "job", ids[0])
    for wanted in ("Account=lab", "QOS=replay", "gpu:1", "Comment=tests", "Partition=main", "ArrayTaskThrottle=2"):
        assert wanted in about, about
    command = said.split("`")[1]
    back = cli(*command.split()[3:])
    assert back.returncode == 0 and "2 runs have a job already" in back.stderr, back.stderr
    assert back.stdout.count(" done ") == 2
    assert [json.loads(file.read_text())["id"] for file in jobs] == ids
    for run in grid("smoke"):
        assert_same(run, left_alone, store)


def test_two_sweeps_at_once_train_each_run_once(slurm, left_alone, tmp_path):
    store = a_store(tmp_path / "two", left_alone)
    file = a_file(tmp_path / "cluster.yaml")
    words = sweep_words(file, store)
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([*LIGHT, *words], **piped) for _ in range(2)]
    said = [each.communicate(timeout=LIMIT_SECONDS) for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert sorted("submitted 2 jobs" in err for _, err in said) == [False, True]
    assert len(list((store / "jobs").glob("*_result.pkl"))) == 2
    for run in grid("smoke"):
        assert_same(run, left_alone, store)


@pytest.mark.parametrize(("sharded", "tasks"), [(False, 2), (True, 1)], ids=["DDP, two tasks each", "FSDP2, a task each"])
def test_two_nodes_survive_a_requeue(sharded, tasks, slurm, left_alone, tmp_path):
    whole = a_store(tmp_path / "whole", left_alone)
    way = ["--sharded"] if sharded else []
    alone = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(2 * tasks),
         LIGHT[1], "train", "--preset", "smoke", "--replay-fraction", "0.5", "--store", str(whole), *way],
        capture_output=True, text=True, timeout=LIMIT_SECONDS,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    store, machine = a_store(tmp_path / "nodes", left_alone), replace(MachineSpec(), sharded=sharded)
    job = submitted(store, "hold", machine=machine, nodes=2, tasks_per_node=tasks)
    wait_until_held(store)
    assert "NumNodes=2" in slurm.run("scontrol", "show", "job", job.id)
    slurm.run("scancel", "--signal=USR2", job.id)
    wait_for("the requeue", lambda: slurm.restarts(job.id) >= 1)
    assert f"step-{HELD_AT:06d}" in checkpoints(store)
    (store / "gate").unlink()
    assert_done(picked_up(store, machine))
    assert Store(store).summary(spec().run_id)["execution"]["ranks"] == 2 * tasks
    assert_same(spec(), whole, store)


def test_the_notebook_dispatches_waits_and_draws_what_is_there(slurm, swept, tmp_path):
    """With runs that are measured on all that the page shows."""
    doomed, good = swept.specs
    store = tmp_path / "notebook"
    store.mkdir()
    for shared in ("domains", "latents", ReferenceSpec.of(doomed).run_id):
        (store / shared).symlink_to(swept.store / shared)
    folder = claim(doomed, store)
    (folder / "checkpoints" / "step-000001").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"ranks": 64}))  # begun by 64 processes: it refuses to go on
    output = tmp_path / "out.ipynb"
    subprocess.run(
        ["papermill", "book/03_replay_sweep.ipynb", str(output), "-p", "preset", "smoke", "-p", "cluster", "slurm",
         "-p", "store", str(store), "--no-progress-bar"],
        cwd=ROOT, check=True, timeout=LIMIT_SECONDS, capture_output=True,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    text = json.dumps(nbformat.read(output, as_version=4)["cells"])
    assert "ranks 64 then, 1 now" in text and "_log.err" in text
    assert "1 of them finished, the others missing or failed" in text
    assert "driving, near replay 50 %, seed 0: running" in text
    assert_same(good, swept.store, store)
