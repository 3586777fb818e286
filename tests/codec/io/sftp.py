"""A server for SFTP on 127.0.0.1, in threads of this process, for one directory."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko

PASSWORD = "secret"


class Anyone(paramiko.ServerInterface):
    """Let in who knows the password."""

    def check_auth_password(self, username: str, password: str) -> int:
        right = password == PASSWORD
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED


def answered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors of the system into those of the protocol."""

    def answer(*arguments: Any) -> Any:
        try:
            result = function(*arguments)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        return paramiko.SFTP_OK if result is None else result

    return answer


class Handle(paramiko.SFTPHandle):
    """An open file."""

    def __init__(self, path: str, flags: int) -> None:
        super().__init__(flags)
        descriptor = os.open(path, flags, 0o644)
        mode = "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "r+b"
        self.readfile = self.writefile = os.fdopen(descriptor, mode)

    def stat(self) -> paramiko.SFTPAttributes:
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))


class Files(paramiko.SFTPServerInterface):
    """The file system of this machine."""

    @answered
    def list_folder(self, path: str) -> list[paramiko.SFTPAttributes]:
        return [
            paramiko.SFTPAttributes.from_stat(os.lstat(entry.path), entry.name)
            for entry in os.scandir(path)
        ]

    @answered
    def stat(self, path: str) -> paramiko.SFTPAttributes:
        return paramiko.SFTPAttributes.from_stat(os.stat(path))

    lstat = stat

    @answered
    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> Handle:
        return Handle(path, flags)

    @answered
    def remove(self, path: str) -> None:
        os.remove(path)

    @answered
    def posix_rename(self, oldpath: str, newpath: str) -> None:
        os.replace(oldpath, newpath)

    @answered
    def mkdir(self, path: str, attr: paramiko.SFTPAttributes) -> None:
        os.mkdir(path)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Yield the URL of a directory."""
    key = paramiko.ECDSAKey.generate()
    transports: list[paramiko.Transport] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # closed
                    return
                transport = paramiko.Transport(connection)
                transport.add_server_key(key)
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, Files)
                transports.append(transport)
                transport.start_server(threading.Event(), Anyone())

        threading.Thread(target=accept, daemon=True).start()
        port = listener.getsockname()[1]
        try:
            yield f"sftp://someone:{PASSWORD}@127.0.0.1:{port}{folder}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for transport in transports:
                transport.close()
