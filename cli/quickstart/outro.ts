import { join } from 'node:path';
import { demoUser } from './configuration.js';
import type { Layout } from './layout.js';

/** What a person can do with the server that the quickstart has left running. */
export function howToGoOn(layout: Layout, url: string, application: string): string {
  const ca = join(layout.credentials, 'ca.pem');
  const { name, password } = demoUser;
  const job = `{"ApplicationName": "${application}", "Parameters": {"INPUT": "/etc/os-release"}}`;
  return `
The server goes on running: ${url}
  user ${name}, password ${password}, or the certificate ${join(layout.credentials, 'demo-user.pem')}

The same job with curl (-i shows where the job is):
  curl -i --cacert ${ca} -u ${name}:${password} \\
    -H 'Content-Type: application/json' -d '${job}' ${url}/VSITE/rest/core/jobs

With pyunicore (pip install pyunicore):
  import pyunicore.client as uc, pyunicore.credentials as cr
  client = uc.Client(cr.UsernamePassword("${name}", "${password}"), "${url}/VSITE/rest/core")
  open("input.txt", "w").write("hello grid")
  job = client.new_job({"ApplicationName": "${application}", "Parameters": {"INPUT": "input.txt"}}, ["input.txt"])
  job.poll()
  print(job.working_dir.stat("stdout").read().decode())

To end it:  npm run quickstart -- --stop
`;
}
