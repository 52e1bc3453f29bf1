import assert from 'node:assert/strict';
import { createHash, randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { deleteAndWait } from '#cli/client/resources.js';
import { runJob, createTargetSystem, waitUntilReady } from '#cli/quickstart/main-job.js';
import type { HttpClient } from '#kernel/http/client.js';
import {
  eventually,
  factoryPath,
  Grid,
  imagesPath,
  noContainers,
  refusal,
  sitePath,
} from './grid.js';

const signal = AbortSignal.timeout(120_000);
const image = 'vsite-demo-container';
const nobody = randomUUID();

describe('a refused request', { skip: noContainers }, () => {
  let grid: Grid;
  let user: HttpClient;
  let mallory: HttpClient;
  let site: string;
  let job: string;
  const path = (name: string): string => `${sitePath}/storages/${name}`;
  const home = (): string => path(`${site.split('/').at(-1)}-HOME`);
  const uspace = (): string => path(`${job.split('/').at(-1)}-uspace`);

  before(async () => {
    grid = await Grid.start({
      prepare: async (grid) => {
        await grid.set('targetsystem', 'defaultImage', undefined);
        await grid.set('targetsystem', 'xnjs.targetSystems.limits.perUser', 2);
      },
    });
    await grid.publishDemo('container');
    user = await grid.user();
    mallory = await grid.addUser('mallory', 'hopeless42');
    site = await createTargetSystem(user, image, {});
    await waitUntilReady(user, site, signal, () => undefined);
    const done = await runJob(user, site, 'Wordcount', 'some words\n', signal);
    job = done.url;
  });
  after(async () => grid[Symbol.asyncDispose]());

  /** The call is refused in these words, and everything is as it was before. */
  async function refused(
    call: () => Promise<unknown>,
    status: number,
    text: RegExp,
  ): Promise<void> {
    const before = await grid.inventory();
    await assert.rejects(call(), refusal(status, text));
    assert.deepEqual(await grid.inventory(), before);
  }

  describe('for a target system', () => {
    const wishes = [
      ['an image id that is not there', { image: nobody }, 404, /^image: .* no published image/],
      ['an image name that is not there', { image: 'nothing' }, 404, /^image: .* nothing$/],
      ['an image version that is not there', { image: `${image}:9` }, 404, /^image: .*:9$/],
      ['an image name that cannot be', { image: 'x'.repeat(90) }, 404, /^image: /],
      ['no image, where there is no default', {}, 400, /^image: name the image/],
      ['an image that is no name', { image: 7 }, 400, /^image: /],
      [
        'too few processors',
        { image, parameters: { cpus: 0 } },
        400,
        /^parameters\.cpus: 0 .* 1-4/,
      ],
      ['too many', { image, parameters: { cpus: 5 } }, 400, /^parameters\.cpus: 5 .* 1-4/],
      ['half a processor', { image, parameters: { cpus: 1.5 } }, 400, /^parameters\.cpus: /],
      ['a processor that is true', { image, parameters: { cpus: true } }, 400, /^parameters\.cpus/],
      [
        'too little memory',
        { image, parameters: { memoryMiB: 1 } },
        400,
        /memoryMiB: 1 .* 64-4096/,
      ],
      ['too much', { image, parameters: { memoryMiB: 1e9 } }, 400, /memoryMiB: 1000000000 /],
      [
        'memory in words',
        { image, parameters: { memoryMiB: 'lots' } },
        400,
        /^parameters\.memoryMiB/,
      ],
      ['no number', { image, parameters: { cpus: '' } }, 400, /^parameters\.cpus: must/],
      ['an unknown parameter', { image, parameters: { gpus: 1 } }, 400, /^parameters.*gpus/],
      ['parameters that are none', { image, parameters: 'many' }, 400, /^parameters: /],
      ['a wrong date', { image, terminationTime: 'soon' }, 400, /^terminationTime: /],
    ] as const;
    for (const [title, wish, status, text] of wishes)
      it(`with ${title} makes none: ${status}`, () =>
        refused(() => user.json('POST', factoryPath, wish), status, text));

    it('from an image without all its parts makes none', async () => {
      const creator = await grid.creator();
      const { body } = await creator.json('GET', `${imagesPath}?details=true&name=${image}`);
      const [{ metadata }] = (body as { records: [{ metadata: object }] }).records;
      const { headers } = await creator.json('POST', imagesPath, { ...metadata, name: 'empty' });
      const draft = new URL(String(headers['location'])).pathname;
      await refused(() => user.json('POST', factoryPath, { image: 'empty' }), 404, /empty/);
      await refused(
        () => creator.json('POST', `${draft}/actions/publish`, {}),
        400,
        /rootfs is missing/,
      );
      await creator.json('DELETE', draft);
    });

    it('over the limit per user makes none', async () => {
      const second = await createTargetSystem(user, image, {});
      await waitUntilReady(user, second, signal, () => undefined);
      const third = (): Promise<unknown> => user.json('POST', factoryPath, { image });
      await refused(
        third,
        429,
        /quota of the user .*targetSystems: 2 used, 1 asked for, 2 allowed/,
      );
      await deleteAndWait(user, second, signal);
    });
  });

  describe('of nobody', () => {
    it('with a wrong password is 403', async () => {
      const wrong = await grid.client({ user: 'demouser', password: 'wrong' });
      await refused(() => wrong.json('POST', factoryPath, { image }), 403, /credentials/i);
      await refused(() => wrong.json('GET', `${sitePath}/sites`), 403, /credentials/i);
    });
    it('with the password of another is 403', async () => {
      const wrong = await grid.client({ user: 'mallory', password: 'test123' });
      await refused(() => wrong.json('POST', factoryPath, { image }), 403, /credentials/i);
    });
    it('without credentials is refused, lists are empty', async () => {
      const nameless = await grid.client();
      await refused(() => nameless.json('POST', factoryPath, { image }), 403, /denied/);
      await refused(() => nameless.json('POST', `${sitePath}/sites`, { image }), 403, /denied/);
      await refused(() => nameless.json('POST', `${sitePath}/jobs`, {}), 401, /log in/);
      await refused(() => nameless.json('GET', imagesPath), 403, /denied/);
      const { body } = await nameless.json('GET', `${sitePath}/sites`);
      assert.deepEqual((body as { sites: [] }).sites, []);
    });
    it('with an unknown session is 432', async () => {
      const headers = { 'x-unicore-securitysession': nobody };
      const call = (): Promise<unknown> => user.json('POST', factoryPath, { image }, { headers });
      await refused(call, 432, /session/);
    });
    it('with the name of another in a header of the gateway is 403', async () => {
      const nameless = await grid.client();
      const headers = { 'x-unicore-consignor': 'DN="CN=Demo User,O=VSite,C=EU"' };
      await refused(
        () => nameless.json('POST', factoryPath, { image }, { headers }),
        403,
        /denied/,
      );
    });
  });

  describe('of another user', () => {
    const calls: Record<string, () => Promise<unknown>> = {
      'reads a target system': () => mallory.json('GET', site),
      'reads its console': () =>
        mallory.download(`${site}/console`, { headers: { accept: 'text/plain' } }),
      'reads its jobs': () => mallory.json('GET', `${site}/jobs`),
      'changes it': () => mallory.json('PUT', site, { tags: ['mine'] }),
      'deletes it': () => mallory.json('DELETE', site),
      'submits a job to it': () => mallory.json('POST', `${site}/jobs`, { Executable: 'id' }),
      'submits a job as UCC does': () => mallory.json('POST', site, { Executable: 'id' }),
      'reads a job': () => mallory.json('GET', job),
      'reads its description': () => mallory.json('GET', `${job}/submitted`),
      'reads its details': () => mallory.json('GET', `${job}/details`),
      'aborts it': () => mallory.json('POST', `${job}/actions/abort`, {}),
      'deletes it, a job': () => mallory.json('DELETE', job),
      'reads a storage': () => mallory.json('GET', home()),
      'lists its files': () => mallory.json('GET', `${home()}/files`),
      'reads a file': () => mallory.download(`${uspace()}/files/stdout`),
      'writes a file': () =>
        mallory.upload('PUT', `${uspace()}/files/x`, Readable.from([Buffer.from('x')])),
      'makes a directory': () => mallory.json('POST', `${home()}/files/x`, {}),
      'removes a file': () => mallory.json('DELETE', `${uspace()}/files/stdout`),
      'renames a file': () =>
        mallory.json('POST', `${uspace()}/actions/rename`, { from: '/stdout', to: '/x' }),
    };
    for (const [title, call] of Object.entries(calls))
      it(`${title}: 403`, () => refused(call, 403, /denied/));

    it('has changed nothing in the end', async () => {
      const { body } = await user.json('GET', `${uspace()}/files`);
      const names = Object.keys((body as { content: object }).content);
      assert.ok(names.includes('/stdout') && !names.includes('/x'), names.join());
      assert.deepEqual((await mallory.json('GET', `${sitePath}/sites`)).body, {
        ...((await mallory.json('GET', `${sitePath}/sites`)).body as object),
        sites: [],
      });
    });

    it('who uses, reads or deletes a private image: it is unknown', async () => {
      const creator = await grid.creator();
      const { body } = await creator.json('GET', `${imagesPath}?details=true&name=${image}`);
      const { records } = body as { records: [{ id: string }] };
      const id = records[0].id;
      const its = `${imagesPath}/${id}`;
      await creator.json('PUT', its, { visibility: 'private' });
      await refused(() => mallory.json('POST', factoryPath, { image }), 404, /^image: /);
      await refused(() => mallory.json('POST', factoryPath, { image: id }), 404, /^image: /);
      await refused(() => mallory.json('GET', its), 404, /image/);
      await refused(() => mallory.download(`${its}/parts/rootfs`), 404, /image/);
      await refused(() => mallory.json('DELETE', its), 404, /image/);
      await creator.json('PUT', its, { visibility: 'public' });
      await refused(() => mallory.json('DELETE', its), 403, /denied/);
    });
  });

  describe('to upload an image', () => {
    let draft: string;
    let creator: HttpClient;
    before(async () => {
      creator = await grid.creator();
      const { body } = await creator.json('GET', `${imagesPath}?details=true&name=${image}`);
      const [{ metadata }] = (body as { records: [{ metadata: object }] }).records;
      const { headers } = await creator.json('POST', imagesPath, { ...metadata, name: 'broken' });
      draft = new URL(String(headers['location'])).pathname;
    });
    after(() => creator.json('DELETE', draft));
    const put = (part: string, content: string, query = ''): Promise<unknown> =>
      creator.upload(
        'PUT',
        `${draft}/parts/${part}${query}`,
        Readable.from([Buffer.from(content)]),
      );

    it('with wrong metadata names the field', () =>
      refused(() => creator.json('POST', imagesPath, { name: 'x' }), 400, /version: .*format: /s));
    it('with a part of another kind is not published', async () => {
      await put('rootfs', 'no tar at all');
      await refused(
        () => creator.json('POST', `${draft}/actions/publish`, {}),
        400,
        /rootfs is no tar archive/,
      );
    });
    it('with a part that the format does not have leaves nothing', () =>
      refused(() => put('kernel', 'x'), 400, /kernel/));
    it('with another digest than announced leaves nothing', () => {
      const sha256 = createHash('sha256').update('something else').digest('hex');
      return refused(() => put('rootfs', 'x', `?sha256=${sha256}`), 400, /digest/);
    });
    it('of another user is unknown', () =>
      refused(
        () => mallory.upload('PUT', `${draft}/parts/rootfs`, Readable.from([])),
        404,
        /image/,
      ));
  });

  describe('for a job', () => {
    const wishes = [
      ['an unknown application', { ApplicationName: 'Nothing' }, /Nothing.*Transform/s],
      ['an unknown version', { ApplicationName: 'Transform', ApplicationVersion: '9' }, /9/],
      ['an unknown resource', { Executable: 'id', Resources: { GPUs: '1' } }, /^.*Resources\.GPUs/],
      [
        'too many processors',
        { Executable: 'id', Resources: { CPUs: '99' } },
        /Resources\.CPUs: 99/,
      ],
      ['memory in words', { Executable: 'id', Resources: { Memory: 'lots' } }, /Resources\.Memory/],
      ['arguments that are no list', { Executable: 'id', Arguments: 'x' }, /Arguments/],
      ['a variable that is none', { Executable: 'id', Environment: { 'a b': '1' } }, /Environment/],
      ['a command in a file name', { Executable: 'id', Stdout: '$(id)' }, /Stdout/],
      ['a line break in a file name', { Executable: 'id', Stdout: 'a\nb' }, /Stdout/],
      [
        'a file that leads out of its directory',
        { Executable: 'id', Imports: [{ To: '../../../../outside', Data: 'x' }] },
        /leads out of the storage/,
      ],
    ] as const;
    for (const [title, wish, text] of wishes)
      it(`with ${title} ends it FAILED with the reason, before anything runs`, async () => {
        const before = await grid.inventory();
        const { headers } = await user.json('POST', `${site}/jobs`, wish);
        const its = new URL(String(headers['location'])).pathname;
        const ended = await eventually('the job ends', async () => {
          const { body } = await user.json('GET', its);
          const found = body as { status: string; statusMessage: string };
          return found.status === 'FAILED' && found;
        });
        assert.match(ended.statusMessage, text);
        await user.json('DELETE', its);
        await eventually('all is as before', async () =>
          isDeepStrictEqual(await grid.inventory(), before),
        );
      });

    it('with malformed JSON is told where', () => {
      const headers = { 'content-type': 'application/json' };
      const body = Readable.from([Buffer.from('{"Executable": ')]);
      return refused(
        () => user.upload('POST', `${site}/jobs`, body, { headers }),
        400,
        /malformed JSON: .*\(line 1, column 16, where the text ends\)/,
      );
    });
    it('with a list instead of an object is told so', () =>
      refused(() => user.json('POST', `${site}/jobs`, ['id']), 400, /a JSON object/));
    it('with a body that is too large is 413', () =>
      refused(
        () => user.json('POST', `${site}/jobs`, { Executable: 'x'.repeat(2 ** 20) }),
        413,
        /1048576 bytes/,
      ));
    it('of an unknown target system is 404', () =>
      refused(
        () => user.json('POST', `${sitePath}/sites/${nobody}/jobs`, {}),
        404,
        /target system/,
      ));
    it('with no target system at all says how to get one', () =>
      refused(
        () => mallory.json('POST', `${sitePath}/jobs`, { Executable: 'id' }),
        400,
        /make one with/,
      ));
  });

  describe('for a file', () => {
    const names = [
      ['a path that leads out', '..%2f..%2fetc%2fpasswd', 400, /leads out of the storage/],
      ['a hidden path that leads out', 'a/..%2f..%2f..%2fetc%2fpasswd', 400, /leads out/],
      ['backslashes that lead out', '..%5c..%5cetc%5cpasswd', 400, /leads out/],
      ['a line break in it', 'a%0a%23TSI_FILE%20x', 400, /line breaks/],
      ['a NUL in it', 'a%00b', 400, /NUL/],
      ['half a letter in it', 'a%ff', 400, /malformed URL/],
      ['too long a name', 'x'.repeat(5_000), 400, /longer than 4096/],
      ['a name that is not there', 'nothing', 404, /no file "\/nothing"/],
    ] as const;
    for (const [title, name, status, text] of names)
      it(`with ${title} is not read: ${status}`, () =>
        refused(() => user.download(`${home()}/files/${name}`), status, text));
    for (const [title, name, status, text] of names.slice(0, -1))
      it(`with ${title} is not written: ${status}`, async () => {
        const bytes = Readable.from([Buffer.from('x')]);
        const call = (): Promise<unknown> => user.upload('PUT', `${home()}/files/${name}`, bytes);
        await refused(call, status, text);
      });
  });
});
