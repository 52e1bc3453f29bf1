"""
A long story told by an unmodified pyunicore, as its users would. Prints one JSON object: what came of each chapter.

usage: pyunicore_scenario.py < JSON with url, user, password, image, identity, oidcToken, programs
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from io import BytesIO

warnings.simplefilter("ignore")

import httpx
import pyunicore.client as uc
import pyunicore.credentials as cr
import pyunicore.forwarder as forwarder
from pyunicore.cli import main as cli
from pyunicore.helpers import jobs as helpers

import called

# members of pyunicore that no server like this has an answer for, and why
senseless = {
    "WorkflowService": "no workflow service; what a workflow does is several jobs",
    "Workflow": "no workflow service",
    "WorkflowStatus": "no workflow service",
    "Registry.workflow_service": "no workflow service",
    "main": "the forwarder's program, which is run as one below",
    "run_forwarder": "the same",
}

given = json.load(sys.stdin)
core = given["url"] + "/VSITE/rest/core"
registry_url = given["url"] + "/VSITE/rest/registries/default_registry"
credential = cr.UsernamePassword(given["user"], given["password"])
result = {}


def chapter(step):
    started = time.monotonic()
    try:
        result[step.__name__] = step()
    except BaseException:
        result[step.__name__] = traceback.format_exc().splitlines()
    print(step.__name__, round(time.monotonic() - started, 1), "s", file=sys.stderr)


def until(what, probe):
    """Asks again until there is something. pyunicore's `poll`, which each kind has once below, rests two seconds each time."""
    deadline = time.monotonic() + 90
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.1)
    return found


def wait(resource, *states, key="status"):
    resource.cache_time = 0

    def reached():
        state = resource.properties[key]
        return state in states and state

    try:
        return until(f"{resource.resource_url} reaches {states}", reached)
    except TimeoutError as error:
        raise TimeoutError(f"{error}, is {resource.properties[key]}") from error


def ended(job):
    wait(job, "SUCCESSFUL", "FAILED")
    return job


def text(storage, path):
    return storage.stat(path).read().decode()


def authentication():
    class Refresh(cr.RefreshHandler):
        def refresh_token(self):
            return given["oidcToken"]

    client = uc.Client(credential, core)
    limited = client.issue_auth_token(lifetime=120, limited=True)
    renewable = client.issue_auth_token(renewable=True)
    renewed = uc.Client(cr.BearerToken(renewable), core).issue_auth_token()
    credentials = {
        "password": cr.create_credential(given["user"], given["password"]),
        "ssh key": cr.create_credential(given["user"], identity=given["identity"]),
        "oidc": cr.OIDCToken("", Refresh()),
        "oidc by token": cr.create_credential(token=given["oidcToken"]),
        "limited": cr.BearerToken(limited),
        "renewed": cr.BearerToken(renewed),
        "anonymous": cr.Anonymous(),
    }
    who = {}
    for name, each in credentials.items():
        info = uc.Client(each, core).access_info()
        who[name] = [info["dn"], info.get("authenticationMethod"), info["role"]["selected"]]
    refused = []
    for each in (cr.UsernamePassword(given["user"], "wrong"), cr.BearerToken("nonsense")):
        try:
            uc.Client(each, core)
        except httpx.HTTPError as error:
            refused.append(str(error)[:3])
    try:
        uc.Client(cr.BearerToken(limited), core).issue_auth_token()
    except httpx.HTTPError as error:
        refused.append(str(error)[:3])
    return {"who": who, "refused": refused}


def base():
    transport = uc.Transport(credential)
    transport.preferences = "role:user"
    client = uc.Client(transport, core)
    before = client.transport.last_session_id
    client.transport.last_session_id = "forgotten"
    for url in client.links.values():
        client.transport.get(url=url)
    registry = uc.Registry(transport, registry_url)
    registry.refresh()
    return {
        "version": client.server_version_info(),
        "role": client.access_info()["role"]["selected"],
        "preferences": client.transport.preferences,
        "session": before is not None and client.transport.last_session_id not in (None, "forgotten"),
        "site": registry.site("VSITE").resource_url == registry.site().resource_url == core,
    }


def compute():
    client = uc.Client(credential, core)
    factory = client.get_compute()[0]
    # the one call that pyunicore has no method for
    made = client.transport.post(url=factory.resource_url, json={"image": given["image"], "parameters": {"cpus": 1}})
    given["site"] = made.headers["Location"]
    site = uc.Resource(credential, given["site"])
    state = wait(site, "READY", "ERROR", key="resourceStatus")
    found = {a.name: a for a in factory.get_applications()}
    transform = found["Transform"]
    return {
        "state": state,
        "fields": sorted(client.transport.get(url=given["site"], params={"fields": "resourceStatus,image"})),
        "queues": list(factory.get_queues()),
        "applications": sorted(found),
        "same": sorted(a.name for a in client.get_applications()) == sorted(found),
        "transform": [transform.version, "INPUT" in json.dumps(transform.options), "Transform" in str(transform)],
    }


def jobs():
    client = uc.Client(credential, core)
    with open("input.txt", "w") as file:
        file.write("grid middleware\n")
    transform = {"ApplicationName": "Transform", "Parameters": {"INPUT": "input.txt"}, "Tags": ["story"]}
    job = client.new_job(dict(transform), inputs=["input.txt"])
    other = client.new_job(
        {**transform, "Parameters": {"INPUT": "in/put.txt"}}, inputs={"in/put.txt": "input.txt"}, autostart=False
    )
    waiting = other.status.value
    other.start()
    job.cache_time = 0.1
    job.poll(timeout=60)
    ended(other)
    again = client.new_job({"Executable": "test -e there || { touch there; sleep 1000; }"})
    wait(again, "RUNNING")
    until("it has run once", lambda: "/there" in again.working_dir.contents()["content"])
    again.abort()
    aborted = wait(again, "FAILED", "SUCCESSFUL")
    again.restart()
    wait(again, "SUCCESSFUL")
    command = ended(client.execute("echo hello; exit 3"))
    scratch = ended(client.new_job({}))
    work = job.working_dir
    answer = {
        "status": [job.status.value, job.status.ordinal(), job.is_running()],
        "exit": [job.exit_code, scratch.exit_code, command.exit_code, command.status.value],
        "scratch": scratch.status.value,
        "stdout": text(work, "stdout").splitlines(keepends=True)[-1],
        "first": work.stat("stdout").read(offset=0, size=3).decode(),
        "files": sorted({"input.txt", "stderr", "stdout"}.intersection(work.listdir())),
        "used": use(work),
        "other": [waiting, text(other.working_dir, "stdout").splitlines()[-1]],
        "log": any("Result: SUCCESSFUL" in line for line in job.log),
        "id": job.job_id == job.resource_url.rsplit("/", 1)[1] and job.job_id in repr(job),
        "details": type(job.bss_details()).__name__,
        "fields": sorted(client.transport.get(url=job.resource_url, params={"fields": "status,exitCode"})),
        "parent": uc.Resource(credential, job.links["parentTSS"]).resource_url == given["site"],
        "again": [aborted, again.exit_code],
        "listed": len(client.get_jobs()),
        "tagged": len(client.get_jobs(tags=["story"])),
        "retagged": [job.set_properties({"tags": ["other"]}), len(client.get_jobs(tags=["story"]))],
    }
    for each in (job, other, again, command, scratch):
        each.delete()
    answer["left"] = len(client.get_jobs())
    return answer


def allocation():
    """In a machine of its own with a Slurm."""
    client = uc.Client(credential, core)
    held = client.new_job(
        {"Job type": "ALLOCATE", "Resources": {"Runtime": "600", "Image": given["batchImage"]}}
    )
    held.cache_time = 0.1
    held.wait_until_available(timeout=90)
    number = held.properties["batchSystemID"]
    inside = {"Executable": "cat input.txt; srun sh -c 'echo $SLURM_JOB_ID in $SLURM_STEP_ID'"}
    job = ended(held.new_job(inside, inputs=["input.txt"]))
    again = ended(held.new_job({"Executable": "srun sh -c 'echo $SLURM_JOB_ID'"}))
    answer = {
        "kind": [type(held).__name__, held.status.value, "Allocation" in repr(held)],
        "number": number.isdigit(),
        "inside": [job.status.value, text(job.working_dir, "stdout") == f"grid middleware\n{number} in 0\n"],
        "again": text(again.working_dir, "stdout") == f"{number}\n",
    }
    held.abort()
    answer["given back"] = wait(held, "FAILED", "SUCCESSFUL")
    for each in (job, again, held):
        each.delete()
    return answer


def description():
    client = uc.Client(credential, core)
    data = uc.Storage(credential, core + "/storages/DATA")
    described = helpers.Description(
        executable="cat",
        arguments=["in.txt"],
        environment={"A": "1"},
        parameters={"B": "2"},
        user_precommand="echo before > pre.txt",
        resources=helpers.Resources(cpus=1, runtime="5m"),
        imports=[helpers.Import(from_="inline://x", to="in.txt", data="by helper", fail_on_error=True)],
        exports=[helpers.Export(from_="stdout", to=data.resource_url + "/files/exported.txt")],
        tags=["helper"],
        name="described",
    )
    job = ended(client.new_job(described.to_dict()))
    answer = {
        "status": [job.status.value, job.properties["statusMessage"], job.properties["name"]],
        "exported": text(data, "exported.txt"),
        "pre": text(job.working_dir, "pre.txt"),
    }
    fetch = helpers.Import(
        from_=data.resource_url + "/files/exported.txt",
        to="again.txt",
        credentials=helpers.Credentials(given["user"], given["password"]),
    )
    second = ended(client.new_job(helpers.Description(executable="cat again.txt", imports=[fetch]).to_dict()))
    answer["fetched"] = [second.properties["statusMessage"], text(second.working_dir, "stdout")]
    data.rm("exported.txt")
    for each in (job, second):
        each.delete()
    return answer


def use(storage):
    storage.makedirs("a/b")
    storage.mkdir("a/c")
    storage.put(b"0123456789", "a/b/data.txt")
    with BytesIO(b"streamed") as file:
        storage.put(file, "a/streamed.txt")
    with open("up.txt", "w") as file:
        file.write("uploaded")
    storage.upload("up.txt", "a/up.txt")
    found = storage.stat("a/b/data.txt")
    storage.copy("a/b/data.txt", "copy 1.txt")
    storage.rename("copy 1.txt", "moved.txt")
    found.download("down.txt")
    with open("down.txt") as file:
        down = file.read()
    described = storage.properties["metadataSupported"]
    if described:
        storage.transport.put(url=found.resource_url, json={"metadata": {"project": "climate"}})
    answer = {
        "listed": sorted(storage.contents("a")["content"]),
        "names": sorted(storage.listdir("a")),
        "size": [found.size(), found.isfile(), found.isdir()],
        "read": [found.read(offset=2, size=3).decode(), down],
        "moved": text(storage, "moved.txt"),
        "directory": [storage.stat("a").isdir(), storage.stat("a").isfile()],
    }
    found.cache_time = 0
    about = found.get_metadata()
    answer["metadata"] = [found.get_metadata("project"), len(about) > 0] if described else about
    storage.stat("moved.txt").remove()
    storage.rmdir("a")
    answer["left"] = [n for n in storage.contents("/")["content"] if n in ("/a/", "/moved.txt")]
    return answer


def storages():
    client = uc.Client(credential, core)
    site = uc.Resource(credential, given["site"])
    home = uc.Storage(credential, site.links["storage:HOME"])
    data = uc.Storage(credential, client.links["storages"] + "/DATA")
    # the other call that pyunicore has no method for
    parameters = {"targetSystem": given["site"].rsplit("/", 1)[1], "description": "mine"}
    made = client.transport.post(url=core + "/storagefactories/TARGET", json={"parameters": parameters})
    mine = uc.Storage(credential, made.headers["Location"])
    wait(mine, "READY", key="resourceStatus")
    answer = {"home": use(home), "data": use(data), "mine": use(mine)}
    answer["properties"] = mine.set_properties({"tags": ["t"], "umask": "022"})
    answer["tagged"] = [s.resource_url == mine.resource_url for s in client.get_storages(tags=["t"])]
    mine.delete()
    answer["left"] = len(client.get_storages(tags=["t"]))
    listed = [s.resource_url.rsplit("/", 1)[1] for s in client.get_storages()]
    answer["listed"] = sorted(name.replace(given["site"].rsplit("/", 1)[1], "SITE") for name in listed)
    return answer


def resumed():
    """A download that broke goes on where it ended, and is the same."""
    data = uc.Storage(credential, core + "/storages/DATA")
    content = os.urandom(6_000_001)
    data.put(content, "big.bin")
    file = data.stat("big.bin")
    got = BytesIO()
    attempts = 0
    while got.tell() < file.size():
        attempts += 1
        with file.raw(offset=got.tell()) as answer:
            until = got.tell() + 2_500_000
            for chunk in answer.iter_raw(65_536):
                got.write(chunk)
                if got.tell() >= until:
                    break
    same = sha256(got.getvalue()).digest() == sha256(content).digest()
    tail = file.read(offset=6_000_000) == content[-1:]
    with BytesIO() as whole:
        file.download(whole)
        complete = whole.getvalue() == content
    data.rm("big.bin")
    return [attempts, same, tail, complete]


def transfers():
    client = uc.Client(credential, core)
    site = uc.Resource(credential, given["site"])
    home = uc.Storage(credential, site.links["storage:HOME"])
    data = uc.Storage(credential, core + "/storages/DATA")
    data.put(b"to be sent", "send me.txt")
    sent = data.send_file("send me.txt", home.resource_url + "/files/sent/")
    sent.cache_time = 0.1
    sent.poll(timeout=60)
    received = data.receive_file(home.resource_url + "/files/sent/*", "received/")
    wait(received, "DONE", "FAILED")
    never = data.receive_file("https://192.0.2.1/x", "never", scheduled="2036-01-01T00:00:00+0000")
    created = never.status.value
    never.abort()
    aborted = wait(never, "ABORTED")
    answer = {
        "status": [sent.status.value, sent.is_running(), received.status.value, created, aborted],
        "bytes": [int(sent.properties["transferredBytes"]), int(received.properties["size"])],
        "received": text(data, "received/send me.txt"),
        "listed": len(client.get_transfers()),
    }
    for transfer in client.get_transfers():
        transfer.delete()
    answer["left"] = len(client.get_transfers())
    export = client.transport.post(url=data.resource_url + "/exports", json={"file": "send me.txt"})
    answer["withoutLogin"] = httpx.get(export.json()["accessURL"], verify=False).text
    uc.Resource(credential, export.headers["Location"]).delete()
    data.rm("send me.txt")
    data.rmdir("received")
    home.rmdir("sent")
    return answer


def echo(sock, data):
    sock.sendall(data)
    received = b""
    while len(received) < len(data) and (chunk := sock.recv(65536)):
        received += chunk
    sock.close()
    return received == data


def dial(port):
    """The forwarder says where it listens before it does."""

    def connect():
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            return None

    return until(f"somebody listens at {port}", connect)


def forwarding():
    """To a TCP server that a job runs inside the machine."""
    port = 7777
    client = uc.Client(credential, core)
    serve = f'require("net").createServer(s=>s.pipe(s)).listen({port},"127.0.0.1",()=>console.log("up"))'
    job = client.new_job({"Executable": f"""exec "$(command -v node || echo /usr/bin/node)" -e '{serve}'"""})
    wait(job, "RUNNING", "FAILED")
    until("it listens", lambda: "up" in text(job.working_dir, "stdout"))
    answer = {"tunnel": echo(forwarder.open_tunnel(job, service_port=port), b"x" * 100_000)}

    transport = uc.Transport(credential, use_security_sessions=False)
    relay = forwarder.Forwarder(transport, job.links["forwarding"], service_port=port, service_host="127.0.0.1")
    threading.Thread(target=relay.run, args=(0,), daemon=True).start()
    local_port = until("it has a port", lambda: relay.local_port)
    answer["class"] = echo(dial(local_port), b"by class")
    relay.stop_forwarding()

    endpoint = f"{job.links['forwarding']}?port={port}"
    with subprocess.Popen(
        [sys.executable, "-u", f"{given['programs']}/unicore-port-forwarder"]
        + ["-L", "0", "-u", given["user"], "-p", given["password"], endpoint],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as program:
        try:
            local = re.search(r"Listening on \('[^']*', (\d+)\)", program.stdout.readline())
            answer["program"] = echo(dial(int(local[1])), b"by program")
        finally:
            program.kill()
    try:
        forwarder.open_tunnel(job, service_port=1)
    except ValueError as error:
        answer["refused"] = str(error)
    job.delete()
    return answer


def paging():
    client = uc.Client(credential, core, cache_time=600)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: client.new_job({"Tags": ["page"]}, autostart=False).resource_url, range(501)))
    pages, listed = [], []
    while page := client.get_jobs(offset=len(listed), num=200, tags=["page"]):
        pages.append(len(page))
        listed += [job.resource_url for job in page]
    return {
        "pages": pages,
        "all": sorted(listed) == sorted(made),
        "first": len(client.get_jobs(tags=["page"])),
    }


def command_line():
    data = uc.Storage(credential, core + "/storages/DATA")
    data.put(b"for the command line\n", "cli/file.txt")
    client = uc.Client(credential, core)
    sleeping = client.new_job({"Executable": "sleep 1000", "Tags": ["cli"]})
    done = ended(client.new_job({"Executable": "echo done", "Tags": ["cli"]}))
    gone = client.new_job({})
    with open("properties", "w") as file:
        file.write(f"authentication-method=USERNAME\nusername={given['user']}\npassword={given['password']}\n")
        file.write(f"registry={registry_url}\n")
    with open("job.json", "w") as file:
        json.dump({"ApplicationName": "Wordcount", "Parameters": {"INPUT": "/etc/passwd"}}, file)
    files = data.resource_url + "/files/cli"
    # a row for each command, in any order: arguments, and what it prints
    rows = {
        "cancel-job": ([sleeping.resource_url], r"^$"),
        "cat": ([files + "/file.txt"], r"^for the command line$"),
        "cp": ([files + "/*.txt", "fetched.txt"], r"^$"),
        "exec": (["-v", "-s", "VSITE", "id -un"], r"SUCCESSFUL, exit code 0[\s\S]*^grid$"),
        "info": (["-l", core], r"authenticated \(via 'PASSWORD_FILE'\)"),
        "info ": ([data.resource_url], r"mount point: .+\n \* free space : \d+ MB"),
        "issue-token": (["-s", "VSITE", "-I", "-l", "77", "-L"], r"Lifetime \(s\): 77"),
        "job-status": (["-a", done.resource_url], r"SUCCESSFUL exit code: 0[\s\S]*Log: "),
        "job-status ": (["-w", "SUCCESSFUL", "-t", "30", done.resource_url], r"^$"),
        "list-jobs": (["-l", "-T", "cli"], re.escape(done.resource_url)),
        "ls": (["-l", files], r"^-rw\S+ 21 20\S+ /cli/file.txt$"),
        "rest": (["GET", core], r'"dn": "CN=Demo User'),
        "rest ": (["POST", core + "/jobs", "-D", "{}"], r"^https://\S+/jobs/\S+$"),
        "rest  ": (["PUT", done.resource_url, "-D", '{"tags": ["cli", "put"]}'], r'"tags": "OK"'),
        "rest   ": (["DELETE", gone.resource_url], r"^$"),
        "run": (["-s", "VSITE", "job.json"], r"Command output\s+[\s\S]*grid"),
    }

    def run(row):
        name, (args, expected) = row
        program = [sys.executable, "-W", "ignore", f"{given['programs']}/unicore", name.strip(), "-c", "properties"]
        ran = subprocess.run(program + args, capture_output=True, text=True, timeout=90)
        if ran.returncode == 0 and re.search(expected, ran.stdout, re.MULTILINE):
            return None
        return [name, ran.returncode, ran.stdout, ran.stderr[-2000:]]

    with ThreadPoolExecutor(6) as pool:
        wrong = [each for each in pool.map(run, rows.items()) if each]
    with open("fetched.txt") as file:
        fetched = file.read()
    answer = {
        "wrong": wrong,
        "forgotten": sorted(set(cli._commands) - {name.strip() for name in rows}),
        "fetched": fetched,
        "cancelled": wait(sleeping, "FAILED"),
        "put": len(client.get_jobs(tags=["put"])),
    }
    data.rmdir("cli")
    return answer


called.watch()
for step in (authentication, base, compute, jobs, allocation, description, storages, resumed, transfers, forwarding, command_line, paging):
    chapter(step)
result["coverage"] = called.coverage([uc, forwarder], senseless)
print(json.dumps(result))
