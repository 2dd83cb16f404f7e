"""Sweeps on real Ray clusters, all of this machine and bound to 127.0.0.1."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

# Read when Ray is imported: binds all of it to 127.0.0.1.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from scalelab.architecture import architecture_for
from scalelab.errors import InterruptedSweepError, ScalelabError, UsageError
from scalelab.records import read
from scalelab.records.files import CHECKPOINTS, read_curve, read_record
from scalelab.records.store import curve_path, record_path
from scalelab.sweep import ray_cluster, ray_executor, workers
from scalelab.sweep.task_runner import LOCKS
from scalelab.sweep.tasks import Job, make_tasks
from scalelab.train.corpus import load_corpus
from scalelab.train.recipe import Recipe, RunConfig, whole_steps
from scalelab.train.tokens import tokenise

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Ray makes clusters of one machine on Linux alone"),
]

# What two processes that train the same run do not agree on.
MEASURED = {"train_seconds", "tokens_per_s", "mfu", "peak_memory_bytes", "created_utc", "code"}
NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster():
    """One node for one run, whose processes have a cache of their own."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short, for names of sockets
    before = dict(os.environ)
    os.environ["SCALELAB_CACHE"] = str(Path(folder) / "cache")
    os.environ["RAY_TMPDIR"] = folder  # where Ray writes the address of its latest cluster, in a folder ray
    (Path(folder) / "ray").mkdir()
    started = Cluster(initialize_head=True, head_node_args=NODE | {"temp_dir": folder})
    os.environ.clear()
    os.environ.update(before)
    yield started
    started.shutdown()
    shutil.rmtree(folder)


@pytest.fixture
def second_node(cluster):
    node = cluster.add_node(**NODE)
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)


@pytest.fixture(scope="module")
def data(text_folder):
    return tokenise(load_corpus(str(text_folder)), 300)


def configs(data, schedule="wsd", D=(21e3, 41e3), seeds=(0,)):
    recipe = Recipe(val_tokens=4096, warmup_tokens=5120, dtype="fp32", schedule=schedule)
    shape = architecture_for(12e3, data.vocab_size, prefix_tokens=4).with_streams(2)
    return [RunConfig(shape, whole_steps(d, recipe), seed, data.text, recipe) for d in D for seed in seeds]


class Heard(list):
    """All events of a sweep."""

    def keys(self, kind):
        return [event.task.key for event in self if event.kind == kind]


def undisturbed(runs, data, out):
    heard = Heard()
    assert workers.run_all(make_tasks(runs), Job(data, out), ["cpu"] * 2, heard.append) == []
    return out


@pytest.fixture(scope="module")
def branched(data, tmp_path_factory):
    """Records of two runs with a common beginning, trained by local workers."""
    return undisturbed(configs(data), data, tmp_path_factory.mktemp("local"))


def assert_same(out, reference, runs):
    for config in runs:
        records = [read_record(record_path(folder, config.key)) for folder in (out, reference)]
        for name in records[0].keys() - MEASURED:
            first, second = (record[name] for record in records)
            assert str(first) == str(second), name
        assert read_curve(curve_path(out, config.key)).equals(read_curve(curve_path(reference, config.key)))
    assert len(read(out).records) == len(runs)


def test_a_cluster_trains_the_same_as_local_workers(cluster, second_node, data, branched, tmp_path):
    runs, heard = configs(data), Heard()
    job = Job(data, tmp_path, peak_flops=1e9)
    before = signal.getsignal(signal.SIGTERM)
    assert ray_executor.run_all(make_tasks(runs), job, heard.append, cluster.address) == []
    assert signal.getsignal(signal.SIGTERM) is before  # and not Ray's
    assert_same(tmp_path, branched, runs)
    shared, *rest = heard.keys("done")
    assert shared.startswith("shared-")
    assert set(rest) == {config.key for config in runs}
    assert sorted(heard.keys("started")) == sorted(heard.keys("done"))
    assert not list(tmp_path.glob("**/seen-*"))


def test_a_node_is_killed_in_mid_sweep(cluster, second_node, data, tmp_path):
    """Two runs at once, one a node: the one on the node that dies goes on on the other."""
    runs = configs(data, "linear", D=(82e3,), seeds=(0, 1))
    reference = undisturbed(runs, data, tmp_path / "local")
    heard, there, alive_until = Heard(), set(), []

    def on_event(event):
        heard.append(event)
        if event.kind == "started" and event.values["node_id"] == second_node.node_id:
            there.add(event.task.key)
        if event.kind == "progress" and event.task.key in there and not alive_until:
            alive_until.append(event.values["step"])
            cluster.remove_node(second_node, allow_graceful=False)

    job = Job(data, tmp_path / "ray", save_every_s=0.0)
    assert ray_executor.run_all(make_tasks(runs), job, on_event, cluster.address) == []
    assert heard.keys("lost") == list(there)
    assert sorted(heard.keys("done")) == sorted(config.key for config in runs)
    assert_same(tmp_path / "ray", reference, runs)
    # It did not begin anew.
    kinds = [event.kind for event in heard]
    after = [e for e in heard[kinds.index("lost") :] if e.kind == "progress" and e.task.key in there]
    assert all(event.values["step"] >= alive_until[0] for event in after)


def test_results_come_home_where_the_folder_is_not_shared(cluster, data, branched, tmp_path, monkeypatch):
    """The folders' names lead elsewhere in the processes of the node, whose working directory is another."""
    shutil.copytree(data.folder, tmp_path / "tokens" / data.folder.name)
    monkeypatch.chdir(tmp_path)
    out = Path("/proc/self/cwd/out")
    named_here = replace(data, folder=Path("/proc/self/cwd/tokens") / data.folder.name)
    runs, heard = configs(data), Heard()
    job = Job(named_here, out, save_models=True)
    assert ray_executor.run_all(make_tasks(runs), job, heard.append, cluster.address) == []
    assert_same(tmp_path / "out", branched, runs)
    for config in runs:
        assert (tmp_path / "out" / "models" / config.key / "model.safetensors").is_file()
    # The shared beginning came home too, and was handed out again: the runs did not train it themselves.
    assert list((tmp_path / "out" / CHECKPOINTS).glob("*/*/state.json"))
    first = {task.key: task.first for task in make_tasks(runs)}
    assert all(event.values["step"] > first[event.task.key] for event in heard if event.kind == "progress")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"runs", "curves", "models", CHECKPOINTS, LOCKS}


@pytest.mark.parametrize(
    ("number", "raised", "by"),
    [(signal.SIGINT, KeyboardInterrupt, "Ctrl-C"), (signal.SIGTERM, InterruptedSweepError, "SIGTERM")],
)
def test_ctrl_c_and_sigterm_end_the_runs_and_say_so(cluster, data, tmp_path, number, raised, by):
    (config,) = configs(data, "linear", D=(10e6,))

    def on_event(event):
        if event.kind == "progress" and not timers:
            # While Ray waits: of whatever a handler raises there it makes KeyboardInterrupt.
            timers.append(threading.Timer(0.1, signal.raise_signal, [number]))
            timers[0].start()

    timers = []
    with pytest.raises(raised):
        ray_executor.run_all(make_tasks([config]), Job(data, tmp_path), on_event, cluster.address)
    record = read_record(record_path(tmp_path, config.key))
    assert (record["status"], record["message"]) == (
        "interrupted",
        f"stopped by {by}; run the same command again to resume",
    )


def test_a_failure_is_told_and_the_rest_goes_on(cluster, data, tmp_path):
    short, good = configs(data, "linear", D=(5e3, 6e3))
    bad = replace(short, recipe=replace(short.recipe, seq_len=10**7))  # longer than the text
    heard = Heard()
    job = Job(data, tmp_path)
    (failure,) = ray_executor.run_all(make_tasks([bad, good]), job, heard.append, cluster.address)
    assert failure.task.key == bad.key
    assert read_record(record_path(tmp_path, bad.key))["message"] == failure.values["message"]
    assert heard.keys("done") == [good.key]


def test_a_cluster_of_its_own_has_a_private_folder_that_goes_with_it(tmp_path):
    """In a process of its own: this one is connected to a cluster already."""
    code = """
import os, pathlib, stat
from scalelab.sweep import ray_cluster
with ray_cluster.connected(workers=1):
    import ray
    folder = pathlib.Path(ray._private.worker._global_node.get_temp_dir_path()).parent
    assert ray._private.worker._global_node.get_session_dir_path().startswith(str(folder))
    print(stat.S_IMODE(folder.stat().st_mode) == 0o700, folder.name.startswith("scalelab-ray-"))
print(folder.exists())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split() == ["True", "True", "False"], done.stderr


def test_asking_for_what_the_cluster_has_not(cluster, data, tmp_path):
    tasks, job = make_tasks(configs(data)), Job(data, tmp_path)
    with pytest.raises(ScalelabError, match=r"`device='cuda'`: the Ray cluster at .* has no GPU; use `device='cpu'`"):
        ray_executor.run_all(tasks, job, print, cluster.address, device="cuda")


def test_nobody_answers_at_the_address(data, tmp_path):
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ScalelabError, match=f"`address={address}`: no Ray cluster answers there"):
            ray_executor.run_all(make_tasks(configs(data)), Job(data, tmp_path), print, address)


@pytest.mark.parametrize("address", ["somewhere", "ray://127.0.0.1:10001", "127.0.0.1:", ":6379"])
def test_an_address_that_is_none(address):
    with pytest.raises(UsageError, match="give HOST:PORT or auto"), ray_cluster.connected(address):
        pass


def test_ray_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ScalelabError, match=r"pip install 'scalelab\[ray\]'"), ray_cluster.connected():
        pass
