#!/usr/bin/env python3
"""Telemetry between two devices: registers that one reads, the other one shows.

    on the receiver:  examples/telemetry.py receive 5020
    on the sensor:    examples/telemetry.py send receiver.example.org 5020 [RECORDS]

The connection is secure or does not exist: encrypted, and each device remembers
the other's key from the first contact on.  No daemon, no root, no certificates.
"""

import random
import struct
import sys
import time

from tcpcrypt import sockets

RECORD = struct.Struct("!dHi")  # time in seconds, register, value


def send(host: str, port: str, records: str = "60") -> None:
    with sockets.connect((host, int(port)), peer="tofu") as connection:
        for number in range(int(records)):
            value = round(20_000 + 500 * random.random())
            connection.sendall(RECORD.pack(time.time(), 30_001 + number % 4, value))
            time.sleep(0.1)


def receive(port: str) -> None:
    with sockets.create_server(("", int(port)), peer="tofu") as listener:
        print("listening on port", listener.getsockname()[1], flush=True)
        while True:
            connection, address = listener.accept()
            with connection, connection.makefile("rb") as file:
                try:
                    while record := file.read(RECORD.size):
                        print(connection.peer_identity, *RECORD.unpack(record), flush=True)
                except OSError as error:  # of this one connection alone
                    print(address, "refused:", error, flush=True)


if sys.argv[1:2] not in (["send"], ["receive"]):
    sys.exit(__doc__)
(send if sys.argv[1] == "send" else receive)(*sys.argv[2:])
