"""The devices and machines on which a run trains."""

import contextlib
import hashlib
import re
from collections.abc import Iterator

import tensorflow as tf

from ixi_tfds.system.errors import UserError
from trainer.cluster import Cluster

# TensorFlow's errors when another worker is gone: these types, or these words in other types.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
_LOST_WORDS = re.compile(r"Collective ops is aborted|remote target|heartbeat|[Cc]oordination")
_ALONE = Cluster()


def make_strategy(replicas: int, cluster: Cluster = _ALONE) -> tf.distribute.Strategy:
    """A mirrored strategy over devices of this machine, or over all devices of the cluster.

    Without a GPU the CPU is divided into `replicas` logical devices. This is no faster, but it
    lets distribution be tested anywhere. In a cluster the call waits for all workers, and must
    come before any other use of TensorFlow's devices.

    Args:
      replicas: number of devices of this machine; 0 uses every GPU, or the CPU as one.
      cluster: machines of the run.

    Raises:
      UserError: there are too few GPUs, or this worker cannot listen at its address.
    """
    if cluster.workers > 1:
        return _join(replicas, cluster)
    gpus = tf.config.list_physical_devices("GPU")
    if replicas > len(gpus) > 0:
        raise UserError(f"--replicas={replicas}: there are {len(gpus)} GPUs only")
    if gpus:
        return tf.distribute.MirroredStrategy([f"GPU:{n}" for n in range(replicas or len(gpus))])
    cpu = tf.config.list_physical_devices("CPU")[0]
    if replicas > 1 and len(tf.config.get_logical_device_configuration(cpu) or [0]) < replicas:
        pieces = [tf.config.LogicalDeviceConfiguration()] * replicas
        tf.config.set_logical_device_configuration(cpu, pieces)
    return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(replicas or 1)])


def _join(replicas: int, cluster: Cluster) -> tf.distribute.Strategy:
    if replicas:
        raise UserError(
            f"--replicas={replicas}: leave it out with TF_CONFIG; a worker uses all its GPUs, or "
            "those in CUDA_VISIBLE_DEVICES"
        )
    print(f"worker {cluster.index} of {cluster.workers} waits for the others", flush=True)
    with user_error_if_a_worker_is_lost(cluster):
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.UnknownError as error:
            if "gRPC server" not in str(error):
                raise
            raise UserError(
                f"TF_CONFIG: cannot listen at {cluster.address}, the address of this worker; is "
                "the port taken?"
            ) from error


@contextlib.contextmanager
def user_error_if_a_worker_is_lost(cluster: Cluster) -> Iterator[None]:
    """Turn TensorFlow's error about a lost worker into a `UserError` of one sentence.

    Raises:
      UserError: a collective operation or a connection between workers failed.
    """
    try:
        yield
    except tf.errors.OpError as error:
        lost = isinstance(error, _LOST) or _LOST_WORDS.search(str(error))
        if cluster.workers == 1 or not lost:
            raise
        # The error does not say reliably which worker is lost.
        raise UserError(
            "lost another worker of the cluster; start all workers again to resume after the last "
            "whole epoch"
        ) from error


def check_agreement(
    strategy: tf.distribute.Strategy, cluster: Cluster, what: dict[str, str]
) -> None:
    """Wait for all workers, and check that `what`, texts by their names, is the same on all.

    Raises:
      UserError: texts differ; all workers raise it, with the names of these texts.
    """
    if cluster.workers == 1:
        return

    def digest(text: str) -> int:
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")

    mine = tf.constant([[digest(text) for text in what.values()]], tf.int64)
    values = strategy.experimental_distribute_values_from_function(lambda _: mine)
    everywhere = strategy.gather(values, axis=0).numpy()
    differing = [name for name, v in zip(what, everywhere.T, strict=True) if len(set(v)) > 1]
    if differing:
        raise UserError(f"the workers differ in {' and '.join(differing)}; make them the same")


def leave_together(strategy: tf.distribute.Strategy, cluster: Cluster) -> None:
    """Wait for all workers before the process ends; call it after the last `check_agreement`.

    A worker that ends while another still waits for the answer of a collective operation is a lost
    worker for that one. Here nobody waits for an answer that matters, so an error is none.
    """
    with contextlib.suppress(UserError), user_error_if_a_worker_is_lost(cluster):
        check_agreement(strategy, cluster, {"leaving": ""})
