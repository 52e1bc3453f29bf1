import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { createHttpClient } from '#kernel/http/client.js';
import { Grid, imagesPath, noMachines, refusal, sitePath } from './grid.js';

describe('tokens through the gateway', { skip: noMachines, timeout: 180_000 }, () => {
  let grid: Grid;
  before(async () => {
    grid = await Grid.start();
  });
  after(() => grid[Symbol.asyncDispose]());

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
