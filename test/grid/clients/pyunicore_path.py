"""The main job as an unmodified pyunicore does it. Prints one JSON object for the test to look at.

usage: pyunicore_path.py CORE_URL USER PASSWORD IMAGE
"""

import json
import sys

import pyunicore.client as unicore
import pyunicore.credentials as credentials

core_url, user, password, image = sys.argv[1:]
credential = credentials.UsernamePassword(user, password)
client = unicore.Client(credential, core_url)

factory = client.get_compute()[0]
created = client.transport.post(url=factory.resource_url, json={"image": image, "parameters": {"cpus": 1}})
site = unicore.Resource(credential, created.headers["Location"])
site.cache_time = 0.1
while site.properties["resourceStatus"] == "INITIALIZING":
    pass
if site.properties["resourceStatus"] != "READY":
    sys.exit(site.properties["resourceStatusMessage"])

with open("input.txt", "w") as file:
    file.write("grid middleware\n")
description = {"ApplicationName": "Transform", "Parameters": {"INPUT": "input.txt"}}
job = client.new_job(description, inputs=["input.txt"])
job.cache_time = 0.2
job.poll()

work = job.working_dir
stdout = work.stat("stdout")
result = {
    "role": client.access_info()["role"]["selected"],
    "version": client.server_version_info(),
    "queues": list(factory.get_queues()),
    "applications": [a.name for a in client.get_applications()],
    "status": job.properties["status"],
    "exitCode": job.properties["exitCode"],
    "stdout": stdout.read().decode(),
    "first": stdout.read(offset=0, size=3).decode(),
    "files": sorted(work.listdir()),
    "parent": job.links["parentTSS"] == site.resource_url,
}

work.mkdir("sub/deep")
work.put(b"more", "sub/deep/x.txt")
work.copy("sub/deep/x.txt", "y.txt")
work.rename("y.txt", "z.txt")
result["copied"] = work.stat("z.txt").read().decode()
work.rm("z.txt")
result["listed"] = sorted(work.contents("sub")["content"])

executed = client.execute("echo hello; exit 3")
executed.cache_time = 0.2
executed.poll()
result["executed"] = [executed.properties["status"], executed.properties["exitCode"]]
scratch = client.new_job({})
scratch.cache_time = 0.2
scratch.poll()
result["scratch"] = scratch.properties["status"]
result["jobs"] = len(client.get_jobs())
for each in (job, executed, scratch):
    each.delete()
site.delete()
result["jobsAfterDelete"] = len(client.get_jobs())
print(json.dumps(result))
