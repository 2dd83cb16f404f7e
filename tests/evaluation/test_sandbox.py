"""Programs of models: right ones pass, and what could do harm is stopped."""

import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from scalelab.errors import ScalelabError
from scalelab.evaluation.sandbox import Limits, run_program

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox needs Linux")


@pytest.fixture(scope="module", autouse=True)
def _needs_a_sandbox():
    try:
        run_program("pass")
    except ScalelabError as error:
        pytest.skip(str(error))


def test_right_and_wrong_programs_are_told_apart():
    assert run_program("import math, json, collections\nassert math.isqrt(17) == 4").passed
    assert run_program("assert 1 + 1 == 3").reason == "AssertionError"
    assert "ZeroDivisionError" in run_program("1 / 0").reason
    assert "SyntaxError" in run_program("def").reason
    for early in ("raise SystemExit(3)", "raise SystemExit(0)", "import os; os._exit(0)"):
        assert not run_program(early + "\nassert False").passed


def test_files_of_the_user_can_be_neither_written_nor_read(tmp_path):
    target = tmp_path / "mine.txt"
    target.write_text("keep")
    for attempt in (
        f"open({str(target)!r}, 'w').write('x')",
        f"import os; os.remove({str(target)!r})",
        f"import os; os.rename({str(target)!r}, {str(target)!r} + '2')",
        f"import shutil; shutil.rmtree({str(tmp_path)!r})",
        f"print(open({str(target)!r}).read())",
        "open('/etc/passwd').read()",
        f"import os; os.chmod({str(target)!r}, 0)",
        f"import os; os.utime({str(target)!r}, (0, 0))",
        "import ctypes; assert ctypes.CDLL(None).mount(None, b'/', None, 4128, None) == 0",  # writable again
        "import subprocess; subprocess.run(['/bin/sh', '-c', 'true'], check=True)",
    ):
        assert not run_program(attempt).passed, attempt
    assert target.read_text() == "keep"
    assert target.stat().st_mode & 0o600 == 0o600
    assert target.stat().st_mtime > 1e9
    assert run_program("open('own.txt', 'w').write('x'); assert open('own.txt').read() == 'x'").passed


def test_there_is_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()  # it can be reached from here
        found = run_program(f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=2)")
    assert not found.passed
    assert "Error" in found.reason
    assert not run_program("import socket; socket.socket(2, 2).sendto(b'x', ('192.0.2.1', 53))").passed


def test_endless_and_greedy_programs_end():
    short = Limits(seconds=1.0)
    began = time.monotonic()
    assert "took more than 1 s" in run_program("while True: pass", short).reason
    assert "took more than 1 s" in run_program("import time; time.sleep(600)", short).reason
    stubborn = (
        "import signal, time\nfor n in range(1, 32):\n  try: signal.signal(n, signal.SIG_IGN)\n  except Exception: 0"
    )
    assert not run_program(stubborn + "\ntime.sleep(600)", short).passed
    assert time.monotonic() - began < 120
    assert "MemoryError" in run_program("x = bytearray(2**31)").reason
    assert not run_program("import sys\nwhile True: sys.stderr.write('x' * 2**20)").passed
    assert not run_program("open('big', 'wb').write(b'x' * 2**22)").passed


def test_no_process_is_left_behind():
    mark = "scalelab_sandbox_test_child"
    source = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    open({mark!r}, 'w').close()
    time.sleep(600)
time.sleep(0.5)
"""
    assert run_program(source).passed
    time.sleep(0.5)
    names = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            names.append(file.read_bytes())
    assert not [name for name in names if b"_sandboxed.py" in name]
