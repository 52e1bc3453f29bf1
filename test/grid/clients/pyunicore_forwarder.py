"""Port forwarding as an unmodified pyunicore does it. Prints one JSON object for the test to look at.

usage: pyunicore_forwarder.py CORE_URL USER PASSWORD JOB_URL PORT COMMAND

COMMAND is pyunicore's own program `unicore-port-forwarder`.
"""

import json
import re
import socket
import subprocess
import sys
import threading

import pyunicore.client as unicore
import pyunicore.credentials as credentials
import pyunicore.forwarder as forwarder

core_url, user, password, job_url, port, command = sys.argv[1:]
credential = credentials.UsernamePassword(user, password)
job = unicore.Job(credential, job_url)


def echo(sock, data):
    sock.sendall(data)
    received = b""
    while len(received) < len(data):
        chunk = sock.recv(65536)
        if not chunk:
            break
        received += chunk
    sock.close()
    return received == data


result = {"link": job.links["forwarding"] == job_url + "/forward-port"}
result["tunnel"] = echo(forwarder.open_tunnel(job, service_port=int(port)), b"x" * 100_000)

transport = job.transport._clone()
transport.use_security_sessions = False
relay = forwarder.Forwarder(transport, job.links["forwarding"], service_port=int(port), service_host="127.0.0.1")
threading.Thread(target=relay.run, args=(0,), daemon=True).start()
while relay.local_port == 0:
    pass
result["class"] = echo(socket.create_connection(("127.0.0.1", relay.local_port)), b"by class")
relay.stop_forwarding()

endpoint = f"{job.links['forwarding']}?port={port}"
program = subprocess.Popen(
    [sys.executable, "-u", command, "-L", "0", "-u", user, "-p", password, endpoint],
    stdout=subprocess.PIPE,
    text=True,
)
for line in program.stdout:
    found = re.search(r"Listening on \('[^']*', (\d+)\)", line)
    if found:
        result["program"] = echo(socket.create_connection(("127.0.0.1", int(found[1]))), b"by program")
        break
program.kill()

try:
    forwarder.open_tunnel(job, service_port=1)
except ValueError as error:
    result["refused"] = str(error)
print(json.dumps(result))
