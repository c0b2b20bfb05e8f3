"""Real processes of fi_jax.main for the tests, without paying the imports of each.

A server imports everything once and forks; JAX meets its devices in the child alone. Signals,
limits and exit codes are those of real processes.
"""

from __future__ import annotations

import atexit
import importlib
import multiprocessing
import os
import resource
import sys
import time
import traceback
from pathlib import Path

from tests.compilation import QUICK
from tests.conftest import CACHE

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(
    ['pytest', 'fi_jax.train', 'fi_jax.sample', 'fi_jax.run.aot', 'configs']
)


def _child(argv, out, file_limit, before):
    for fd in (1, 2):
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND), fd)
    sys.stdout, sys.stderr = (os.fdopen(fd, 'w', buffering=1) for fd in (1, 2))
    # Not the eight devices of conftest.py: as many as --config.mesh.cpu_devices says.
    os.environ['XLA_FLAGS'] = QUICK
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    code = 0
    try:
        if before:
            module, _, name = before.partition(':')
            getattr(importlib.import_module(module), name)()
        from fi_jax import main

        sys.argv = argv
        main.console()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    os._exit(code if isinstance(code, int) else 1)


class Program:
    """One running `python -m fi_jax.main` with flags; what it prints goes to a file.

    file_limit: bytes a file may have (RLIMIT_FSIZE). before: 'module:function', called first.
    """

    def __init__(self, folder, *flags, devices=1, file_limit=0, before=''):
        self._out = Path(folder) / f'out_{time.monotonic_ns()}.txt'
        common = [f'--config.compile_cache={CACHE}', f'--config.mesh.cpu_devices={devices}']
        argv = ['fi_jax.main', *flags, *common]
        self._process = CONTEXT.Process(target=_child, args=(argv, self._out, file_limit, before))
        self._process.start()
        self.pid = self._process.pid

    @property
    def running(self):
        return self._process.is_alive()

    def send(self, signal):
        os.kill(self.pid, signal)

    def kill(self):
        """End it, stopped or not, if it still runs."""
        self._process.kill()
        self._process.join()

    def finish(self, timeout=900):
        """(exit code, negative for a signal; all that was printed)."""
        self._process.join(timeout)
        if self.running:
            self._process.kill()
            self._process.join()
            raise AssertionError(f'still running after {timeout} s: {self.printed()}')
        return self._process.exitcode, self.printed()

    def printed(self):
        return self._out.read_text() if self._out.exists() else ''

    def wait_for(self, path, words='', timeout=900):
        """Until a file is there and holds the words, or a folder is there."""
        deadline = time.monotonic() + timeout
        while self.running and time.monotonic() < deadline:
            if path.exists() and (path.is_dir() or words in path.read_text()):
                return
            time.sleep(0.01)
        raise AssertionError(f'{path} without {words!r}: {self.printed()}')
