"""Two nodes on one machine: network namespaces with an address each, and a cable between them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_LINK = "eth0"


@dataclass(frozen=True)
class Node:
    """A network namespace and a host name."""

    name: str
    address: str

    def command(self, *words: str) -> list[str]:
        """`words` as run on this node."""
        there = ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c"]
        return [*there, f'hostname {self.name} && exec "$@"', "sh", *words]

    @property
    def files(self) -> Path:
        return Path("/etc/netns", self.name)

    def unplug(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        _run("ip", "-n", self.name, "link", "set", _LINK, "down")


def unavailable() -> str | None:
    """Why there can be no two nodes here."""
    for tool in ("ip", "unshare", "hostname"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    name = f"probe{os.getpid()}"
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "netns", "exec", name, "unshare", "--uts", "true")
    except subprocess.CalledProcessError as error:
        return f"no network namespaces: {error.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return None


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """Two nodes that reach each other and nothing else, until the end of the context."""
    number = os.getpid()
    # After 127.0.0.1: of two processes gloo has the one with the later address call the other.
    nodes = tuple(Node(f"node{i}-{number}", f"192.168.0.{i + 1}") for i in (0, 1))
    try:
        for node, other in zip(nodes, reversed(nodes), strict=True):
            # What `ip netns exec` puts in the place of /etc/hosts, with a node's own name as Debian
            # has it: not at the address that the other one knows.
            node.files.mkdir(parents=True)
            own = f"127.0.0.1 localhost\n127.0.1.1 {node.name}\n"
            (node.files / "hosts").write_text(f"{own}{other.address} {other.name}\n")
            _run("ip", "netns", "add", node.name)
            _run("ip", "-n", node.name, "link", "set", "lo", "up")
        first, second = (node.name for node in nodes)
        cable = ("type", "veth", "peer", "name", _LINK, "netns", second)
        _run("ip", "-n", first, "link", "add", _LINK, *cable)
        for node in nodes:
            _run("ip", "-n", node.name, "address", "add", f"{node.address}/24", "dev", _LINK)
            _run("ip", "-n", node.name, "link", "set", _LINK, "up")
        yield nodes[0], nodes[1]
    finally:
        for node in nodes:
            subprocess.run(["ip", "netns", "delete", node.name], capture_output=True, check=False)
            shutil.rmtree(node.files, ignore_errors=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
