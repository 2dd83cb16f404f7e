"""Preloading for workers: modules are imported early, once and on one thread, and removed when unused."""

import gc
import multiprocessing
import os
import platform
import subprocess
import sys

import pytest

from scalelab.sweep.workers import start_importing

pytestmark = pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="workers are not forked here"
)


def _tell(writer):
    import torch

    thread_names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    writer.send(
        {
            "parent": os.getppid(),
            "imported": "scalelab.sweep.task_runner" in sys.modules,
            "frozen": gc.get_freeze_count(),
            "collecting": gc.isenabled(),
            "threads": [torch.get_num_threads(), *(os.environ.get(name) for name in thread_names)],
            "cuda": torch.cuda.is_initialized(),
            "poisoned": torch.cuda._is_in_bad_fork(),  # CUDA was asked for before the fork: it can never begin here
        }
    )


def test_workers_begin_with_everything_imported_and_collect_garbage(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # a worker has one thread whatever its parent has
    context = start_importing()
    assert os.environ["OMP_NUM_THREADS"] == "7"
    answers = []
    for _ in range(2):
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=_tell, args=(writer,))
        process.start()
        writer.close()
        answers.append(reader.recv())
        process.join()
        start_importing()  # again: the same server
    frozen = [answer.pop("frozen") for answer in answers]
    assert answers[0] == answers[1]
    assert answers[0]["parent"] != os.getpid()
    assert answers[0]["imported"]
    assert answers[0]["collecting"]
    assert min(frozen) > 100_000
    assert max(frozen) - min(frozen) < 100  # the server has started a process meanwhile
    assert answers[0]["threads"] == [1, "1", "1", "1"]
    assert not answers[0]["cuda"]
    assert not answers[0]["poisoned"]


def _count_faults(writer):
    import resource

    import torch

    counts = []
    for _ in range(11):
        [torch.ones(5_000_000) for _ in range(3)]  # 60 MB, more than is kept where nothing is said
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    writer.send(counts[-1] - counts[0])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library keeps memory in its own way")
def test_memory_that_a_step_frees_is_there_for_the_next():
    context = start_importing()
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_count_faults, args=(writer,))
    process.start()
    writer.close()
    assert reader.recv() < 15_000  # pages; all of it anew is that many in each of ten steps
    process.join()


def test_a_command_that_fails_at_once_leaves_nothing_that_imports(tmp_path):
    command = [sys.executable, "-m", "scalelab", "sweep", "--corpus", str(tmp_path / "none"), "--out", str(tmp_path)]
    # Comes back when no process holds the command's output open any more.
    done = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("scalelab: --corpus")
    assert done.stderr.count("\n") == 1
