"""A real Apache Flink cluster on this machine, with Beam beside it.

    python cluster/flink.py up | down | status

`up` fetches Flink by pip and Beam's job server by Maven into `.flink/`, once, checks their digests,
and starts six processes: the JobManager, two TaskManagers of two slots each with a pool of Python
workers each, and the job server. It needs Java 11 or 17, and Maven the first time. All processes
have `.flink/run` as their working folder, by which `down` finds them; their logs are there too.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOME = ROOT / ".flink"
RUN = HOME / "run"
FLINK, JOB_SERVER = HOME / "flink", HOME / "job-server"
JOB_SERVER_DIGEST = "2e5bf891142e4eb10c65a935aadb8fef401daf144e2b2c23cb03dfc6ca352b62"
"""SHA-256 of what `sha256sum *.jar` prints for all that Maven brings."""

REST, JOBS, WORKERS = 8081, 8099, 8098
"""Ports: of Flink's web page, of Beam's job server, of the pools of Python workers.

All are below those that Linux gives to connections, 32768 and above: none can listen on a port that
a connection had in the last minute.
"""
MACHINES = {1: "127.0.0.1", 2: "127.0.0.2"}
"""The TaskManagers, and where the workers of each are."""

_PATIENCE = 240
"""Seconds until a cluster that is not up has failed; on quiet cores it takes 15."""

Started = tuple[str, subprocess.Popen[bytes]]
"""A process of the cluster, with its name: that of its log."""

OPTIONS = (
    "--runner=FlinkRunner",
    f"--job_endpoint=localhost:{JOBS}",
    "--environment_type=EXTERNAL",
    f"--environment_config=workers:{WORKERS}",
    "--parallelism=2",
)
"""What a Beam job needs to run here."""

CONFIG = {
    "jobmanager.rpc.address": "localhost",
    "jobmanager.bind-host": "localhost",
    "rest.address": "localhost",
    "rest.bind-address": "localhost",
    "rest.port": REST,
    "taskmanager.host": "localhost",
    "taskmanager.bind-host": "localhost",
    "taskmanager.numberOfTaskSlots": 2,
    # A job has a slot on each machine, not both on one.
    "taskmanager.load-balance.mode": "SLOTS",
    # Flink's scripts derive these from the size of the machine; here they are small.
    "taskmanager.cpu.cores": 2.0,
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "64m",
    "taskmanager.memory.task.heap.size": "256m",
    "taskmanager.memory.task.off-heap.size": "128m",
    "taskmanager.memory.network.min": "64m",
    "taskmanager.memory.network.max": "64m",
    "taskmanager.memory.managed.size": "64m",
    "taskmanager.memory.jvm-metaspace.size": "192m",
    "taskmanager.memory.jvm-overhead.min": "64m",
    "taskmanager.memory.jvm-overhead.max": "64m",
    # When a TaskManager is lost, its part of the job starts anew on those that are left.
    "restart-strategy.type": "fixed-delay",
    "restart-strategy.fixed-delay.attempts": 3,
    "restart-strategy.fixed-delay.delay": "1 s",
    # A machine that is busy with other things is slow, not dead.
    "pekko.startup-timeout": "2 min",
    "pekko.ask.timeout": "2 min",
    "web.timeout": 120000,
    "heartbeat.interval": 2000,
    "cluster.registration.error-delay": 1000,
    "io.tmp.dirs": RUN,
    "web.upload.dir": RUN,
    "blob.storage.directory": RUN,
}

LOGGING = """rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1} - %m%n
"""

_OPENED = "lang lang.invoke lang.reflect net io nio text time util util.concurrent"
_JAVA = (
    "java",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    f"-Dlog4j.configurationFile={RUN}/log4j.properties",
    # Flink reflects into these packages, which Java 17 allows only where they are opened.
    *(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPENED.split()),
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
)


def fetch() -> None:
    """Have Flink and the job server in their folders, whole and checked, or exit."""
    HOME.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME) as folder:
        if not FLINK.exists():
            _fetch_flink(pathlib.Path(folder))
        if not JOB_SERVER.exists():
            _fetch_job_server(pathlib.Path(folder, "job-server"))


def _fetch_flink(folder: pathlib.Path) -> None:
    print("fetching Apache Flink, 230 MB", flush=True)
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
    listed = ("--require-hashes", f"--requirement={ROOT}/cluster/requirements.txt")
    _call(*pip, "--no-deps", f"--dest={folder}", *listed)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (unpacked,) = folder.glob("*/deps")
    unpacked.rename(FLINK)


def _fetch_job_server(jars: pathlib.Path) -> None:
    print("fetching Beam's job server, 100 MB", flush=True)
    mvn = ("mvn", "--quiet", "--batch-mode", "--strict-checksums", f"--file={ROOT}/cluster/pom.xml")
    _call(*mvn, "dependency:copy-dependencies", f"-DoutputDirectory={jars}")
    if digest(jars) != JOB_SERVER_DIGEST:
        sys.exit(
            f"error: Maven gave jars of digest {digest(jars)}, not the one in cluster/flink.py"
        )
    jars.rename(JOB_SERVER)


def _call(*command: str) -> None:
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {command[0]}: {error}")


def digest(folder: pathlib.Path) -> str:
    """SHA-256 of what `sha256sum *.jar` prints in a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.jar")):
        total.update(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n".encode())
    return total.hexdigest()


def up() -> None:
    """Start everything, and return when a job can be submitted."""
    if processes():
        sys.exit("error: the cluster, or a part of it, is up already: make flink-down first")
    fetch()
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir()
    (RUN / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in CONFIG.items()))
    (RUN / "log4j.properties").write_text(LOGGING)
    package = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
    started = [_java("jobmanager", f"{FLINK}/lib/*", package, f"--configDir={RUN}")]
    for machine, address in MACHINES.items():
        started += start_machine(machine, address)
    flink = [*FLINK.glob("lib/flink-dist-*.jar"), *FLINK.glob("lib/log4j-*.jar")]
    job_server = _java(
        "job-server",
        ":".join(map(str, [JOB_SERVER / "*", *flink])),
        "org.apache.beam.runners.flink.FlinkJobServerDriver",
        f"--flink-master=localhost:{REST}",
        f"--flink-conf-dir={RUN}",
        f"--artifacts-dir={RUN}",
        "--job-host=localhost",
        f"--job-port={JOBS}",
        "--artifact-port=0",
        "--expansion-port=0",
    )
    _wait([*started, job_server])
    print(f"up: http://localhost:{REST}\nrun jobs with {' '.join(OPTIONS)}")


def _wait(started: Sequence[Started]) -> None:
    """Return when the cluster is up; stop it and exit when a process of it ends before that."""
    deadline = time.monotonic() + _PATIENCE
    while not is_up():
        ended = [(name, code) for name, process in started if (code := process.poll()) is not None]
        late = time.monotonic() > deadline
        if ended or late:
            down()
        if ended:
            name, code = ended[0]
            last = (RUN / f"{name}.log").read_text().splitlines()[-5:]
            sys.exit(
                f"error: the cluster did not come up: its process {name} ended with exit code "
                f"{code}; the last lines of its log, .flink/run/{name}.log:\n" + "\n".join(last)
            )
        if late:
            sys.exit(
                f"error: the cluster is not up after {_PATIENCE} s; its logs are in .flink/run"
            )
        time.sleep(1)


def start_machine(machine: int, address: str) -> list[Started]:
    """Start a TaskManager and its pool of Python workers."""
    pool = (sys.executable, f"{ROOT}/cluster/workers.py", f"{address}:{WORKERS}")
    workers = _start(f"workers-{machine}", *pool)
    hosts = RUN / f"hosts-{machine}"
    hosts.write_text(f"127.0.0.1 localhost {socket.gethostname()}\n{address} workers\n")
    taskmanager = _java(
        f"taskmanager-{machine}",
        f"{FLINK}/lib/*",
        "org.apache.flink.runtime.taskexecutor.TaskManagerRunner",
        f"--configDir={RUN}",
        f"-Dtaskmanager.resource-id=taskmanager-{machine}",
        properties=(f"-Djdk.net.hosts.file={hosts}",),
    )
    return [workers, taskmanager]


def _java(name: str, classes: str, *rest: str, properties: Sequence[str] = ()) -> Started:
    return _start(name, *_JAVA, *properties, "-cp", classes, *rest)


def _start(name: str, *command: str) -> Started:
    environment = os.environ | {
        # The pool starts its workers as `python`, wherever that is.
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    with (RUN / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=RUN,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return name, process


def rest(path: str) -> dict[str, Any]:
    """What Flink's web interface says, such as of "/taskmanagers"."""
    with urllib.request.urlopen(f"http://localhost:{REST}{path}", timeout=10) as response:
        return json.load(response)


def is_up() -> bool:
    """Whether a job can be submitted, to both TaskManagers."""
    try:
        for address in [("localhost", JOBS), *((a, WORKERS) for a in MACHINES.values())]:
            socket.create_connection(address, 5).close()
        return len(rest("/taskmanagers")["taskmanagers"]) == len(MACHINES)
    except OSError:
        return False


def processes() -> dict[int, str]:
    """Those of the cluster, told by their working folder: number and command line."""
    found = {}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == RUN:
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


def down() -> None:
    """Stop everything, and return when no process is left."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for process in processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, sign)
        for _ in range(100):
            if not processes():
                return
            time.sleep(0.2)
    sys.exit(f"error: processes that do not end: {list(processes())}")


def status() -> None:
    """Print what is running."""
    for process, command in sorted(processes().items()):
        print(process, command[:60], "...", command[-60:])


if __name__ == "__main__":
    {"up": up, "down": down, "status": status}[sys.argv[1]]()
