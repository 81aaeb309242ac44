"""Jobs without a cluster: what the file may say, who is at which run, and what a process does that is told to leave.

`test_slurm` has the same on a real SLURM.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import job_faults
import light_runs
import pandas as pd
import pytest
import yaml
from conftest import HELPERS, LIMIT_SECONDS, ROOT
from hypothesis import given
from hypothesis import strategies as some
from slurm_cluster import lines_until, wait_for

from replaylab.spec import MachineSpec
from replaylab.store import ReferenceSpec, Store
from replaylab.sweeps import cluster, jobs, monitor, sweep
from replaylab.sweeps.cluster import ClusterSpec, Job
from replaylab.sweeps.presets import grid
from replaylab.training import preemption
from replaylab.util.distributed import Rank

SPEC = grid("smoke", [0.5])[0]


# -------------------------------------------------------------------------------------------------------------- the file
def read(tmp_path: Path, text: str, of: str = "slurm") -> ClusterSpec:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    return ClusterSpec.read(path, of)


def test_a_file_gives_what_it_says_and_the_defaults_besides(tmp_path):
    found = read(tmp_path, "partition: gpu\nnodes: 2\nmemory_gb: 64\nslurm_constraint: a100\n")
    assert found == ClusterSpec(partition="gpu", nodes=2, memory_gb=64, slurm={"slurm_constraint": "a100"})
    assert ClusterSpec.read("", "slurm") == ClusterSpec.read("", "inline") == read(tmp_path, "") == ClusterSpec()


@pytest.mark.parametrize(
    ("text", "of", "message"),
    [
        ("partitoin: gpu", "slurm", r"lab\.yaml: unknown key 'partitoin' \(did you mean 'partition'\?\); valid.*qos"),
        ("slurm_constrain: a100", "slurm", "did you mean 'slurm_constraint'"),
        ("slurm_time: 3", "slurm", "unknown key 'slurm_time'.*time_minutes"),
        ("partition: gpu", "local", "cluster 'local' has no use for 'partition'.*runs_at_once"),
        ("nodes: 1", "inline", "cluster is 'inline': name local or slurm"),
        ("nodes: two", "slurm", r"nodes is 'two'; it must be a number \(int\)"),
        ("nodes: 0", "slurm", "nodes is 0; it must be at least 1"),
        ("gpus_per_node: -1", "slurm", "gpus_per_node is -1"),
        ("runs_at_once: true", "slurm", "runs_at_once is True"),
        ("partition: 7", "slurm", "partition is 7; it must be text"),
        ("- nodes", "slurm", "must hold keys with values"),
        ("a: [", "slurm", r"lab\.yaml is no whole YAML file"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(text, of, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text, of)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        sweep.run("smoke", cluster="slurm", cluster_file="nowhere.yaml")


def test_the_page_about_clusters_lists_every_key_with_its_default(tmp_path):
    page = (ROOT / "book" / "clusters.md").read_text()
    listed = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    plain = {key: value for key, value in listed.items() if not key.startswith("slurm_")}
    assert plain == {each.name: each.default for each in fields(ClusterSpec) if each.name != "slurm"}
    assert read(tmp_path, yaml.safe_dump(listed)).slurm["slurm_constraint"] == "a100"


def test_what_the_file_says_is_what_sbatch_is_told(tmp_path, monkeypatch):
    """With a program for `sbatch`: submitit writes the script, and this one keeps it."""
    programs(tmp_path, monkeypatch, sbatch='cp "$1" $HERE/script; echo Submitted batch job 7', srun="true", squeue="true")
    monkeypatch.setattr(jobs, "is_prepared", lambda *_: True)
    settings = ClusterSpec(
        "gpu", "lab", "short", nodes=2, tasks_per_node=4, gpus_per_node=4, cpus_per_task=3, time_minutes=30, memory_gb=8,
        runs_at_once=5, slurm={"slurm_constraint": "a100", "slurm_srun_args": ["--mpi=none"]},
    )  # fmt: skip
    specs = grid("smoke")
    jobs.submit(specs, tmp_path / "store", MachineSpec(), "slurm", settings)
    script = (tmp_path / "script").read_text()
    for line in (
        "partition=gpu", "account=lab", "qos=short", "nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=3",
        "time=30", "mem=8GB", "array=0-1%2", "constraint=a100", "signal=USR2@90",
    ):  # fmt: skip
        assert f"#SBATCH --{line}\n" in script
    assert " --cpus-per-task=3 --mpi=none " in script
    assert [Job.read(spec, tmp_path / "store").id for spec in specs] == ["7_0", "7_1"]


def programs(folder: Path, monkeypatch, **scripts: str) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    for name, script in scripts.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/bash\nHERE={folder}\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


# ------------------------------------------------------------------------------------------------------ who is at a run
def test_while_a_job_is_queued_nobody_submits_another(tmp_path, monkeypatch, capsys):
    programs(tmp_path, monkeypatch, squeue="echo '12_1|PENDING|Resources'", sbatch="exit 1", srun="true")
    Job("slurm", "12_1", "", "2026-01-01T00:00:00+00:00").write(SPEC, tmp_path)
    jobs.submit([SPEC], tmp_path, MachineSpec(), "slurm", ClusterSpec())
    assert "1 runs have a job already" in capsys.readouterr().err


def test_a_store_whose_path_slurm_would_change_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"store .*/run %j: jobs cannot be kept in a path with '%'"):
        jobs.submit([], tmp_path / "run %j", MachineSpec(), "slurm", ClusterSpec())
    assert not (tmp_path / "run %j").exists()


def test_where_slurm_does_not_answer_nothing_is_submitted(tmp_path, monkeypatch):
    programs(tmp_path, monkeypatch, squeue="echo 'Unable to contact slurm controller' >&2; exit 1", sbatch="exit 1")
    Job("slurm", "12_1", "", "2026-01-01T00:00:00+00:00").write(SPEC, tmp_path)
    with pytest.raises(OSError, match="SLURM does not answer"):
        jobs.submit([SPEC], tmp_path, MachineSpec(), "slurm", ClusterSpec())


def test_the_queue_is_asked_once_for_all_and_old_jobs_are_no_error(tmp_path, monkeypatch):
    programs(
        tmp_path,
        monkeypatch,
        squeue='echo "$@" >> $HERE/asked; printf "5|RUNNING|None\\n6_0|PENDING|A|B\\n9|RUNNING|None\\n"',
    )
    assert cluster.slurm_queue(["5", "6_0", "6_1"]) == {"5": ("RUNNING", "None"), "6_0": ("PENDING", "A|B")}
    assert (tmp_path / "asked").read_text().count("--jobs=5,6") == 1
    programs(tmp_path, monkeypatch, squeue="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert cluster.slurm_queue(["5"]) == {}


def test_a_process_number_that_became_anothers_is_no_job():
    assert not Job("local", str(os.getpid()), socket.gethostname(), "").is_running_here()
    assert not Job("local", str(os.getpid()), "elsewhere", "").is_running_here()


def test_a_claim_keeps_others_out_and_dies_with_its_owner(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from replaylab.sweeps import jobs\n"
        "from replaylab.util.distributed import Rank\n"
        "from replaylab.sweeps.presets import grid\n"
        "with jobs.claimed(grid('smoke', [0.5])[0], Path(sys.argv[1]), Rank()) as mine:\n"
        "    print(mine, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None and owner.stdout.readline() == "True\n"
    with jobs.claimed(SPEC, tmp_path, Rank(), wait=False) as mine:
        assert not mine
    owner.kill()
    owner.wait()
    with jobs.claimed(SPEC, tmp_path, Rank(), wait=False) as mine:
        assert mine


def test_two_sweeps_in_two_processes_train_each_run_once(swept, tmp_path):
    """Stand-ins for training note who trained what, and take their time."""
    for shared in ("domains", "latents", ReferenceSpec.of(SPEC).run_id):  # or each of the two would measure the references
        (tmp_path / shared).symlink_to(swept.store / shared)
    code = (
        "import os, sys, time; from pathlib import Path; \n"
        "from replaylab.training import fine_tuning as runs; from replaylab.sweeps import sweep\n"
        "store = Path(sys.argv[1])\n"
        "def train_one(plain, home, machine):\n"
        "    from replaylab.spec import RunSpec; name = RunSpec.from_dict(plain).run_id\n"
        "    (store / 'trained').open('a').write(f'{name}\\n'); time.sleep(1)\n"
        f"    os.symlink({str(swept.store)!r} + '/' + name, store / name)\n"
        "runs.train_one = train_one; sweep.estimate = lambda *_: ''\n"
        "table = sweep.run('smoke', store=store); print(table.runs['state'].tolist(), table.runs['trained_now'].sum())"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [each.communicate(timeout=LIMIT_SECONDS)[0] for each in both]
    assert all("['done', 'done']" in each for each in said), said
    assert sum(int(each.split()[-1]) for each in said) == 2
    assert sorted((tmp_path / "trained").read_text().split()) == sorted(swept.runs["run"])


# -------------------------------------------------------------------------------------------------------------- the view
def a_log(store: Path, text: str) -> None:
    (store / SPEC.run_id).mkdir(exist_ok=True)
    (store / SPEC.run_id / "log.jsonl").write_text(text)


@given(some.lists(some.integers(1, 4), min_size=1, max_size=30), some.text('{}"s:,1', max_size=8))
def test_how_far_a_run_is_says_its_last_whole_line(steps, begun):
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        a_log(Path(home), "".join(f'{{"step": {step}, "loss": 0.25}}\n' for step in steps) + begun)
        assert monitor.progress(SPEC, Path(home)) == f"step {steps[-1]}/4, loss 0.25"
        assert monitor.progress(SPEC, Path(home), "2999-01-01T00:00:00+00:00") == ""


def test_before_the_first_line_nothing_is_said_of_it(tmp_path):
    assert monitor.progress(SPEC, tmp_path) == ""
    a_log(tmp_path, '{"step": 1')
    assert monitor.progress(SPEC, tmp_path) == ""


def test_a_job_that_is_gone_without_a_word_is_a_failure_with_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(monitor, "GRACE_S", 0.0)
    Job("local", "999999999", socket.gethostname(), "2026-01-01T00:00:00+00:00").write(SPEC, tmp_path)
    failed = monitor.watch([SPEC], tmp_path, "come back")
    assert failed[SPEC.run_id] == (
        f"process 999999999 on {socket.gethostname()} ended before it recorded a reason "
        f"(log: {tmp_path}/jobs/999999999_0_log.err)"
    )


def test_ctrl_c_leaves_jobs_and_says_how_to_come_back(tmp_path, monkeypatch, capsys):
    programs(tmp_path, monkeypatch, squeue="echo '12|RUNNING|None'")
    Job("slurm", "12", "", "2026-01-01T00:00:00+00:00").write(SPEC, tmp_path)
    a_log(tmp_path, '{"step": 3, "loss": 0.5}\n')

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(monitor, "time", SimpleNamespace(monotonic=time.monotonic, sleep=interrupt))
    with pytest.raises(KeyboardInterrupt):
        monitor.watch([SPEC], tmp_path, "do this")
    said = capsys.readouterr().err
    assert f"{SPEC.title}: running, step 3/4, loss 0.5\n" in said
    assert "1 jobs continue without this process" in said and "do this" in said and "scancel 12" in said


def test_a_dry_run_trains_nothing_and_writes_nothing(swept, tmp_path, capsys):
    before = sorted(swept.store.rglob("*"))
    table = sweep.run("smoke", [0, 0.5, 1], cluster="slurm", store=swept.store, dry_run=True)
    assert table.runs["state"].tolist() == ["done", "done", "missing"] and sorted(swept.store.rglob("*")) == before
    said = capsys.readouterr().err
    assert "2 of 3 runs are in" in said and "1 would be trained" in said and "from the 2 that are done" in said
    assert "core hours" in said


# ---------------------------------------------------------------------------------------------------------- preemption
PREEMPTED = """
import os, signal, sys, time
from replaylab.training import preemption as p
p.install_handlers(lambda: sys.exit(7), [signal.SIGTERM], [signal.SIGUSR2])
me = os.getpid()
"""


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("os.kill(me, signal.SIGUSR2); print('stayed')", 7, ""),
        ("os.kill(me, signal.SIGTERM); print(p.requested()); p.mark_saved(); print(p.requested())", 0, "1 0"),
        ("with p.deferred():\n os.kill(me, signal.SIGUSR2); p.mark_saved(); print(p.requested())\nprint('s')", 7, "2"),
        ("with p.deferred():\n os.kill(me, signal.SIGUSR2)\n with p.immediate(): print('stayed')", 7, ""),
        ("with p.deferred():\n with p.immediate(): os.kill(me, signal.SIGUSR2); print('stayed')", 7, ""),
        ("with p.deferred():\n with p.immediate(): pass\n os.kill(me, signal.SIGUSR2); print('deferred')", 7, "deferred"),
        ("with p.deferred(): print('nothing')", 0, "nothing"),
        ("import atexit; atexit.register(os.kill, me, signal.SIGUSR2); os.kill(me, signal.SIGUSR2)", 7, ""),
    ],
)  # fmt: skip
def test_whoever_is_told_leaves_at_once_but_in_the_middle_of_something_after_it(code, status, said):
    done = subprocess.run([sys.executable, "-c", PREEMPTED + code], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert done.stdout.split() == said.split()


def test_where_nobody_listens_training_goes_on_as_ever():
    assert preemption.requested() == 0
    with preemption.deferred(), preemption.immediate():
        pass


# ---------------------------------------------------------------------------------------------------------- local jobs
LIGHT = light_runs.grid("smoke", [0.5])[0]


def a_store(folder: Path, light: Path, *but: str) -> Path:
    """All is prepared but for what is named, and no run is there."""
    for shared in ("domains", "latents", *(path.name for path in light.glob("references-*"))):
        if shared not in but:
            (folder / shared).symlink_to(light / shared)
    return folder


@pytest.mark.parametrize(
    ("settings", "threads", "free_gb", "expected"),
    [
        (ClusterSpec(), 1, 100.0, 8), (ClusterSpec(), 2, 100.0, 4), (ClusterSpec(), 16, 100.0, 1),
        (ClusterSpec(cpus_per_task=4), 1, 100.0, 2), (ClusterSpec(tasks_per_node=2), 1, 100.0, 4),
        (ClusterSpec(), 0, 100.0, 1),  # a run takes all cores
        (ClusterSpec(runs_at_once=5), 0, 1.0, 5),
        (ClusterSpec(), 1, 7.0, 2), (ClusterSpec(), 1, 0.5, 1),
    ],
)  # fmt: skip
def test_as_many_local_jobs_at_once_as_cores_and_memory_allow(settings, threads, free_gb, expected, monkeypatch):
    monkeypatch.setattr(jobs, "usable_cores", lambda: 8)
    monkeypatch.setattr(jobs, "memory_gb", lambda: (128.0, free_gb))
    assert jobs.runs_at_once(settings, MachineSpec(threads=threads)) == expected
    monkeypatch.setattr(jobs, "memory_gb", lambda: None)
    assert jobs.runs_at_once(ClusterSpec(), MachineSpec(threads=1)) == 8
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert jobs.runs_at_once(settings, MachineSpec(threads=threads)) == (settings.runs_at_once or 1)


@pytest.mark.slow
def test_local_jobs_outlive_ctrl_c_and_are_found_again(light, tmp_path):
    store = a_store(tmp_path, light)
    words = [sys.executable, str(HELPERS / "light_runs.py"), *["sweep", "--preset", "smoke", "--cluster", "local"]]
    words += ["--store", str(store)]
    left = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert left.stderr is not None
    lines_until("queued", left.stderr)
    os.killpg(left.pid, signal.SIGINT)  # as a terminal does: to the jobs too
    said = lines_until("replaylab: stopped", left.stderr)  # not to its end: the jobs hold it open
    left.wait(60)
    files = [Job.file(spec, store) for spec in light_runs.grid("smoke")]
    ids = [json.loads(file.read_text())["id"] for file in files]
    assert left.returncode == 130 and f"kill {' '.join(ids)}" in said, said
    back = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert back.returncode == 0 and "2 runs have a job already" in back.stderr, back.stderr
    assert [json.loads(file.read_text())["id"] for file in files] == ids
    assert all((store / spec.run_id / "summary.json").is_file() for spec in light_runs.grid("smoke"))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["encode", "evaluation"])
def test_told_to_leave_outside_of_the_steps_a_job_does_and_is_started_again(where, light, tmp_path, monkeypatch):
    store = a_store(tmp_path, light, "latents")
    gate = store / "gate"
    gate.touch()
    monkeypatch.setattr(jobs, "Task", job_faults.Task)
    monkeypatch.setenv("PYTHONPATH", f"{HELPERS}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv(job_faults.FAULT, json.dumps({"kind": "hold", "where": where, "gate": str(gate)}))
    jobs.submit([LIGHT], store, MachineSpec(), "local", ClusterSpec())
    job = Job.read(LIGHT, store)
    wait_for("the fault", Path(f"{gate}-reached").exists)
    (task,) = (int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if parent_of(path) == int(job.id))
    os.kill(task, signal.SIGUSR2)
    out = job.log(store).with_suffix(".out")
    wait_for("the new start", lambda: out.read_text().count("Starting with") == 2)
    gate.unlink()
    failed = monitor.watch([LIGHT], store, "")
    assert not failed
    mine, whole = (Store(folder).rows([LIGHT.run_id]) for folder in (store, light))
    assert len(whole)
    pd.testing.assert_frame_equal(mine, whole)


def parent_of(stat: Path) -> int:
    try:
        return int(stat.read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0
