"""A worker host that takes the first byte, hangs up, and does not end by itself."""

import argparse
import signal
import socket


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", type=int, required=True)
    given, _ = parser.parse_known_args()
    with socket.socket(fileno=given.control) as control:
        control.setblocking(True)
        control.recv(1)
    signal.pause()


if __name__ == "__main__":
    main()
