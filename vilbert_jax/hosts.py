"""Many processes as one run: joining them, comparing what they run, and ending them together.

A process per host, as a rule; "first" is the process 0, which writes whatever is written once. Everything here works
before any array exists, through the key-value store of JAX's coordination service, and does nothing in a run of one
process. Source: ``jax.distributed`` of JAX 0.10 and its cluster detection, ``jax._src.clusters``.
"""

import contextlib
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from vilbert_jax.errors import InputError
from vilbert_jax.launch import HostsConfig, Launch, find_launch
from vilbert_jax.peers import LOST, Peers, Server, end_now

HEARTBEAT_SECONDS = 100  # JAX's own, for what the connections of ``peers`` do not show
_END_SECONDS = 1800  # that processes wait for the last one, which may still draw and report
_WORK_SECONDS = 24 * 3600  # that processes wait for what the first one does alone
_MEET_SECONDS = 1800  # that processes wait for one that is slower at opening its data
_BLAME_SECONDS = 5.0  # until it is known why an operation with the others failed

_numbers = itertools.count()  # of meetings; all processes count alike


class _Joined(NamedTuple):
    peers: Peers | None  # None where another host could not be reached on a port of its own


_joined: list[_Joined] = []  # of this process; one at most


def join(config: HostsConfig) -> None:
    """Connects this process with the others of its run; to be called before anything touches a device.

    A process that runs alone is left alone: JAX's service is not started. After joining, only the first process prints.

    Args:
        config: from the recipe; what it leaves open is taken from the environment, see ``find_launch``.

    Raises:
        InputError: the settings contradict themselves or the environment, or the processes do not find each other
            within ``config.timeout`` seconds.
    """
    launch = find_launch(config, os.environ)
    if launch is None or _joined:
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from ``signals``
    # JAX's own limit ends the process by a C++ stack trace, so it is not reached.
    limit = threading.Timer(config.timeout, lambda: end_now(f"error: {_no_meeting(launch, config.timeout)}", 2))
    limit.daemon = True
    limit.start()
    try:
        jax.distributed.initialize(
            **launch.arguments,
            initialization_timeout=config.timeout + 60,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_END_SECONDS,
        )
    except Exception as error:  # of gRPC, of the service, of an API that was asked for the other hosts
        raise InputError(_no_meeting(launch, config.timeout, error)) from error
    finally:
        limit.cancel()
    if jax.process_count() == 1:
        return
    _joined.append(_Joined(_connect()))
    if jax.process_index() > 0:
        # Results are printed once; what goes wrong is on each process's stderr.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, it stays open as long as the process


def require_alone(config: HostsConfig) -> None:
    """Raises InputError if this process was started as one of several, by a program that cannot be spread."""
    if (launch := find_launch(config, os.environ)) is not None:
        raise InputError(
            f"this program runs in one process, on the devices of one machine, but it was started as one of several "
            f"({launch.found}): start it once, or say --config.hosts.num_processes=1 where each is meant to work alone."
        )


def joined() -> bool:
    """Whether this run has several processes."""
    return bool(_joined)


def name() -> str:
    """This process for people."""
    return f"process {jax.process_index()} on {socket.gethostname()}"


def leave(code: int, reason: str = "") -> None:
    """Ends this process's part in the run: waits for the others if ``code`` is 0, else tells them and exits with it.

    Args:
        code: exit code.
        reason: for the others; its first line.
    """
    if not _joined:
        return
    peers = _joined[0].peers
    if code:
        if peers is not None:
            peers.fail(reason.partition("\n")[0].rstrip("."))
        end_now("", code)
    if peers is not None:
        peers.finish()
    barrier(_END_SECONDS)
    jax.distributed.shutdown()
    if peers is not None:
        peers.close()
    _joined.clear()


def blame() -> None:
    """Waits a little after an unexpected error: where it comes from the end of another process, this one ends there."""
    if _joined and _joined[0].peers is not None:
        time.sleep(_BLAME_SECONDS)


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """Runs the block on the first process, then on all others: they find what it made, or make it for their machine."""
    is_first = jax.process_index() == 0
    if not is_first:
        barrier(_WORK_SECONDS)
    yield
    if is_first:
        barrier(_WORK_SECONDS)


def barrier(seconds: int = _MEET_SECONDS) -> None:
    """Waits until all processes are here.

    Raises:
        InputError: one did not come within ``seconds``.
    """
    if _joined:
        number = next(_numbers)
        _asking(lambda: _client().wait_at_barrier(f"vilbert_jax/{number}", seconds * 1000))


def told_by_first(value: str = "") -> str:
    """The value of the first process, on every process."""
    if not _joined:
        return value
    key = f"vilbert_jax/told/{next(_numbers)}"
    if jax.process_index() == 0:
        _client().key_value_set(key, value)
        return value
    return _asking(lambda: _client().blocking_key_value_get(key, _MEET_SECONDS * 1000))


def require_same(facts: Mapping[str, Any]) -> None:
    """Compares what the processes are about to run.

    Args:
        facts: JSON-like, by name; nested mappings are compared entry by entry.

    Raises:
        InputError: on every process alike, naming the processes that differ from the first one, and in what.
    """
    if not _joined:
        return
    folder = f"vilbert_jax/facts/{next(_numbers)}"
    own = json.dumps({"name": name(), "facts": _flat(facts)})
    _client().key_value_set(f"{folder}/{jax.process_index()}", own)
    barrier()
    found = {int(key.rpartition("/")[2]): json.loads(value) for key, value in _client().key_value_dir_get(folder)}
    first, lines = found[0], []
    for process, other in sorted(found.items()):
        theirs, ours = other["facts"], first["facts"]
        names = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
        if process and names:
            shown = [f"{key} is {theirs.get(key)!r}, not {ours.get(key)!r}" for key in names[:5]]
            lines.append(
                f"  {other['name']}: " + "; ".join(shown) + (f"; and {len(names) - 5} more" * (len(names) > 5))
            )
    if lines:
        raise InputError(
            f"the processes of this run do not run the same; compared with {first['name']}:\n"
            + "\n".join(lines)
            + "\nStart all of them with the same command, the same version and the same data."
        )


def _connect() -> Peers | None:
    """Connections for ``peers``; the port of the first process is told through the key-value store."""
    key = "vilbert_jax/peers"
    if jax.process_index() == 0:
        server = Server()
        _client().key_value_set(key, json.dumps([server.port, server.token, name()]))
        return Peers.of_first(server, name(), _end)
    port, token, first = json.loads(_asking(lambda: _client().blocking_key_value_get(key, _MEET_SECONDS * 1000)))
    host = _coordinator().rpartition(":")[0].strip("[]")
    try:
        return Peers.of_other((host, port), token, name(), first, _end)
    except OSError as error:
        print(
            f"warning: {name()} cannot reach port {port} of {host} ({error}): that another process ended is noticed "
            f"after up to {HEARTBEAT_SECONDS} seconds, and without a reason. Allow connections between the hosts.",
            file=sys.stderr,
        )
        return None


def _asking(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except jax.errors.JaxRuntimeError as error:
        blame()
        raise InputError(
            f"the other processes of this run do not answer {name()} ({str(error).splitlines()[0]}): see their logs, "
            "and start all of them again."
        ) from error


def _end(sentence: str) -> None:
    end_now(
        f"stopped: {sentence}. {name()} ends too, because no process can go on alone. The last checkpoint stands: "
        "start all processes again with the same command, and the run continues from it.",
        LOST,
    )


def _no_meeting(launch: Launch, timeout: int, error: Exception | None = None) -> str:
    why = f": {type(error).__name__}: {error}".partition("\n")[0][:300] if error else ""
    return (
        f"the processes of this run did not find each other ({launch.found}){why}. All of them must start within "
        f"{timeout} seconds (config.hosts.timeout) with the same coordinator and number of processes, each with a "
        "process_id of its own; process 0 must run on the coordinator's host, on a port that is free and reachable. "
        "See docs/scaling.md."
    )


# JAX has no public name for the two below; Orbax uses them in the same way.
def _client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client


def _coordinator() -> str:
    from jax._src import distributed

    return str(distributed.global_state.coordinator_address)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: json.loads(json.dumps(value))}
    flat: dict[str, Any] = {}
    for key, part in value.items():
        flat |= _flat(part, f"{prefix}.{key}" if prefix else key)
    return flat
