"""Kernels that are forked from one process, which has imported once what all notebooks need.

Decision: multiprocessing's fork server forks them, and jupyter_client starts and ends them by its own interface for that, a
provisioner; everything else about a kernel is as ever. A notebook that imports something else gets it, only later.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from importlib.metadata import EntryPoint
from multiprocessing.context import ForkServerProcess
from typing import Any

from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

IMPORTED = [
    "ipykernel.kernelapp", "ipykernel.debugger", "pandas.io.formats.style", "pyarrow.dataset", "matplotlib.pyplot",
    "matplotlib.backends.backend_agg", "seaborn",
    "replaylab.pages.parameters", "replaylab.pages.measures", "replaylab.pages.verdicts", "replaylab.pages.worlds",
    "replaylab.pages.preloaded",
    "jupyter_book.cli.main",  # the program that builds the book: multiprocessing imports it into every process
]  # fmt: skip
"""Imported once, before any kernel is forked."""
INLINE = "module://matplotlib_inline.backend_inline"


class KernelProcess(ForkServerProcess):
    """A forked process with what jupyter_client asks of a process that it started itself."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self.exitcode

    def wait(self) -> int | None:
        """Its exit status, once it has ended."""
        self.join()
        return self.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.pid is not None and self.is_alive():
            os.kill(self.pid, number)


class ForkedKernel(LocalProvisioner):
    """Starts a kernel of Python by a fork in place of its command."""

    process: Any

    async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
        """Called by jupyter_client."""
        words = cmd[cmd.index("-f") :]  # what follows in its command: python -m ipykernel_launcher -f FILE
        kernel = KernelProcess(target=_run, args=(words, options.get("cwd") or os.getcwd(), options["env"]), daemon=True)
        kernel.start()
        self.process, self.pid = kernel, kernel.pid
        return self.connection_info


def use_forked_kernels(threads: int) -> None:
    """From now on all kernels that this process starts are forked; `threads` is what numerical libraries use in each."""
    name = "forked"
    factory = KernelProvisionerFactory.instance()
    factory.provisioners[name] = EntryPoint(name, f"{__name__}:{ForkedKernel.__name__}", factory.GROUP_NAME)
    factory.default_provisioner_name = name
    # The fork server has this process's environment, and some libraries read theirs when they are imported.
    os.environ |= {"MPLBACKEND": INLINE, "OMP_NUM_THREADS": str(threads)}
    multiprocessing.set_forkserver_preload(IMPORTED)


def _run(words: list[str], folder: str, environment: dict[str, str]) -> None:
    """A kernel's program, as `python -m ipykernel_launcher` has it."""
    from ipykernel.kernelapp import IPKernelApp

    os.chdir(folder)
    os.environ.update(environment)
    multiprocessing.current_process().daemon = False  # a notebook may start processes of its own
    # It ends when the fork server has ended. A kernel warns that this machine's users could listen: errors are enough.
    IPKernelApp.launch_instance(words, parent_handle=os.getppid(), log_level=logging.ERROR)
