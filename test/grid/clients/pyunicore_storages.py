"""Storages as an unmodified pyunicore uses them. Prints one JSON object for the test to look at.

usage: pyunicore_storages.py CORE_URL USER PASSWORD SITE_URL
"""

import io
import ssl
import urllib.request
import json
import sys

import pyunicore.client as unicore
import pyunicore.credentials as credentials

core_url, user, password, site_url = sys.argv[1:]
credential = credentials.UsernamePassword(user, password)
client = unicore.Client(credential, core_url)
site = unicore.Resource(credential, site_url)
result = {"storages": sorted(s.resource_url.rsplit("/", 1)[1] for s in client.get_storages())}


def use(storage):
    storage.makedirs("a/b")
    storage.put(b"0123456789", "a/b/data.txt")
    with io.BytesIO(b"streamed") as file:
        storage.put(file, "a/streamed.txt")
    found = storage.stat("a/b/data.txt")
    storage.copy("a/b/data.txt", "copy 1.txt")
    storage.rename("copy 1.txt", "moved.txt")
    answer = {
        "listed": sorted(storage.contents("a")["content"]),
        "size": found.properties["size"],
        "raw": found.read(offset=2, size=3).decode(),
        "moved": storage.stat("moved.txt").read().decode(),
        "isdir": storage.stat("a").isdir(),
    }
    storage.rm("moved.txt")
    storage.rmdir("a")
    return answer


result["home"] = use(unicore.Storage(credential, site.links["storage:HOME"]))
result["data"] = use(unicore.Storage(credential, client.links["storages"] + "/DATA"))

home = unicore.Storage(credential, site.links["storage:HOME"])
data = unicore.Storage(credential, client.links["storages"] + "/DATA")
data.put(b"to be sent", "send me.txt")
sent = data.send_file("send me.txt", home.resource_url + "/files/sent/")
sent.cache_time = 0.1
sent.poll(timeout=60)
received = data.receive_file(home.resource_url + "/files/sent/*", "received/")
received.cache_time = 0.1
received.poll(timeout=60)
never = data.receive_file("https://192.0.2.1/x", "never", scheduled="2036-01-01T00:00:00+0000")
never.cache_time = 0.1
created = never.status.value
never.abort()
never.poll(unicore.TransferStatus.ABORTED, timeout=60)
result["transfers"] = {
    "status": [sent.status.value, received.status.value, created, never.status.value],
    "bytes": [int(sent.properties["transferredBytes"]), int(received.properties["size"])],
    "received": data.stat("received/send me.txt").read().decode(),
    "listed": len(client.get_transfers()),
}
for transfer in client.get_transfers():
    transfer.delete()
result["transfers"]["left"] = len(client.get_transfers())

export = client.transport.post(url=data.resource_url + "/exports", json={"file": "send me.txt"})
address = export.json()["accessURL"]
unverified = ssl._create_unverified_context()
with urllib.request.urlopen(address, context=unverified) as answer:
    result["withoutLogin"] = answer.read().decode()
unicore.Resource(credential, export.headers["Location"]).delete()
data.rm("send me.txt")
data.rmdir("received")
home.rmdir("sent")

# the one call that pyunicore has no method for
made = client.transport.post(
    url=core_url + "/storagefactories/TARGET",
    json={"parameters": {"targetSystem": site_url.rsplit("/", 1)[1], "description": "mine"}},
)
storage = unicore.Storage(credential, made.headers["Location"])
storage.cache_time = 0.1
while storage.properties["resourceStatus"] == "INITIALIZING":
    pass
result["made"] = use(storage)
result["properties"] = storage.set_properties({"tags": ["t"], "umask": "022"})
result["tagged"] = [s.resource_url == storage.resource_url for s in client.get_storages(tags=["t"])]
storage.delete()
result["left"] = len(client.get_storages(tags=["t"]))
print(json.dumps(result))
