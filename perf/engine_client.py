"""A client of llmir-exec --socket (docs/protocol.md), for tests and measurements that look at single frames."""

import json
import socket
import struct
import time

SUBMIT, CANCEL, STATISTICS = 1, 2, 3
NAMES = {16: "hello", 17: "token", 18: "finish", 19: "refused", 20: "statistics"}


class Client:
    def __init__(self, path, timeout=60):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        deadline = time.monotonic() + 5
        while True:
            try:
                self.socket.connect(str(path))
                break
            except ConnectionRefusedError:  # bound, but not listening yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def send(self, kind, value, version=1):
        payload = json.dumps(value).encode()
        self.socket.sendall(struct.pack("<IBBH", len(payload), version, kind, 0) + payload)

    def read(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def receive(self):
        size, version, kind, _ = struct.unpack("<IBBH", self.read(8))
        assert version == 1
        return NAMES[kind], json.loads(self.read(size))

    def until(self, name):
        """Frames up to the first of this name, it included."""
        frames = [self.receive()]
        while frames[-1][0] != name:
            frames.append(self.receive())
        return frames
