"""The supervisor with processes of the test's own: real ones, small ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Runs in a process of its own: honcho takes over the main thread's signals.
SCRIPT = """
import sys
from pathlib import Path
from airflow_ibkr_plugin.cli.local import processes
from airflow_ibkr_plugin.cli.local.layout import Layout, Ports

home = Path(sys.argv[1])
sleep = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
sleeper = [sys.executable, "-c", sleep]
processes.commands = lambda layout: {
    "first": [*sleeper, str(home / "first.pid")],
    sys.argv[5]: sys.argv[2:4] if sys.argv[2] else [*sleeper, str(home / "second.pid")],
}
layout = Layout(home=home, ports=Ports())
layout.logs.mkdir(parents=True)
sys.exit(processes.supervise(layout, [sys.executable, "-c", sys.argv[4]]))
"""
WAIT_FOREVER = "import time; print('progress speaks', flush=True); time.sleep(600)"


def start(home: Path, progress: str, *second: str, name: str = "second") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(home), *(second or ("", "")), progress, name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def is_alive(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


@pytest.mark.parametrize("status", [0, 1])
def test_the_end_of_progress_ends_all_with_its_status(tmp_path: Path, status: int) -> None:
    wait = f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'first.pid')!r}).exists(): time.sleep(0.05)\n"
    supervisor = start(tmp_path, f"{wait}time.sleep(0.2); raise SystemExit({status})")
    output, _ = supervisor.communicate(timeout=60)
    assert supervisor.returncode == status, output
    assert not is_alive(tmp_path / "first.pid")


@pytest.mark.parametrize(("command", "status"), [("false", 1), ("true", 0)])
def test_a_process_that_ends_by_itself_is_named_with_its_log(tmp_path: Path, command: str, status: int) -> None:
    supervisor = start(tmp_path, WAIT_FOREVER, command, "")
    output, _ = supervisor.communicate(timeout=60)
    assert supervisor.returncode == 1
    assert f"second stopped (rc={status})" in output
    assert str(tmp_path / "logs" / "processes" / "second.log") in output


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_all_and_is_no_success(tmp_path: Path, number: signal.Signals, status: int) -> None:
    supervisor = start(tmp_path, WAIT_FOREVER)
    for name in ("first", "second"):
        wait_for_file(tmp_path / f"{name}.pid")
    supervisor.send_signal(number)
    output, _ = supervisor.communicate(timeout=60)
    assert supervisor.returncode == status, output
    assert not is_alive(tmp_path / "first.pid")
    assert not is_alive(tmp_path / "second.pid")


def test_the_service_is_started_again_when_it_is_killed_and_ends_with_all(tmp_path: Path) -> None:
    supervisor = start(tmp_path, WAIT_FOREVER, name="service")
    pid_file = tmp_path / "second.pid"
    wait_for_file(pid_file)
    first = pid_file.read_text()
    os.kill(int(first), signal.SIGKILL)
    deadline = time.monotonic() + 30
    while pid_file.read_text() in ("", first):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert is_alive(pid_file)
    supervisor.send_signal(signal.SIGTERM)
    supervisor.communicate(timeout=60)
    assert not is_alive(pid_file)
    assert "started again" in (tmp_path / "logs" / "processes" / "service.log").read_text()
