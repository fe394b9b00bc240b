"""A real S3 server on this machine, in a process of its own that can be killed: moto's.

`python tests/data/shards/s3_server.py PORT FOLDER` serves FOLDER as the bucket `bucket`.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_ADDRESS = "127.0.0.1"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


class S3Server:
    """Serves `folder` as `s3://bucket`, from `start` to `kill`, always at the same address."""

    def __init__(self, folder: Path) -> None:
        import socket

        with socket.socket() as free:
            free.bind((_ADDRESS, 0))
            self.port = free.getsockname()[1]
        self.endpoint = f"http://{_ADDRESS}:{self.port}"
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, __file__, str(self.port), str(self.folder)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def _client(port: int) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=f"http://{_ADDRESS}:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def main(port: int, folder: Path) -> None:
    from moto.server import ThreadedMotoServer

    # Filled through another port, so that the one that is asked opens with all files in place.
    entrance = ThreadedMotoServer(_ADDRESS, 0, verbose=False)
    entrance.start()
    client = _client(entrance.get_host_and_port()[1])
    client.create_bucket(Bucket="bucket")
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            client.put_object(
                Bucket="bucket", Key=str(file.relative_to(folder)), Body=file.read_bytes()
            )
    ThreadedMotoServer(_ADDRESS, port, verbose=False).start()
    print("ready", flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
