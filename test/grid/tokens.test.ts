import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { parseDocument } from 'yaml';
import { createHttpClient } from '#kernel/http/client.js';
import { pythonWith } from './clients/python.js';
import { Grid, imagesPath, noMachines, refusal, sitePath } from './grid.js';

const run = promisify(execFile);
/** Prints who the server takes the bearer for. */
const whoAmI = `
import sys
import pyunicore.client as uc, pyunicore.credentials as cr
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
url, key = sys.argv[1:3]
key = load_ssh_private_key(open(key, "rb").read(), None)
credential = cr.JWTToken("demouser", "demouser", key, "EdDSA")
client = uc.Client(uc.Transport(credential, verify=False), url)
print(client.properties["client"]["dn"], client.access_info()["authenticationMethod"])
`;

describe('tokens through the gateway', { skip: noMachines, timeout: 180_000 }, () => {
  let grid: Grid;
  before(async () => {
    grid = await Grid.start();
  });
  after(() => grid[Symbol.asyncDispose]());

  it('let an unmodified pyunicore in by SSH key', async () => {
    const key = join(grid.layout.credentials, 'ssh');
    execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key]);
    const users = parseDocument(await readFile(grid.layout.users, 'utf8'));
    users.setIn(['users', 0, 'sshKeys'], [await readFile(`${key}.pub`, 'utf8')]);
    await writeFile(grid.layout.users, users.toString());
    await grid.stopServer();
    await grid.startServer(); // the file would be read again, but only in a second
    const { stdout } = await run(await pythonWith(['pyunicore', 'cryptography']), [
      '-W',
      'ignore',
      '-c',
      whoAmI,
      grid.url + sitePath,
      key,
    ]);
    assert.equal(stdout, 'CN=Demo User,O=VSite,C=EU SSHKEY\n');
  });

  it('are given by the server, for itself and the image repository, and not for ever', async () => {
    const user = await grid.user();
    const accept = { headers: { accept: 'text/plain' } };
    const get = async (query: string): Promise<string> =>
      text((await user.download(`${sitePath}/token${query}`, accept)).body);
    const bearer = async (token: string) => {
      const ca = await readFile(grid.caFile, 'utf8');
      return createHttpClient({ baseUrl: grid.url, tls: { ca }, auth: { bearer: token } });
    };
    await using client = await bearer(await get('?lifetime=60'));
    const { body } = await client.json('GET', `${sitePath}?fields=client`);
    assert.deepEqual(
      (body as { client: { role: { selected: string } } }).client.role.selected,
      'user',
    );
    await client.json('GET', imagesPath);
    await assert.rejects(
      client.download(`${sitePath}/token`, accept),
      refusal(403, /not renewable/),
    );
    await using renewing = await bearer(await get('?renewable=true'));
    await renewing.download(`${sitePath}/token`, accept).then(({ body: token }) => text(token));
    await using limited = await bearer(await get('?limited=true'));
    await limited.json('GET', `${sitePath}/jobs`);
    await assert.rejects(limited.json('GET', imagesPath), refusal(403, /token refused/));
    await assert.rejects(get('?lifetime=2591999999'), refusal(400, /lifetime/));
    const stranger = await grid.client();
    await assert.rejects(stranger.download(`${sitePath}/token`, accept), refusal(403, /./));
  });
});
