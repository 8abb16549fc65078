"""Several hosts on one machine: each a network namespace with an address of its own, a mount namespace with a disk of its own
(the code's folder and one for data and runs, under the same paths on all), a name, and an sshd.

Everything lives in namespaces, so that two test sessions cannot meet, and ends with them. Needs root, iproute2, openssh-server
and pdsh.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.launch import ROOT, environment

NETWORK = "10.213.47"
PROGRAMS = ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "pdsh", "mount")
SSHD = "/usr/sbin/sshd"
_SSH = """Host *
  User root
  IdentityFile {keys}/id
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  ConnectTimeout 10
"""
_SSHD = """HostKey {keys}/host
AuthorizedKeysFile {keys}/id.pub
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
PidFile none
UseDNS no
MaxStartups 100
"""


def obstacle() -> str | None:
    """Why hosts cannot be made here; None when they can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None] + ([] if Path(SSHD).exists() else [SSHD])
    if missing:
        return f"no {', '.join(missing)}: apt-get install iproute2 openssh-server pdsh"
    if os.geteuid():
        return "test hosts need root"
    done = _quiet("unshare", "--net", "--mount", "--uts", "true")
    return None if done.returncode == 0 else f"namespaces cannot be made: {done.stderr.strip()}"


class Hosts:
    """Hosts node0, node1, ... that are up. Their private folder is `disk`, the same path on each; code lies at ROOT."""

    def __init__(self, folder: Path, count: int):
        self.folder, self.count = folder, count
        self.disk = folder / "disk"
        self.names = [f"node{number}" for number in range(count)]
        self._tag = f"moenda-{os.getpid()}-{folder.name}"
        self._daemons: list[subprocess.Popen] = []

    def address(self, number: int) -> str:
        """IPv4 address of a host."""
        return f"{NETWORK}.{number + 1}"

    def private(self, number: int) -> Path:
        """Where a host's private folder really lies, for a look from outside."""
        return self.folder / f"node{number}" / "disk"

    def code(self, number: int) -> Path:
        """Where a host's copy of the code really lies."""
        return self.folder / f"node{number}" / "code"

    def hostfile(self, *slots: int) -> Path:
        """A hostfile on host 0 with these slots."""
        file = self.private(0) / f"hostfile-{'-'.join(map(str, slots))}"
        file.write_text("".join(f"node{number} slots={count}\n" for number, count in enumerate(slots)))
        return self.disk / file.name

    def start(self, line: list[str], log: Path, **more: str) -> subprocess.Popen:
        """Start a command on host 0, in the code's folder, with output to `log`."""
        enter = ["nsenter", "-t", str(self._daemons[0].pid), "-n", "-m", "-u"]
        inside = [*enter, "bash", "-c", 'cd "$0" && exec "$@"', str(ROOT), *line]
        with log.open("w") as output:
            return subprocess.Popen(inside, env=environment() | more, stdout=output, stderr=output, start_new_session=True)

    def run(self, line: list[str], log: Path, timeout: float = 300, **more: str) -> tuple[int, str]:
        """(exit code, output) of a command on host 0. Whatever it has started is ended when it takes too long."""
        job = self.start(line, log, **more)
        try:
            code = job.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill_jobs()
            raise AssertionError(f"not done after {timeout} s:\n{log.read_text()[-4000:]}") from None
        return code, log.read_text()

    def kill_jobs(self, number: int | None = None) -> None:
        """SIGKILL everything on one host, or on all, but their sshd."""
        spared = {daemon.pid for daemon in self._daemons}
        for host in range(self.count) if number is None else [number]:
            for pid in self._processes(host) - spared:
                _kill(pid)

    def up(self) -> None:
        """Make the hosts. Raises CalledProcessError when the system refuses."""
        _remove_leftovers()
        keys = self.folder / "keys"
        keys.mkdir(parents=True)
        Path("/run/sshd").mkdir(exist_ok=True)
        for name in ("id", "host"):
            _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name))
        (keys / "ssh_config").write_text(_SSH.format(keys=keys))
        (keys / "sshd_config").write_text(_SSHD.format(keys=keys))
        names = "".join(f"{self.address(number)} node{number}\n" for number in range(self.count))
        (keys / "hosts").write_text("127.0.0.1 localhost\n" + names)
        switch = f"{self._tag}-switch"
        _do("ip", "netns", "add", switch)
        _do("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _do("ip", "-n", switch, "link", "set", "bridge", "up")
        for number in range(self.count):
            self._connect(number, switch)
            self._daemons.append(self._boot(number, keys))
        for number in range(self.count):
            self._await_ssh(number)

    def _connect(self, number: int, switch: str) -> None:
        name = f"{self._tag}-{number}"
        _do("ip", "netns", "add", name)
        _do("ip", "-n", switch, "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _do("ip", "-n", switch, "link", "set", f"port{number}", "master", "bridge", "up")
        _do("ip", "-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _do("ip", "-n", name, "link", "set", device, "up")

    def _boot(self, number: int, keys: Path) -> subprocess.Popen:
        """sshd in namespaces of its own, its folders mounted over the common paths."""
        code, disk = self.code(number), self.private(number)
        _copy_code(code)
        disk.mkdir(parents=True)
        self.disk.mkdir(exist_ok=True)
        mounts = [(code, ROOT), (disk, self.disk), (keys / "hosts", "/etc/hosts"), (keys / "ssh_config", "/etc/ssh/ssh_config")]
        if Path(sys.prefix).is_relative_to(ROOT):  # the environment lies in the code's folder: it is shared
            inside = code / Path(sys.prefix).relative_to(ROOT)
            inside.mkdir(parents=True)
            mounts.insert(0, (Path(sys.prefix), inside))
        script = [f"hostname node{number}", *(shlex.join(["mount", "--rbind", str(a), str(b)]) for a, b in mounts)]
        script.append(shlex.join(["exec", SSHD, "-D", "-e", "-f", str(keys / "sshd_config")]))
        line = ["ip", "netns", "exec", f"{self._tag}-{number}", "unshare", "--mount", "--uts", "bash", "-ec", "\n".join(script)]
        with (self.folder / f"sshd-{number}.log").open("w") as log:
            return subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)

    def _await_ssh(self, number: int) -> None:
        end = time.monotonic() + 20
        while (done := self._ssh(number)).returncode:
            if time.monotonic() > end:
                said = (self.folder / f"sshd-{number}.log").read_text()
                raise RuntimeError(f"node{number} cannot be reached over ssh: {done.stderr} {said}")
            time.sleep(0.1)

    def _ssh(self, number: int) -> subprocess.CompletedProcess:
        return _quiet("nsenter", "-t", str(self._daemons[0].pid), "-n", "-m", "-u", "ssh", f"node{number}", "true")

    def _processes(self, number: int) -> set[int]:
        return {int(pid) for pid in _quiet("ip", "netns", "pids", f"{self._tag}-{number}").stdout.split()}

    def down(self) -> None:
        """End all that runs on the hosts, and the hosts."""
        for number in range(self.count):
            for _ in range(50):  # a process that is just being started escapes the first round
                pids = self._processes(number)
                if not pids:
                    break
                for pid in pids:
                    _kill(pid)
                time.sleep(0.05)
            _quiet("ip", "netns", "del", f"{self._tag}-{number}")
        _quiet("ip", "netns", "del", f"{self._tag}-switch")
        for daemon in self._daemons:
            daemon.wait(10)


@contextmanager
def hosts(folder: Path, count: int) -> Iterator[Hosts]:
    """Hosts for the length of a `with` block, gone after it in any case."""
    made = Hosts(folder, count)
    try:
        made.up()
        yield made
    finally:
        made.down()


def _remove_leftovers() -> None:
    """Hosts of sessions that were killed before they could take them down."""
    for line in _quiet("ip", "netns").stdout.splitlines():
        name = line.split()[0]
        owner = re.match(r"moenda-(\d+)-", name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            for pid in _quiet("ip", "netns", "pids", name).stdout.split():
                _kill(int(pid))
            _quiet("ip", "netns", "del", name)


def _copy_code(target: Path) -> None:
    for name in ("trainer", "data_prep"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "samples"))
    shutil.copy2(ROOT / "strict_json.py", target)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _do(*line: str) -> None:
    done = _quiet(*line)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(line)}: {done.stderr.strip()}")


def _quiet(*line: str) -> subprocess.CompletedProcess:
    return subprocess.run(line, capture_output=True, text=True, check=False)
