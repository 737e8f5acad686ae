"""The machines of a run, from TensorFlow's environment variable `TF_CONFIG`.

It differs between machines only in its task: `{"cluster": {"worker": ["host1:port",
"host2:port"]}, "task": {"type": "worker", "index": 0}}`. All machines run the same command with the
same working folder.

TensorFlow's `TFConfigClusterResolver` is not used: its errors do not name the variable, and
commands that do not train would have to import TensorFlow.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping

from ixi_tfds.system.errors import UserError

_ADDRESS = re.compile(r"\S+:\d{1,5}")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The machines of a run, and the number of this one.

    Attributes:
      workers: number of machines; 1 without `TF_CONFIG`.
      index: number of this machine, from 0. Number 0 is the chief; only the chief writes to the
        working folder.
      address: host:port at which this machine listens.
    """

    workers: int = 1
    index: int = 0
    address: str = ""

    @property
    def is_chief(self) -> bool:
        """Whether this machine is the chief."""
        return self.index == 0


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster:
    """Read `TF_CONFIG`.

    Raises:
      UserError: TensorFlow would not accept its value.
    """
    text = environment.get("TF_CONFIG", "").strip()
    if not text:
        return Cluster()
    try:
        config = json.loads(text)
        jobs = {job: list(addresses) for job, addresses in config.get("cluster", {}).items()}
        if not jobs:
            return Cluster()
        kind, index = str(config["task"]["type"]), int(config["task"]["index"])
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"TF_CONFIG: not JSON with a cluster and a task ({error}); give one such as "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
            '"task": {"type": "worker", "index": 0}}'
        ) from error
    _check_cluster(jobs, kind, index)
    addresses = jobs.get("chief", []) + jobs.get("worker", [])
    place = index + len(jobs.get("chief", [])) * (kind == "worker")
    return Cluster(len(addresses), place, addresses[place])


def _check_cluster(jobs: dict[str, list[str]], kind: str, index: int) -> None:
    for job, addresses in jobs.items():
        if job not in ("chief", "worker"):
            raise UserError(f"TF_CONFIG: the cluster has a job {job!r}; give chief and worker only")
        for address in addresses:
            if not (isinstance(address, str) and _ADDRESS.fullmatch(address)):
                raise UserError(f"TF_CONFIG: {address!r} of {job} is not of the form host:port")
    if len(jobs.get("chief", [])) > 1:
        raise UserError("TF_CONFIG: the cluster has more than one chief")
    everyone = [address for addresses in jobs.values() for address in addresses]
    if len(set(everyone)) < len(everyone):
        raise UserError("TF_CONFIG: the cluster has the same address twice")
    if not 0 <= index < len(jobs.get(kind, [])):
        raise UserError(f"TF_CONFIG: the cluster has no {kind} {index}, which is its task")
