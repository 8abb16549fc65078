"""Starting real jobs through the deepspeed launcher."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LAUNCHER = Path(sys.executable).with_name("deepspeed")


def environment() -> dict[str, str]:
    """The environment of a job: this interpreter's programs first, no hub."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}


def command(ranks: int, script: str, *arguments: str, module: bool = False) -> list[str]:
    """A launcher command line on this machine, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--num_accelerators", str(ranks), "--master_port", str(port)]
    return [str(LAUNCHER), *options, *(["--module"] if module else []), script, *arguments]


def run(ranks: int, script: str, *arguments: str, module: bool = False, timeout: float = 600) -> subprocess.CompletedProcess:
    """Run a job to its end."""
    line = command(ranks, script, *arguments, module=module)
    return subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=timeout)


def train(config: dict[str, Any], file: Path, ranks: int = 2, **options: Any) -> subprocess.CompletedProcess:
    """Train from a run file; asserts success."""
    file.write_text(json.dumps(config))
    done = run(ranks, "trainer/train.py", "--config", str(file), **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def train_and_kill(config: dict[str, Any], file: Path, when: Any, ranks: int = 2, timeout: float = 400) -> None:
    """Start training and kill -9 the launcher and all its ranks as soon as `when()` is true."""
    file.write_text(json.dumps(config))
    line = command(ranks, "trainer/train.py", "--config", str(file))
    log = file.with_suffix(".log").open("w")
    job = subprocess.Popen(line, cwd=ROOT, env=environment(), stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + timeout
    while not when():
        assert job.poll() is None, f"the job ended before it was killed: {file.with_suffix('.log').read_text()[-3000:]}"
        assert time.monotonic() < deadline, "the moment to kill the job did not come"
        time.sleep(0.002)
    kill_family(job.pid)
    job.wait()
    log.close()


def kill_family(pid: int) -> None:
    """SIGKILL a process and all its descendants (ranks have sessions of their own)."""
    import psutil

    parent = psutil.Process(pid)
    family = [*parent.children(recursive=True), parent]
    for process in family:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process for process in family if process.pid != pid], timeout=10)
