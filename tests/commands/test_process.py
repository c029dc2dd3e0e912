"""How threads wait and what becomes of freed memory: what is set, and that it is set before torch is there."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import ROOT, environment
from transfer.__main__ import VERBS
from transfer.commands.process import keep_freed_memory, share_cores


@pytest.mark.parametrize(
    ("given", "set_to"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_how(
    given: dict[str, str], set_to: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that what is set is undone too
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    share_cores()
    assert os.environ.get("GOMP_SPINCOUNT") == set_to


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_says_so_before_torch_is_imported(verb: str) -> None:
    code = f"""
import os, sys
from transfer.__main__ import main
try:
    main(["{verb}", "--nothing"])
except SystemExit:
    pass
from transfer.commands.process import _trim_before_forks
print(*(os.environ[name] for name in ("GOMP_SPINCOUNT", "HF_DATASETS_DISABLE_PROGRESS_BARS")))
print(_trim_before_forks.cache_info().currsize, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.stdout == f"1000 1\n{int(platform.libc_ver()[0] == 'glibc')} False\n", done.stderr


needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

# Uses 40 MiB four times; prints whether they are kept, and the pages that the kernel had to fill after the first time.
USE_MEMORY = """
import ctypes, resource, threading
from transfer.commands.process import keep_freed_memory
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def use():
    block = libc.malloc(40 << 20)
    ctypes.memset(block, 1, 40 << 20)
    libc.free(block)
def measure():
    use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        use()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(keep_freed_memory())
measure()
thread = threading.Thread(target=measure)
thread.start()
thread.join()
"""
PAGES = 3 * (40 << 20) // os.sysconf("SC_PAGE_SIZE")


def use_memory(**variables: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", USE_MEMORY], cwd=ROOT, env=environment(**variables), capture_output=True, text=True
    )
    return done.stdout.split()


@needs_glibc
def test_freed_memory_is_used_again_also_by_another_thread() -> None:
    kept, faults, faults_of_thread = use_memory()
    assert kept == "True" and int(faults) < PAGES / 100 and int(faults_of_thread) < PAGES / 100


@needs_glibc
@pytest.mark.parametrize(
    "variables",
    [
        {"MALLOC_ARENA_MAX": "0"},
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"},
    ],
    ids=lambda given: "".join(given),
)
def test_what_the_user_says_of_malloc_stands(variables: dict[str, str]) -> None:
    kept, faults, faults_of_thread = use_memory(**variables)
    assert kept == "False" and min(int(faults), int(faults_of_thread)) > PAGES / 3


@needs_glibc
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_another_allocator_that_is_preloaded_is_left_alone(tmp_path: Path) -> None:
    source = "#include <stddef.h>\nvoid *__libc_malloc(size_t);\nvoid *malloc(size_t n) { return __libc_malloc(n); }\n"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", tmp_path / "allocator.so"]
    subprocess.run(command, input=source, text=True, check=True)
    assert use_memory(LD_PRELOAD=str(tmp_path / "allocator.so"))[0] == "False"


@needs_glibc
def test_free_pages_are_given_back_before_a_fork() -> None:
    code = f"""
import os
{USE_MEMORY}
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
before = resident()
if os.fork() == 0:
    os._exit(0)
print(before - resident())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert int(done.stdout.split()[-1]) > 0.9 * PAGES / 3, done.stderr


@needs_glibc
def test_a_fork_trims_once_however_many_commands_have_run() -> None:
    code = """
import os
hooks = []
os.register_at_fork = lambda **given: hooks.append(given)
from transfer.commands.process import keep_freed_memory
print(keep_freed_memory(), keep_freed_memory(), len(hooks))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True", "1"], done.stderr


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))  # musl, macOS
    monkeypatch.setattr("ctypes.CDLL", None)
    assert not keep_freed_memory()
