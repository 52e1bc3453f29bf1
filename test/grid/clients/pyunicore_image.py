"""A job that names what image it needs, a reservation list, paging and tags, by an unmodified pyunicore."""
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
        "Tags": ["image"],
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
    "tagged": len(client.get_jobs(tags=["image"])),
    "paged": len(client.get_jobs(offset=0, num=1)),
    "reservations": client.transport.get(url=client.links["reservations"])["reservations"],
    "queues": list(client.get_compute()[0].get_queues().keys()),
}
# each link of the base resource leads somewhere
for name, url in client.links.items():
    client.transport.get(url=url)
job.delete()
print(json.dumps(result))
