"""An FTP server on a free port that knows one secret, and RANG as a UFTPD does. argv: directory, secret"""

import sys

from pyftpdlib.authorizers import AuthenticationFailed, DummyAuthorizer
from pyftpdlib.filesystems import AbstractedFS
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer

directory, secret = sys.argv[1:]


class Secret(DummyAuthorizer):
    def validate_authentication(self, username, password, handler):
        if password != secret:
            raise AuthenticationFailed("No such session")


class Files(AbstractedFS):
    """Opens what a range was set for at its beginning, and ends reading where it ends."""

    def open(self, filename, mode):
        limits, self.cmd_channel.range = self.cmd_channel.range, None
        if limits is None:
            return super().open(filename, mode)
        first, behind = limits
        file = super().open(filename, mode.replace("w", "r+"))
        file.seek(first)
        left = behind - first
        read = file.read

        class Part:
            name = file.name
            closed = False

            def read(self, size):
                nonlocal left
                data = read(min(size, left))
                left -= len(data)
                return data

            def write(self, data):
                return file.write(data)

            def close(self):
                file.close()
                self.closed = True

        return Part()


class Handler(FTPHandler):
    range = None
    use_sendfile = False
    authorizer = Secret()
    abstracted_fs = Files
    auth_failed_timeout = 0
    proto_cmds = {
        **FTPHandler.proto_cmds,
        "RANG": {"perm": None, "auth": True, "arg": True, "help": "RANG first behind"},
    }

    def ftp_RANG(self, line):
        first, behind = map(int, line.split(" "))
        self.range = (first, behind)
        self.respond(f"350 Restarting at {first}. End byte range at {behind}")


Handler.authorizer.add_anonymous(directory, perm="elradfmw")
server = FTPServer(("127.0.0.1", 0), Handler)
print(server.address[1], flush=True)
server.serve_forever()
