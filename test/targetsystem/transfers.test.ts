import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { formatDate, systemClock } from '#kernel/clock.js';
import { Scope } from '#kernel/scope.js';
import { until } from '../xnjs/job/rig.js';
import { login, pathOf, startRig, type Answer, type Ask, type Rig } from './storages-rig.js';

const core = 'https://grid.example/TEST/rest/core';
const asBytes = { headers: { accept: 'application/octet-stream' } };

/** As the system's, but for what the test adds. */
const clock = { ...systemClock, aheadMs: 0, now: () => Date.now() + clock.aheadMs };

describe('transfers by REST', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: Rig;
  let site: string;
  let [alice, bob, admin, nobody]: Ask[] = [];
  let web: Server;
  let webUrl: string;
  const content = randomBytes(12_000_000); // more than what is read ahead
  let [cuts, requests, gate]: [number, string[], Promise<void> | undefined] = [0, [], undefined];
  before(async () => {
    rig = await startRig(scope, {
      clock,
      data: { reaperIntervalMs: 20, perUser: 12 },
      config: (directory) => ({
        shared: {
          ARCHIVE: { on: 'host', path: `${directory}/archive`, quotaMiB: 64 },
          SMALL: { on: 'host', path: `${directory}/small`, quotaMiB: 1 },
          SCRATCH: { on: 'target', path: `${directory}/scratch` },
        },
      }),
    });
    site = await rig.makeSite('CN=Alice,O=Grid');
    [alice, bob, admin, nobody] = [
      rig.as('alice'),
      rig.as('bob'),
      rig.as('admin'),
      rig.as('nobody'),
    ];
    web = createServer((request, response) => {
      requests.push(`${request.method} ${request.url} ${request.headers.range ?? ''}`.trim());
      const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0);
      response.writeHead(from > 0 ? 206 : 200, {
        etag: '"v1"',
        'content-length': content.length - from,
        ...(from > 0 && {
          'content-range': `bytes ${from}-${content.length - 1}/${content.length}`,
        }),
      });
      if (cuts-- > 0)
        response.write(content.subarray(from, from + 5_000_000), () =>
          response.socket?.destroySoon(),
        );
      else if (gate) {
        response.write(content.subarray(from, from + 1_000));
        void gate.then(() => response.end(content.subarray(from + 1_000)));
      } else response.end(content.subarray(from));
    }).listen(0, '127.0.0.1');
    await once(web, 'listening');
    scope.defer(() => web.close());
    scope.defer(() => web.closeAllConnections());
    webUrl = `http://127.0.0.1:${(web.address() as AddressInfo).port}`;
  });
  after(() => scope.close());

  const over = async (path: string, expected = 'DONE'): Promise<Answer['body']> => {
    let body: Answer['body'] = {};
    await until(`${path} is over`, async () => {
      ({ body } = await alice!('GET', path));
      return !['CREATED', 'RUNNING'].includes(body['status'] as string);
    });
    assert.equal(body['status'], expected, JSON.stringify(body));
    return body;
  };
  const start = async (storage: string, body: object, ask = alice): Promise<string> => {
    const { status, headers, text } = await ask!('POST', `/storages/${storage}/transfers`, {
      body,
    });
    assert.equal(status, 201, text);
    return pathOf(headers['location']);
  };
  const put = async (storage: string, path: string, body: string): Promise<void> => {
    const { status, text } = await alice!('PUT', `/storages/${storage}/files/${path}`, { body });
    assert.equal(status, 204, text);
  };
  const textOf = async (storage: string, path: string): Promise<string> =>
    (await alice!('GET', `/storages/${storage}/files/${path}`, asBytes)).text;

  for (const [where, storage] of [
    ['in a target system', () => `${site}-SCRATCH`],
    ['on the server', () => 'ARCHIVE'],
  ] as const)
    describe(`of a storage ${where}`, () => {
      const wish = async (direction: string, body: object): Promise<Answer> =>
        alice!('POST', `/storages/${storage()}/${direction}`, { body });

      it('take a file from a client, whole or in pieces, and give it back without login', async () => {
        const { status, headers, body } = await wish('imports', {
          file: 'dir/in.dat',
          protocol: 'BFT',
          overwrite: true,
          numBytes: 8,
          extraParameters: {},
        });
        assert.equal(status, 200);
        const { accessURL, ...answer } = body;
        assert.deepEqual(answer, {
          protocol: 'BFT',
          parent: `${core}/storages/${storage()}`,
          isExport: 'false',
          fileName: '/dir/in.dat',
        });
        assert.match(String(accessURL), /^https:\/\/grid\.example\/TEST\/rest\/files\/[\w-]{43}$/);
        const at = pathOf(accessURL);
        const type = { 'content-type': 'application/octet-stream' };
        const sent = await alice!('PUT', at, { body: '01234567', headers: type });
        assert.deepEqual([sent.status, sent.text], [204, '']);
        assert.equal((await alice!('PUT', at, { body: '0123456789' })).status, 413);
        assert.equal((await nobody!('GET', at)).status, 406, 'there are only bytes here');
        assert.equal((await nobody!('GET', at, asBytes)).status, 403, 'it is for uploading');
        const resource = pathOf(headers['location']);
        const shown = (await alice!('GET', resource)).body;
        assert.deepEqual(
          [shown['isExport'], shown['target'], shown['transferredBytes'], shown['source']],
          [false, '/dir/in.dat', 8, undefined],
        );
        const more = await wish('imports', { file: '/dir/in.dat', overwrite: false });
        await nobody!('PUT', pathOf(more.body['accessURL']), { body: '89' });
        assert.equal(await textOf(storage(), 'dir/in.dat'), '0123456789');

        const { body: out } = await wish('exports', { file: 'dir/in.dat' });
        assert.equal(out['isExport'], 'true');
        const from = pathOf(out['accessURL']);
        const whole = await nobody!('GET', from, asBytes);
        assert.deepEqual(
          [whole.status, whole.text, whole.headers['content-disposition']],
          [200, '0123456789', 'attachment; filename="in.dat"'],
        );
        for (const [range, expected] of [
          ['bytes=2-4', '234'],
          ['bytes=7-', '789'],
          ['bytes=-3', '789'],
        ] as const) {
          const part = await nobody!('GET', from, { headers: { ...asBytes.headers, range } });
          assert.deepEqual([part.status, part.text], [206, expected]);
        }
        assert.equal((await nobody!('PUT', from, { body: 'x' })).status, 403);
        assert.equal((await alice!('DELETE', from)).status, 405);
      });

      it('refuse what they cannot do, and say what is offered', async () => {
        await put(storage(), 'there/x', 'x');
        for (const [direction, body, status, reason] of [
          [
            'imports',
            { file: 'a', protocol: 'UFTP' },
            400,
            /'UFTP' is not available; offered: BFT/,
          ],
          ['exports', { file: 'missing' }, 404, /no file "\/missing"/],
          ['imports', { file: 'there' }, 400, /directory/],
          ['exports', { file: 'there' }, 400, /directory/],
          ['imports', {}, 400, /file: name the file/],
          ['imports', { file: '../x' }, 400, /leads out/],
          ['imports', { file: 'a', numBytes: 1e15 }, 507, /there is place for \d+ bytes/],
          [
            'transfers',
            { file: 'a', source: 'gopher://x/y' },
            400,
            /source: .*"gopher".*offered: .*BFT/,
          ],
          ['transfers', { file: 'a' }, 400, /name a source/],
          ['transfers', { file: 'a', source: 'http://x/', target: 'http://y/' }, 400, /not both/],
          ['transfers', { source: 'http://x/' }, 400, /file: name the file/],
          ['transfers', { file: 'missing', target: 'http://x/y' }, 404, /no file "\/missing"/],
          [
            'transfers',
            { file: 'a', source: 'http://x/', extraParameters: { scheduledStartTime: 'soon' } },
            400,
            /scheduledStartTime/,
          ],
        ] as const) {
          const { status: answered, body: said } = await wish(direction, body);
          assert.equal(answered, status, JSON.stringify(body));
          assert.match(String(said['errorMessage']), reason);
        }
        const file = `${core}/storages/${storage()}/files/x`;
        const uftp = await wish('transfers', { file: 'a', source: file, protocol: 'UFTP' });
        assert.equal(uftp.status, 400);
      });

      it('fetch a file from the web, from where the connection broke', async () => {
        cuts = 2;
        requests = [];
        const path = await start(storage(), {
          file: 'web/got',
          source: `${webUrl}/f?token=secret`,
        });
        const body = await over(path);
        const { transferredBytes, size, files, source, isExport, target } = body as Record<
          string,
          unknown
        >;
        const shown = { transferredBytes, size, files, source, isExport, target };
        assert.deepEqual(shown, {
          transferredBytes: content.length,
          size: content.length,
          files: { '/web/got': 'DONE' },
          source: `${webUrl}/f`,
          isExport: false,
          target: 'web/got',
        });
        assert.match(String(body['statusMessage']), /^SUCCESSFUL \(12000000 bytes in /);
        const ranges = requests.map((each) => Number(/bytes=(\d+)-$/.exec(each)?.[1] ?? 0));
        assert.equal(ranges.length, 3);
        assert.ok(ranges[1]! > 0 && ranges[2]! > ranges[1]!, requests.join());
        const head = await alice!('HEAD', `/storages/${storage()}/files/web/got`, asBytes);
        assert.equal(head.headers['content-length'], String(content.length));
        const root = storage() === 'ARCHIVE' ? archive() : join(rig.directory, 'scratch');
        const sum = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
        assert.equal(sum(readFileSync(join(root, 'web/got'))), sum(content));
        assert.deepEqual(
          readdirSync(root).filter((name) => name.startsWith('.UNICORE_')),
          [],
        );
        await alice!('DELETE', `/storages/${storage()}/files/web`);
      });

      it('go to and from another storage, with wildcards', async () => {
        await put(storage(), 'many/a.txt', 'aa');
        await put(storage(), 'many/b.txt', 'bbb');
        await put(storage(), 'many/c.bin', 'c');
        const other = `${core}/storages/${site}-WORK/files/test-${storage()}`;
        const pushed = await over(
          await start(storage(), { file: 'many/*.txt', target: `${other}/` }),
        );
        assert.deepEqual([pushed['transferredBytes'], pushed['size']], [5, 5]);
        const pulled = await over(
          await start(storage(), { file: 'back/', source: `BFT:${other}/?.txt` }),
        );
        assert.equal(pulled['source'], `BFT:${other}/?.txt`);
        assert.deepEqual(pulled['files'], { '/back/a.txt': 'DONE', '/back/b.txt': 'DONE' });
        assert.equal(await textOf(storage(), 'back/b.txt'), 'bbb');
        const one = await over(await start(storage(), { file: 'one', source: `${other}/a.txt` }));
        assert.deepEqual([one['transferredBytes'], one['size']], [2, 2]);
        await alice!('DELETE', pathOf(other));
      });

      it('can be aborted, and leave nothing half done', async () => {
        let open = (): void => undefined;
        gate = new Promise((resolve) => (open = resolve));
        const path = await start(storage(), { file: 'half', source: `${webUrl}/slow` });
        await until('bytes have come', async () => {
          const { body } = await alice!('GET', path);
          return Number(body['transferredBytes']) > 0 && body['status'] === 'RUNNING';
        });
        const { body } = await alice!('GET', path);
        assert.deepEqual([body['size'], body['files']], [content.length, { '/half': 'RUNNING' }]);
        const action = pathOf(
          (body['_links'] as Record<string, { href: string }>)['action:abort']?.href,
        );
        assert.equal((await bob!('POST', action, { body: {} })).status, 403);
        assert.equal((await alice!('POST', action, { body: {} })).status, 204);
        assert.equal((await alice!('POST', action, { body: {} })).status, 204);
        await over(path, 'ABORTED');
        const root = storage() === 'ARCHIVE' ? archive() : join(rig.directory, 'scratch');
        await until('the part is removed', () =>
          readdirSync(root).every((name) => !name.startsWith('.UNICORE_')),
        );
        assert.ok(!existsSync(join(root, 'half')));
        const second = await start(storage(), { file: 'half', source: `${webUrl}/slow` });
        await until(
          'it runs',
          async () => (await alice!('GET', second)).body['status'] === 'RUNNING',
        );
        assert.equal((await alice!('DELETE', second)).status, 204);
        assert.equal((await alice!('GET', second)).status, 404);
        gate = undefined;
        open();
      });
    });

  const archive = (): string => {
    const base = join(rig.directory, 'archive');
    return join(
      base,
      readdirSync(base).find((name) => name.startsWith('alice-'))!,
    );
  };

  it('are their owner’s, in lists and pages', async () => {
    const wish = { body: { file: 'listed', tags: ['t1'] } };
    const { headers } = await alice!('POST', '/storages/ARCHIVE/imports', wish);
    const mine = String(headers['location']);
    const list = await alice!('GET', '/client-server-transfers?tags=t1');
    assert.deepEqual(list.body['client-server-transfers'], [mine]);
    for (const collection of ['client-server-transfers', 'transfers', 'tasks'])
      for (const ask of [bob!, nobody!])
        assert.deepEqual((await ask('GET', `/${collection}`)).body[collection], []);
    const path = pathOf(mine);
    for (const [ask, status] of [
      [bob!, 403],
      [nobody!, 403],
      [admin!, 200],
    ] as const)
      assert.equal((await ask('GET', path)).status, status);
    assert.equal((await bob!('DELETE', path)).status, 403);
    const { body } = await alice!('GET', `${path}?fields=owner,tags`);
    assert.deepEqual(body, { owner: 'CN=Alice,O=Grid', tags: ['t1'] });
    assert.equal((await alice!('DELETE', path)).status, 204);
    assert.equal((await alice!('GET', path)).status, 404);
    assert.equal((await alice!('DELETE', '/transfers')).status, 405);
  });

  it('fail with a reason, and do not touch addresses inside the site', async () => {
    const gone = await over(
      await start('ARCHIVE', { file: 'x', source: `${core}/storages/ARCHIVE/files/none` }),
      'FAILED',
    );
    assert.match(String(gone['statusMessage']), /no file/);
    const inside = await over(
      await start('ARCHIVE', { file: 'x', source: 'http://[::1]:1/x' }),
      'FAILED',
    );
    assert.match(String(inside['statusMessage']), /inside this site/);
    const full = 'x'.repeat(700_000);
    await put('SMALL', 'first', full);
    const big = await over(
      await start('SMALL', { file: 'x', source: 'inline://x', data: full }),
      'FAILED',
    );
    assert.match(String(big['statusMessage']), /limit of 1048576 bytes/);
    const small = await over(
      await start('ARCHIVE', { file: 'x', source: 'inline://x', data: 'abc' }),
    );
    assert.equal(small['transferredBytes'], 3);
  });

  it('let nobody act as an account that is another’s', async () => {
    writeFileSync(join(rig.directory, 'scratch', 'mine'), 'x', { mode: 0o644 });
    const storage = `/storages/${site}-SCRATCH`;
    await alice!('PUT', storage, { body: { acl: ['write:DN:CN=Bob,O=Grid'] } });
    const from = { file: 'stolen', source: `file://${rig.directory}/scratch/mine` };
    const refused = await bob!('POST', `${storage}/transfers`, { body: from });
    assert.deepEqual([refused.status, refused.text.includes('owner')], [400, true]);
    const granted = await bob!('POST', `${storage}/exports`, { body: { file: 'mine' } });
    assert.equal(granted.status, 200, granted.text);
    const at = pathOf(granted.body['accessURL']);
    assert.equal((await nobody!('GET', at, asBytes)).text, 'x');
    await alice!('PUT', storage, { body: { acl: [] } });
    assert.equal((await nobody!('GET', at, asBytes)).status, 403, 'his leave has ended');
    if (login !== 'nobody') return; // the agent is the user of the test: it may read the directory
    const own = await over(await start(`${site}-SCRATCH`, { ...from, file: 'copied' }));
    assert.equal(own['status'], 'DONE');
  });

  it('wait for the time that they are to start at', async () => {
    const scheduledStartTime = formatDate(clock.now() + 3_600_000);
    const path = await start('ARCHIVE', {
      file: 'later',
      source: `${webUrl}/f`,
      extraParameters: { scheduledStartTime },
    });
    const { body } = await alice!('GET', path);
    assert.deepEqual(
      [body['status'], body['size'], body['scheduledStartTime']],
      ['CREATED', -1, scheduledStartTime],
    );
    await alice!('DELETE', path);
    assert.equal((await alice!('GET', path)).status, 404);
  });

  it('end with their time, unless that is extended', async () => {
    await put('ARCHIVE', 'kept', 'x');
    const wish = { body: { file: 'kept' } };
    const [short, long] = [
      await alice!('POST', '/storages/ARCHIVE/exports', wish),
      await alice!('POST', '/storages/ARCHIVE/exports', wish),
    ];
    const [shortPath, longPath] = [short, long].map(({ headers }) => pathOf(headers['location']));
    clock.aheadMs += 20 * 3_600_000;
    const later = { terminationTime: formatDate(clock.now() + 23 * 3_600_000) };
    const answer = await alice!('PUT', longPath!, { body: later });
    assert.deepEqual(answer.body, { terminationTime: 'OK' });
    const tooLate = { terminationTime: formatDate(clock.now() + 25 * 3_600_000) };
    const refused = await alice!('PUT', longPath!, { body: { ...tooLate, colour: 'red' } });
    assert.match(String(refused.body['terminationTime']), /^Error setting property: .*later/);
    assert.equal(refused.body['colour'], 'Property not found or cannot be modified!');
    clock.aheadMs += 5 * 3_600_000;
    const [a, b] = [short, long].map(({ body }) => pathOf(body['accessURL']));
    assert.equal(
      (await nobody!('GET', a!, asBytes)).status,
      404,
      'before the reaper has come, too',
    );
    assert.equal((await nobody!('GET', b!, asBytes)).status, 200);
    await until('it is reaped', async () => (await alice!('GET', shortPath!)).status === 404);
    assert.equal((await alice!('GET', longPath!)).status, 200);
    assert.equal(await textOf('ARCHIVE', 'kept'), 'x', 'the file has no part in it');
  });
});
