"""Set up the server process from which the ranks of one machine fork. Only that process may import this module.

The server imports the worker's module once, which takes 5 CPU seconds because of torch. Each rank then starts at once.
Signals to the whole process group must reach the ranks, but not end the server, because it reports their exit codes.
The server ends with the launcher. The kernel then sends SIGINT to the ranks, as torch asks it to (PR_SET_PDEATHSIG).
The server keeps ignoring SIGINT in the ranks, whatever is restored here, so each rank restores it itself.
"""

import os
import signal

_RESTORED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT)
_SERVER = os.getpid()


def _restore_handlers() -> None:
    if os.getppid() != _SERVER:  # a process that a rank starts keeps the rank's handlers
        return
    for number in _RESTORED:
        signal.signal(number, signal.SIG_DFL)


for _number in (signal.SIGINT, *_RESTORED):
    signal.signal(_number, signal.SIG_IGN)
os.register_at_fork(after_in_child=_restore_handlers)

from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined] # noqa: E402 # takes seconds

_prctl_pr_set_pdeathsig(signal.SIGKILL)
