"""The other side of `sandbox`: close everything, then run the program that standard input describes.

It runs as a script in its own interpreter, with nothing of this package imported.
"""

import ctypes
import json
import os
import resource
import signal
import sys

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWUSER, _NEWPID, _NEWNET, _NEWIPC, _NEWNS = 0x10000000, 0x20000000, 0x40000000, 0x08000000, 0x00020000
_PRIVATE = 0x4000 | (1 << 18)  # mounts, recursively
_SET_MOUNT, _RECURSIVE, _READ_ONLY = 442, 0x8000, 1  # mount_setattr
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # Landlock's system calls, the same on all architectures
_DEATH_SIGNAL, _NO_NEW_PRIVILEGES = 1, 38  # of prctl
_READ = (1 << 0) | (1 << 2) | (1 << 3)  # execute, read files, read folders
_ALL_OF_FIRST = (1 << 13) - 1  # rights of Landlock's first version
_ADDED = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # refer, truncate, ioctl of devices


def _check(result, what):
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


class _Rules(ctypes.Structure):
    _fields_ = [("fs", ctypes.c_uint64)]


class _Path(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


class _MountFlags(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("add", "clear", "propagation", "user")]


def _freeze_mounts(folder, file_bytes):
    """Make every file system read-only, so that not even modes and times change, but for a new one at `folder`."""
    _check(_LIBC.mount(None, b"/", None, _PRIVATE, None), "mounts")
    flags = _MountFlags(_READ_ONLY)
    _check(_LIBC.syscall(_SET_MOUNT, -100, b"/", _RECURSIVE, ctypes.byref(flags), ctypes.sizeof(flags)), "mounts")
    size = f"size={16 * file_bytes},mode=700".encode()
    _check(_LIBC.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, size), "mounts")
    os.chdir(folder)


def _map_user(uid, gid):
    """Make the user root of the new namespace, which is what may mount there."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
            file.write(text)


def _close_files(readable, folder):
    """Let this process read only below `readable`, and write only below `folder`."""
    version = _check(_LIBC.syscall(_CREATE, None, 0, 1), "Landlock")
    handled = _ALL_OF_FIRST
    for since, right in _ADDED.items():
        handled |= right if version >= since else 0
    rules = _check(_LIBC.syscall(_CREATE, ctypes.byref(_Rules(handled)), ctypes.sizeof(_Rules), 0), "Landlock")
    for path, rights in [*((path, _READ) for path in readable), (folder, handled)]:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        _check(_LIBC.syscall(_ADD, rules, 1, ctypes.byref(_Path(rights & handled, opened)), 0), f"Landlock: {path}")
        os.close(opened)
    _check(_LIBC.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
    _check(_LIBC.syscall(_RESTRICT, rules, 0), "Landlock")
    os.close(rules)


def _limit(name, value):
    resource.setrlimit(getattr(resource, name), (value, value))


def main():
    """Close the sandbox and run the program; the exit code is 0 if it ended without an error."""
    request = json.loads(sys.stdin.buffer.read())
    uid, gid = os.getuid(), os.getgid()
    _check(_LIBC.unshare(_NEWUSER | _NEWPID | _NEWNET | _NEWIPC | _NEWNS), "namespaces")
    _map_user(uid, gid)
    _freeze_mounts(request["folder"], request["file_bytes"])
    child = os.fork()  # the first process of the namespace: when it ends, all do
    if child:
        # It must not outlive its limits, even if it ignores signals.
        signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL:
            os.write(2, f"\ntook more than {request['seconds']:g} s, or too much memory\n".encode())
        os._exit(code if code >= 0 else 1)
    _check(_LIBC.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "prctl")
    _limit("RLIMIT_CPU", int(request["seconds"]) + 1)
    _limit("RLIMIT_AS", request["memory_bytes"])
    _limit("RLIMIT_FSIZE", request["file_bytes"])
    _limit("RLIMIT_NOFILE", request["files"])
    _limit("RLIMIT_CORE", 0)
    _close_files(request["readable"], request["folder"])
    os.write(2, b"sandbox is closed\n")
    exec(compile(request["source"], "program.py", "exec"), {"__name__": "__main__"})  # nosec B102
    os.write(2, f"\n{request['nonce']}\n".encode())  # not reached by a program that ends itself


if __name__ == "__main__":
    main()
