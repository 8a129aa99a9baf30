"""A software ControlLogix for the tests: tags of INT over EtherNet/IP, written from the public descriptions of the protocol.

EtherNet/IP encapsulation (RegisterSession, SendRRData, SendUnitData), the Connection Manager (Forward Open, Forward Close)
and the Logix services Read Tag and Write Tag, as in Rockwell's "Logix 5000 Controllers Data Access" (1756-PM020). Servers of
this protocol on PyPI are under the GPL.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

READ_TAG, WRITE_TAG, FORWARD_CLOSE, FORWARD_OPEN, LARGE_FORWARD_OPEN = 0x4C, 0x4D, 0x4E, 0x54, 0x5B
REGISTER, UNREGISTER, RR_DATA, UNIT_DATA = 0x65, 0x66, 0x6F, 0x70
INT, DINT = 0xC3, 0xC4
SIZES = {INT: 2, DINT: 4}
OK, UNKNOWN_PATH, DENIED, EXTENDED = b"\0\0", b"\x05\x01\0\0", b"\x0f\0", b"\xff\x01"
TYPE_MISMATCH, BEYOND = EXTENDED + b"\x07\x21", EXTENDED + b"\x05\x21"


class LogixPlc:
    """Serves ``tags`` (name: length); ``words`` of the first one are what a program in the PLC reads and writes.

    ``fault`` is how it behaves from then on: "" well, "silent" (answers nothing), "torn" (hangs up amid an answer) or
    "denied" (refuses writes). ``kind`` is the type of its tags.
    """

    def __init__(self, port: int = 0, tags: dict[str, int] | None = None, kind: int = INT) -> None:
        lengths = {"EdgeAD": 48} if tags is None else tags
        self.memory = {name.lower(): bytearray(SIZES[kind] * length) for name, length in lengths.items()}
        self.kind = kind
        self.fault = ""
        self.sessions = 0
        self._lock = threading.Lock()
        self._links: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def words(self) -> tuple[int, ...]:
        """Return the words of the first tag, in one look."""
        with self._lock:
            block = bytes(next(iter(self.memory.values())))
        return struct.unpack(f"<{len(block) // 2}H", block)

    def put(self, index: int, values: tuple[int, ...]) -> None:
        """Let the program of the PLC write words of the first tag."""
        with self._lock:
            block = next(iter(self.memory.values()))
            struct.pack_into(f"<{len(values)}H", block, 2 * index, *values)

    def close(self) -> None:
        """Switch it off."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in list(self._links):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._links.add(link)
                threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        with contextlib.suppress(OSError, struct.error, ConnectionError), link:
            while True:
                header = exactly(link, 24)
                command, length, session, _, context, _ = struct.unpack("<HHII8sI", header)
                data = exactly(link, length)
                if command == UNREGISTER:
                    break
                if self.fault == "silent":
                    continue
                if command == REGISTER:
                    self.sessions += 1
                    session, answer = self.sessions, data
                else:
                    answer = self._items(command, data)
                frame = struct.pack("<HHII8sI", command, len(answer), session, 0, context, 0) + answer
                if self.fault == "torn" and command == UNIT_DATA:
                    link.sendall(frame[: len(frame) - 3])
                    break
                link.sendall(frame)
        self._links.discard(link)

    def _items(self, command: int, data: bytes) -> bytes:
        """Answer the common packet format: an address item and a data item."""
        _, length = struct.unpack_from("<HH", data, 8)
        address, (_, size) = data[12 : 12 + length], struct.unpack_from("<HH", data, 12 + length)
        body = data[16 + length : 16 + length + size]
        if command == RR_DATA:
            answer = self._cip(body)
            return data[:6] + struct.pack("<HHHHH", 2, 0, 0, 0xB2, len(answer)) + answer
        answer = body[:2] + self._cip(body[2:])
        return data[:6] + struct.pack("<HHH", 2, 0xA1, 4) + address + struct.pack("<HH", 0xB1, len(answer)) + answer

    def _cip(self, request: bytes) -> bytes:
        service, size = request[0], 2 * request[1]
        path, data = request[2 : 2 + size], request[2 + size :]
        head = bytes((service | 0x80, 0))
        if service in (FORWARD_OPEN, LARGE_FORWARD_OPEN):
            originator = data[6:10]  # what it wants to be called
            return head + OK + struct.pack("<I", 0x1234) + originator + data[10:18] + bytes(10)
        if service == FORWARD_CLOSE:
            return head + OK + data[2:10] + b"\0\0"
        if service in (READ_TAG, WRITE_TAG):
            return head + self._tag(service, path, data)
        return head + b"\x08\0"  # no such service

    def _tag(self, service: int, path: bytes, data: bytes) -> bytes:
        name, index = symbol(path)
        size = SIZES[self.kind]
        with self._lock:
            block = self.memory.get(name)
            if block is None:
                return UNKNOWN_PATH
            if service == READ_TAG:
                last = index + struct.unpack_from("<H", data)[0]
                return BEYOND if size * last > len(block) else OK + struct.pack("<H", self.kind) + block[size * index : size * last]
            kind, count = struct.unpack_from("<HH", data)
            if self.fault == "denied":
                return DENIED
            if kind != self.kind:
                return TYPE_MISMATCH
            if size * (index + count) > len(block):
                return BEYOND
            block[size * index : size * (index + count)] = data[4 : 4 + size * count]
            return OK


def symbol(path: bytes) -> tuple[str, int]:
    """Return name and element of a path of symbolic and member segments."""
    names, index, place = [], 0, 0
    while place < len(path):
        kind, length = path[place], path[place + 1]
        if kind == 0x91:
            names.append(path[place + 2 : place + 2 + length].decode().lower())
            place += 2 + length + length % 2
        else:  # 0x28: one byte
            index, place = length, place + 2
    return ".".join(names), index


def exactly(link: socket.socket, count: int) -> bytes:
    """Read so many bytes; ConnectionError at the end."""
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data
