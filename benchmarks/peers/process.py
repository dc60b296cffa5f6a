"""Worker processes, and what is asked of them; see `protocol`."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from lamina.samplers import LaminaError

from .contenders import Contender

START_SECONDS = 300.0
_TAIL = 300


class WorkerError(LaminaError, RuntimeError):
    """A worker has failed, died, or taken too long."""


class NotOfferedError(LaminaError):
    """A library has no such sampler."""


def command(contender: Contender, python: Path, *, is_pinned: bool = True) -> list[str]:
    """What starts a contender's worker, on as many CPUs as it has threads or on all."""
    launch = Path(__file__).with_name("launch.py")
    pin = ["--threads", str(contender.num_threads)] if is_pinned else []
    return [str(python), "-P", str(launch), contender.module, *pin, *contender.options]


class Worker:
    """A process that answers requests.

    Attributes:
        versions: What it says it runs.

    Args:
        arguments: The command.
        num_threads: Threads that its libraries may use; None leaves that to them.
        extra: Environment variables besides those of this process.

    Raises:
        WorkerError: If it does not come up.
    """

    def __init__(
        self, arguments: Sequence[str], num_threads: int | None = 1, extra: Mapping[str, str] | None = None
    ) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **_settings(num_threads), **(extra or {})},
            encoding="utf-8",
        )
        self._replies: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self.versions: Mapping[str, str] = self._reply(START_SECONDS)["versions"]
        except WorkerError:
            self.close()
            raise

    def ask(self, request: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
        """Send a request and wait for the reply.

        Args:
            request: See `protocol`.
            timeout: Seconds to wait; a process that takes longer is ended.

        Raises:
            NotOfferedError: If the library has no such sampler.
            WorkerError: If it failed, died or took too long.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise WorkerError(self._last_words()) from None
        reply = self._reply(timeout)
        if "unsupported" in reply:
            raise NotOfferedError(reply["unsupported"])
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    @property
    def is_alive(self) -> bool:
        """Whether it can still be asked."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._replies.put(line)
        self._replies.put(None)

    def _reply(self, timeout: float) -> dict[str, Any]:
        try:
            line = self._replies.get(timeout=timeout)
        except queue.Empty:
            self._process.kill()
            raise WorkerError(f"took more than {timeout:g} s") from None
        if line is None:
            raise WorkerError(self._last_words())
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()[-_TAIL:]
        return f"ended with status {code}: {said}"


def _settings(num_threads: int | None) -> dict[str, str]:
    """Environment variables that keep libraries to their threads, which do not spin while they wait."""
    settings = {"JAX_PLATFORMS": "cpu", "OMP_WAIT_POLICY": "passive", "LAMINA_ENGINE": "auto"}
    if num_threads is not None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        settings |= dict.fromkeys(names, str(num_threads))
    if num_threads == 1:
        settings["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    return settings
