"""TensorBoard on a folder of runs, for this machine alone."""

import os
import socket
import threading
from pathlib import Path

from vgglab.config.jobs import DashboardConfig
from vgglab.errors import InputError
from vgglab.reporting.terminal import console

HOST = "127.0.0.1"  # a dashboard has no password: nobody else may look, or read the disk through it
_PORTS = 20  # tried, from the one asked for

# How much is kept of each tag. TensorBoard's own limits (1,000 scalars, 10 images and texts) draw
# lots, and a curve that is read with gaps looks as if the run had them: 90 epochs of ImageNet in
# batches of 256, logged every 50 steps, are 9,000 scalars. 0 would be all, but TensorBoard's
# fast reader then shows none.
_KEPT = {"scalars": 20_000, "images": 200, "histograms": 200, "pr_curves": 200, "text": 100}


def serve(job: DashboardConfig) -> None:
    """Show `job.logdir` in TensorBoard until Ctrl-C.

    Raises:
        InputError: there is no such folder, or no free port.
    """
    logdir = Path(job.logdir)
    if not logdir.is_dir():
        raise InputError(f"logdir={job.logdir}: no such folder; scripts/train.py writes logs/")
    port = free_port(job.port)
    address = launch(logdir, port, job.reload_seconds)
    if port != job.port:
        console.print(f"port {job.port} is taken")
    if not any(logdir.rglob("events.out.tfevents.*")):
        console.print(f"no run in {job.logdir} yet: what comes appears by itself")
    console.print(f"TensorBoard of {job.logdir}: {address}", soft_wrap=True)
    console.print(
        f"from another machine: ssh -L {port}:{HOST}:{port} THIS_MACHINE, then the same address",
        soft_wrap=True,
    )
    console.print("Ctrl-C ends it")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print()


def launch(logdir: Path, port: int, reload_seconds: int) -> str:
    """Start TensorBoard in threads of this process, which end with it; returns its address."""
    import tensorboard.program  # `from tensorboard` would give a stand-in for it

    program = tensorboard.program
    kept = ",".join(f"{plugin}={count}" for plugin, count in _KEPT.items())
    # Three lines on how to do without the fast reader, which the figures above count on.
    program._DATA_SERVER_ADVISORY_MESSAGE = ""
    board = program.TensorBoard()
    board.configure(
        argv=[
            "tensorboard",
            f"--logdir={logdir}",
            f"--host={HOST}",
            f"--port={port}",
            f"--reload_interval={reload_seconds}",
            # A resumed run has a file an attempt; without this TensorBoard reads on in the last
            # alone, also where an earlier one, of another process, still grows.
            "--reload_multifile=true",
            f"--samples_per_plugin={kept}",
            f"--window_title={os.path.relpath(logdir)}",
        ]
    )
    try:
        return board.launch()
    except program.TensorBoardServerException as error:  # somebody was faster
        raise InputError(f"TensorBoard cannot start: {error.msg}") from error


def free_port(first: int) -> int:
    """The first port from `first` on where nothing listens.

    Raises:
        InputError: they are all taken, or this user may not use them.
    """
    reason: OSError | None = None
    last = min(first + _PORTS, 2**16)
    for port in range(first, last):
        try:
            with socket.create_server((HOST, port)):
                return port
        except OSError as error:
            reason = error
    raise InputError(f"port={first}: none of {first} to {last - 1} is free: {reason}")
