"""A job that names what image it needs, and a list of reservations, by an unmodified pyunicore."""
import json
import sys

import pyunicore.client as uc
import pyunicore.credentials as cr

core, user, password = sys.argv[1:4]
credential = cr.UsernamePassword(user, password)
client = uc.Client(credential, core)
with open("in.txt", "w") as file:
    file.write("grid middleware\n")
job = client.new_job(
    {
        "ApplicationName": "Transform",
        "Parameters": {"INPUT": "in.txt"},
        "Resources": {"CPUs": "1", "Image": {"application": "Transform", "format": "rootfs"}},
    },
    inputs=["in.txt"],
)
job.cache_time = 0.2
job.poll()
site = uc.Resource(credential, job.links["parentTSS"])
result = {
    "status": str(job.properties["status"]),
    "stdout": job.working_dir.stat("stdout").read().decode(),
    "log": job.properties["log"],
    "image": site.properties["image"]["name"],
    "reservations": client.transport.get(url=client.links["reservations"])["reservations"],
}
job.delete()
print(json.dumps(result))
