"""Stands in for paramiko: every host is this machine, reached under 127.0.0.1; who was connected to is written down.

As much of it as `dask ssh` uses. Commands run in a shell of the same kind that SSH would start.
"""

import os
import signal
import subprocess
import threading
from pathlib import Path


class SSHException(Exception):
    """Never raised here."""


class AutoAddPolicy:
    """Every host is known."""


class SSHClient:
    """One connection, one process group."""

    def set_missing_host_key_policy(self, policy):
        pass

    def connect(self, hostname, **arguments):
        self.host = hostname

    def exec_command(self, command, get_pty=False):
        local_command = command
        for host in os.environ["STANDIN_HOSTS"].split():
            local_command = local_command.replace(f" {host}", " 127.0.0.1")
        local_command = local_command.replace("8786", os.environ["STANDIN_PORT"]).replace("$SHELL -i", "bash")
        with Path(os.environ["STANDIN_SSH"]).open("a") as log:
            log.write(f"{self.host}: {command}\n")
        self.process = subprocess.Popen(
            local_command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        channel = Channel(self.process)
        return None, Lines(channel, self.process.stdout), Lines(channel, None)

    def get_transport(self):
        return self

    def send_ignore(self):
        pass

    def close(self):
        pass


class Channel:
    """What is asked about the other side."""

    def __init__(self, process):
        self.process = process

    def settimeout(self, seconds):
        pass

    def exit_status_ready(self):
        return self.process.poll() is not None

    def recv_exit_status(self):
        return self.process.returncode

    def send(self, keys):
        self.process.send_signal(signal.SIGINT)

    def close(self):
        self.process.kill()


class Lines:
    """What the other side says, without waiting for it."""

    def __init__(self, channel, stream):
        self.channel = channel
        self.said = []
        if stream is not None:
            threading.Thread(target=lambda: self.said.extend(stream), daemon=True).start()

    def readline(self):
        return self.said.pop(0) if self.said else ""
