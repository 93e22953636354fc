#!/usr/bin/env python3
"""`healthy PORT [PATH]`: exit code 0 if the service on this container's PORT says that it is ready.

Every container asks every few seconds: a socket and one line of HTTP take a third of the time of urllib.
"""

import socket
import sys

_SECONDS = 4


def main() -> int:
    port, path = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "/health/ready"  # noqa: PLR2004
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            line = connection.makefile("rb").readline(1_000)
    except OSError as error:
        print(f"{path} on port {port}: {error}")  # noqa: T201 - `docker inspect` shows it
        return 1
    print(line.decode(errors="replace").strip())  # noqa: T201
    return 0 if line.split()[1:2] == [b"200"] else 1


if __name__ == "__main__":
    sys.exit(main())
