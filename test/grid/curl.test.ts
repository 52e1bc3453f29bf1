import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { request, type RequestOptions } from 'node:https';
import type { Duplex } from 'node:stream';
import { text } from 'node:stream/consumers';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { errorText } from '#kernel/errors.js';
import { bytes, chapters, echoService, jsdl, json, post, remove } from './clients/curl-story.js';
import { curlWith, type Request } from './clients/curl.js';
import { eventually, factoryPath, Grid, noContainers, sitePath } from './grid.js';

describe(
  'curl with a client certificate, through the gateway',
  { skip: noContainers, timeout: 240_000 },
  () => {
    let grid: Grid;
    let work: string;
    let pair: string;
    const names = new Map<string, string>();
    let curl: ReturnType<typeof curlWith>;
    before(async () => {
      work = await mkdtemp(join(tmpdir(), 'vsite-curl-'));
      grid = await Grid.start();
      await grid.publishDemo('container');
      await grid.publishTestImage('slurm');
      pair = join(grid.layout.credentials, 'demo-user');
      names.set('core', grid.url + sitePath).set('factory', grid.url + factoryPath);
      curl = curlWith(certificate(), work, names);
      const content = randomBytes(2_000_001);
      const half = 1_000_000;
      names.set('half', String(half));
      await writeFile(join(work, 'in.txt'), 'grid middleware\n');
      await writeFile(join(work, 'job.xml'), jsdl);
      await writeFile(join(work, 'whole.bin'), content);
      await writeFile(join(work, 'half.bin'), content.subarray(0, half));
      await writeFile(join(work, 'rest.bin'), content.subarray(half));
      await writeFile(join(work, 'part.bin'), content.subarray(0, 1_234_567));
    });
    after(async () => {
      await grid[Symbol.asyncDispose]();
      await rm(work, { recursive: true });
    });

    const certificate = (): string[] => [
      ...['--cacert', grid.caFile, '--cert', `${pair}.pem`, '--key', `${pair}.key`],
    ];

    async function tell({
      what,
      args,
      status,
      body = /(?:)/,
      keep,
      until,
    }: Request): Promise<void> {
      let last = '';
      const asked = async (): Promise<boolean> => {
        const answer = await curl(args);
        last = answer.body;
        if (until && answer.status === 404) return false; // a file that a job has yet to write
        assert.equal(answer.status, status, `${what}: ${answer.body}`);
        const found = body.exec(answer.body);
        if (!found && until) return false;
        assert.ok(found, `${what}: ${answer.body}`);
        if (keep) names.set(keep, found[1] ?? answer.made);
        return true;
      };
      await eventually(`${what}: ${String(body)}`, asked).catch((error: unknown) => {
        throw new Error(`${errorText(error)}, last ${last}`, { cause: error });
      });
    }
    const chapter = (title: string): void => {
      it(title, async () => {
        for (const each of chapters[title]!) await tell(each);
      });
    };

    chapter('who one is, and what there is');
    chapter('a job with an input file');
    chapter('a job in JSDL');
    chapter('abort and restart');
    chapter('an allocation of a batch system');
    chapter('an allocation, where there is no batch system');
    chapter('files, with uploads and downloads that break');
    it('has gone on with the download where it was', async () => {
      const [part, whole] = await Promise.all(
        ['part.bin', 'whole.bin'].map((name) => readFile(join(work, name))),
      );
      assert.ok(part!.equals(whole!));
    });
    chapter('transfers by the server');

    it('a link that needs no certificate, and a token that does instead of one', async () => {
      const stranger = curlWith(['--cacert', grid.caFile], work, names);
      const fetched = await stranger(['-o', 'fetched.bin', '$link']);
      assert.equal(fetched.status, 200);
      execFileSync('cmp', [join(work, 'fetched.bin'), join(work, 'whole.bin')]);
      const token = await curl(['-H', 'Accept: text/plain', '$core/token?lifetime=60']);
      const bearer = ['-H', `Authorization: Bearer ${token.body}`];
      const { body } = await stranger([...bearer, '$core?fields=client']);
      assert.match(body, /"dn":"CN=Demo User,O=VSite,C=EU".*"ETD"/);
      assert.match((await stranger(['$core?fields=client'])).body, /"selected":"anonymous"/);
      assert.match((await stranger(['$core/jobs'])).body, /"jobs":\[\]/);
      assert.equal((await stranger(['$core/jobs/$job'])).status, 403);
    });

    it('events, while they happen', async () => {
      const stream = spawn('curl', [
        ...['--silent', '--include', '--no-buffer', ...certificate()],
        `${grid.url}${sitePath}/events?types=job`,
      ]);
      let heard = '';
      stream.stdout.on('data', (chunk: Buffer) => (heard += chunk.toString()));
      await eventually('it listens', () => Promise.resolve(heard !== ''));
      const { made } = await curl(post('$core/sites/$site', { Executable: 'true' }));
      const end = new RegExp(`"id":"${made}".*"status":"SUCCESSFUL"`);
      await eventually('it hears of the end', () => Promise.resolve(end.test(heard)));
      stream.kill();
      await once(stream, 'close');
    });

    it('a service of a job, by the Upgrade header', async () => {
      const service = { Executable: echoService(7_777) };
      const { made } = await curl(post('$core/sites/$site', service));
      names.set('echo', made);
      await tell({
        what: 'it serves',
        args: [...bytes, '$core/storages/$echo-uspace/files/stdout'],
        status: 200,
        body: /up/,
        until: true,
      });
      const [ca, cert, key] = await Promise.all(
        [grid.caFile, `${pair}.pem`, `${pair}.key`].map((file) => readFile(file)),
      );
      // curl cannot speak after an upgrade that it does not know
      const options: RequestOptions = {
        ...{ ca, cert, key },
        headers: { Connection: 'Upgrade', Upgrade: 'UNICORE-Socket-Forwarding' },
      };
      const url = `${grid.url}${sitePath}/jobs/${made}/forward-port?port=7777`;
      const asked = request(url, options).end();
      const [answer, socket] = (await once(asked, 'upgrade')) as [{ statusCode: number }, Duplex];
      assert.equal(answer.statusCode, 101);
      const sent = 'abcdefgh'.repeat(50_000);
      socket.end(sent);
      assert.equal(await text(socket), sent);
      await curl(remove('$core/jobs/$echo'));
    });

    it('more than 500 jobs, in pages', async () => {
      const job = JSON.stringify({ Tags: ['page'] });
      const many = ['--parallel', '--parallel-max', '8', ...json, '-d', job, '$core/jobs#[1-501]'];
      await curl(many);
      const seen = new Set<string>();
      const sizes: number[] = [];
      for (let page: string[] | undefined; page?.length !== 0; sizes.push(page.length)) {
        const { body } = await curl([`$core/jobs?tags=page&num=200&offset=${seen.size}`]);
        page = (JSON.parse(body) as { jobs: string[] }).jobs;
        for (const url of page) seen.add(url);
      }
      assert.deepEqual([sizes, seen.size], [[200, 200, 101, 0], 501]);
    });

    chapter('the end');
  },
);
