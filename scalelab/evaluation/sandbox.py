"""Run a program that a model wrote, without network, with limits, and without a way to change files.

Linux only. All layers must be in place before the program starts: namespaces of its own (no network, read-only file
systems, and every process ends with the first), Landlock (reads only Python's own files, writes only in an empty
folder in memory), resource limits, and a limit of wall time. A machine without one of them is refused. This stops the
mistakes and mischief of a language model; it is not a defence against exploits of the kernel.
"""

from __future__ import annotations

import json
import secrets
import subprocess  # nosec B404  # the sandbox itself
import sys
import sysconfig
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from scalelab.errors import ScalelabError

_STARTED = "sandbox is closed"


@dataclass(frozen=True)
class Limits:
    """Limits of one program: seconds of wall time and of CPU, bytes of memory and of a file, open files."""

    seconds: float = 10.0
    memory_bytes: int = 2**29
    file_bytes: int = 2**20
    files: int = 64


@dataclass(frozen=True)
class Outcome:
    """The end of a program: `passed` if it ended by itself without an error, else `reason` says why not."""

    passed: bool
    reason: str = ""


def run_program(source: str, limits: Limits = Limits()) -> Outcome:
    """Run Python source in the sandbox.

    Raises:
        ScalelabError: This machine cannot isolate the program, which was not run.
    """
    if not sys.platform.startswith("linux"):
        raise ScalelabError("programs of models run only on Linux, with Landlock and user namespaces")
    nonce = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        request = {"source": source, "folder": folder, "readable": _readable(), "nonce": nonce, **asdict(limits)}
        command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("_sandboxed.py"))]
        with subprocess.Popen(  # nosec B603  # fixed command
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,  # a file, whose size is limited
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder},
            start_new_session=True,
        ) as process:
            try:
                process.communicate(json.dumps(request).encode(), timeout=limits.seconds + 5.0)
            except subprocess.TimeoutExpired:
                process.kill()  # ends the process namespace too
                process.communicate()
                return Outcome(False, f"took more than {limits.seconds:g} s")
        errors.seek(0)
        lines = errors.read(2 * limits.file_bytes).decode("utf-8", "replace").split("\n")
    if lines[0] != _STARTED:
        reason = next((line for line in reversed(lines) if line.strip()), "unknown")
        raise ScalelabError(f"this machine cannot isolate programs, so none was run: {reason}")
    said = [line for line in lines[1:] if line.strip()]
    if process.returncode == 0:
        passed = nonce in said[-1:]
        return Outcome(passed, "" if passed else "ended before its last line")
    return Outcome(False, said[-1] if said else f"ended with code {process.returncode}")


def _readable() -> list[str]:
    """Return the folders that Python needs to run: its libraries and the system's."""
    own = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")} | {str(Path(sys.executable).resolve().parent)}
    system = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib")
    return sorted({str(Path(path).resolve()) for path in (*own, *system) if Path(path).is_dir()})
