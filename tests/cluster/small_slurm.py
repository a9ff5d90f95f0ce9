"""Replaces the SLURM commands that dormant uses. Each element of a job array is a real process on this machine.

Supports only the contents of submitit's scripts: #SBATCH lines, srun before the command, and array indices.
"""

import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil

COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel")


def install(folder: Path) -> Path:
    """Creates a folder with the commands and their queue. Returns the folder. The caller adds it to PATH."""
    folder.mkdir()
    for name in COMMANDS:
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__)} {folder} {name} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


def sbatch(queue: Path, script: str) -> None:
    text = Path(script).read_text()
    number = str(1 + max((int(file.stem.split("_")[0]) for file in queue.glob("*.state")), default=99))
    (queue / f"{number}.sh").write_text(text)
    for refusal in queue.glob("refuse"):
        sys.exit(f"sbatch: error: {refusal.read_text()}")
    array = re.search(r"^#SBATCH --array=0-(\d+)%", text, re.MULTILINE)
    for element in [f"{number}_{index}" for index in range(int(array[1]) + 1)] if array else [number]:
        (queue / f"{element}.state").write_text("PENDING")
        if not (queue / "hold").exists():
            begin(queue, element)
    print(f"Submitted batch job {number}")


def begin(queue: Path, element: str) -> None:
    number, _, index = element.partition("_")
    task = {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index} if index else {}
    environment = os.environ | {"SLURM_JOB_ID": number, "SLURM_PROCID": "0", "SLURM_NTASKS": "1"} | task
    (queue / f"{element}.state").write_text("RUNNING")
    with (queue / f"{element}.out").open("a") as output:
        process = subprocess.Popen(
            ["bash", str(queue / f"{number}.sh")],
            env=environment,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    (queue / f"{element}.pid").write_text(str(process.pid))


def srun(queue: Path, *arguments: str) -> None:
    options = list(arguments)
    while options[0].startswith("-"):
        # --unbuffered has no value. A file follows --output and --error.
        del options[: 1 if options[0] == "--unbuffered" else 2]
    os.execvp(options[0], options)


def squeue(queue: Path, *arguments: str) -> None:
    assert "--array" in arguments and "--format=%i|%T" in arguments and "--states=all" in arguments
    for file in sorted(queue.glob("*.state")):
        print(f"{file.stem}|{state(queue, file.stem)}")


def state(queue: Path, element: str) -> str:
    said, pid = (queue / f"{element}.state").read_text(), queue / f"{element}.pid"
    return "COMPLETED" if said == "RUNNING" and not alive(int(pid.read_text())) else said


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def scontrol(queue: Path, word: str, element: str) -> None:
    assert word == "requeue"
    os.setsid()  # starts a new session, so that the new job outlives the job that requeues it
    begin(queue, element)


def lose_node(queue: Path, element: str) -> None:
    """Kills a job's processes and sets its state to NODE_FAIL."""
    os.killpg(int((queue / f"{element}.pid").read_text()), signal.SIGKILL)
    (queue / f"{element}.state").write_text("NODE_FAIL")


def time_is_up(queue: Path, element: str) -> None:
    """Sends SIGUSR2 to a job's command. SLURM sends this signal shortly before a job reaches its time limit."""
    leader = psutil.Process(int((queue / f"{element}.pid").read_text()))
    for each in leader.children():
        each.send_signal(signal.SIGUSR2)


if __name__ == "__main__":
    globals()[sys.argv[2]](Path(sys.argv[1]), *sys.argv[3:])
