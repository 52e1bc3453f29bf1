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
import { curlWith, type Request } from './clients/curl.js';
import { eventually, factoryPath, Grid, noContainers, sitePath } from './grid.js';

const json = ['-H', 'Content-Type: application/json'];
const bytes = ['-H', 'Accept: application/octet-stream'];
const posix = 'http://schemas.ggf.org/jsdl/2005/11/jsdl-posix';
const jsdl = `<JobDefinition xmlns="http://schemas.ggf.org/jsdl/2005/11/jsdl"><JobDescription>
  <JobIdentification><JobName>by JSDL</JobName><JobAnnotation>xml</JobAnnotation></JobIdentification>
  <Application><POSIXApplication xmlns="${posix}"><Executable>echo</Executable>
  <Argument>from</Argument><Argument>XML</Argument></POSIXApplication></Application>
</JobDescription></JobDefinition>`;
const echo = `exec "$(command -v node || echo /usr/bin/node)" -e 'require("net").createServer({allowHalfOpen:true},s=>s.pipe(s)).listen(7777,"127.0.0.1",()=>console.log("up"))'`;

const post = (url: string, body: object): string[] => [...json, '-d', JSON.stringify(body), url];
const action = (url: string): string[] => ['-X', 'POST', url];
const put = (url: string, body: object): string[] => ['-X', 'PUT', ...post(url, body)];
const remove = (url: string): string[] => ['-X', 'DELETE', url];

/** Chapters of the story: what is typed, and what comes back. */
const chapters: Record<string, readonly Request[]> = {
  'who one is, and what there is': [
    {
      what: 'base resource',
      args: ['$core?fields=client'],
      status: 200,
      body: /^\{"client":\{"dn":"CN=Demo User,O=VSite,C=EU".*"selected":"user".*"X509"/,
    },
    {
      what: 'factory',
      args: [`$factory`],
      status: 200,
      body: /"vsite-demo-container"|"applications"/,
    },
    {
      what: 'make a target system',
      args: ['-i', ...post('$factory', { image: 'vsite-demo-container' })],
      status: 201,
      keep: 'site',
    },
    {
      what: 'it is ready',
      args: ['$core/sites/$site?fields=resourceStatus'],
      status: 200,
      body: /^\{"resourceStatus":"READY"\}$/,
      until: true,
    },
    {
      what: 'its applications',
      args: ['$core/sites/$site/applications'],
      status: 200,
      body: /Transform/,
    },
  ],
  'a job with an input file': [
    {
      what: 'submit',
      args: post('$core/jobs', {
        ApplicationName: 'Transform',
        Parameters: { INPUT: 'in.txt' },
        haveClientStageIn: 'true',
        Tags: ['story'],
      }),
      status: 201,
      keep: 'job',
    },
    {
      what: 'upload',
      args: ['-T', 'in.txt', '$core/storages/$job-uspace/files/in.txt'],
      status: 204,
    },
    { what: 'start', args: action('$core/jobs/$job/actions/start'), status: 204 },
    {
      what: 'fields',
      args: ['$core/jobs/$job?fields=status,exitCode'],
      status: 200,
      body: /^\{"status":"SUCCESSFUL","exitCode":"0"\}$/,
      until: true,
    },
    {
      what: 'output',
      args: [...bytes, '$core/storages/$job-uspace/files/stdout'],
      status: 200,
      body: /GRID MIDDLEWARE\n$/,
    },
    { what: 'details', args: ['$core/jobs/$job/details'], status: 200, body: /^\{/ },
    {
      what: 'what was submitted',
      args: ['$core/jobs/$job/submitted'],
      status: 200,
      body: /"INPUT"/,
    },
    { what: 'by tag', args: ['$core/jobs?tags=story'], status: 200, body: /"jobs":\["[^"]+"\]/ },
    {
      what: 'other tags',
      args: put('$core/jobs/$job', { tags: ['new'] }),
      status: 200,
      body: /"OK"/,
    },
    { what: 'by the old tag', args: ['$core/jobs?tags=story'], status: 200, body: /"jobs":\[\]/ },
  ],
  'a job in JSDL': [
    {
      what: 'submit',
      args: ['-H', 'Content-Type: application/xml', '--data-binary', '@job.xml', '$core/jobs'],
      status: 201,
      keep: 'xml',
    },
    {
      what: 'it ends',
      args: ['$core/jobs/$xml?fields=status,name,tags'],
      status: 200,
      body: /"name":"by JSDL","status":"SUCCESSFUL"|"status":"SUCCESSFUL".*"by JSDL"/,
      until: true,
    },
    {
      what: 'output',
      args: [...bytes, '$core/storages/$xml-uspace/files/stdout'],
      status: 200,
      body: /^from XML\n$/,
    },
    {
      what: 'by its annotation',
      args: ['$core/jobs?tags=xml'],
      status: 200,
      body: /\/jobs\/\S+"\]/,
    },
  ],
  'abort and restart': [
    {
      what: 'submit',
      args: post('$core/sites/$site', {
        Executable: 'test -e there || { touch there; sleep 999; }',
      }),
      status: 201,
      keep: 'again',
    },
    {
      what: 'it is at work',
      args: ['$core/storages/$again-uspace/files'],
      status: 200,
      body: /"\/there"/,
      until: true,
    },
    { what: 'abort', args: action('$core/jobs/$again/actions/abort'), status: 204 },
    {
      what: 'aborted',
      args: ['$core/jobs/$again?fields=status,statusMessage'],
      status: 200,
      body: /"FAILED","statusMessage":"Job aborted/,
      until: true,
    },
    { what: 'restart', args: action('$core/jobs/$again/actions/restart'), status: 204 },
    {
      what: 'it ends',
      args: ['$core/jobs/$again?fields=status'],
      status: 200,
      body: /SUCCESSFUL/,
      until: true,
    },
    { what: 'delete', args: remove('$core/jobs/$again'), status: 204 },
    { what: 'gone', args: ['$core/jobs/$again'], status: 404 },
  ],
  'an allocation of a batch system': [
    {
      what: 'ask for it',
      args: post('$core/jobs', {
        'Job type': 'ALLOCATE',
        Resources: { Runtime: '600', Image: 'vsite-test-slurm' },
      }),
      status: 201,
      keep: 'allocation',
    },
    {
      what: 'it is there',
      args: ['$core/jobs/$allocation?fields=status,batchSystemID'],
      status: 200,
      body: /^\{"status":"RUNNING","batchSystemID":"\d+"\}$/,
      until: true,
    },
    {
      what: 'a job in it',
      args: post('$core/jobs/$allocation', { Executable: "srun sh -c 'echo step $SLURM_STEP_ID'" }),
      status: 201,
      keep: 'inside',
    },
    {
      what: 'it ends',
      args: ['$core/jobs/$inside?fields=status'],
      status: 200,
      body: /SUCCESSFUL/,
      until: true,
    },
    {
      what: 'its output',
      args: [...bytes, '$core/storages/$inside-uspace/files/stdout'],
      status: 200,
      body: /^step 0\n$/,
    },
    { what: 'give it back', args: action('$core/jobs/$allocation/actions/abort'), status: 204 },
    { what: 'and its machine', args: remove('$core/jobs/$allocation'), status: 204 },
  ],
  'an allocation, where there is no batch system': [
    {
      what: 'ask for it',
      args: post('$core/sites/$site', { 'Job type': 'ALLOCATE' }),
      status: 201,
      keep: 'allocation',
    },
    {
      what: 'it cannot be had',
      args: ['$core/jobs/$allocation'],
      status: 200,
      body: /"jobType":"ALLOCATE"[\s\S]*"status":"FAILED"[\s\S]*"statusMessage":"[^"]*alloc/i,
      until: true,
    },
    {
      what: 'nothing runs in it',
      args: post('$core/jobs/$allocation', { Executable: 'date' }),
      status: 409,
      body: /allocation \S+ is not there to be used/,
    },
  ],
  'files, with uploads and downloads that break': [
    { what: 'a storage of one’s own', args: post('$core/storages', {}), status: 201, keep: 'own' },
    {
      what: 'it is ready',
      args: ['$core/storages/$own?fields=resourceStatus'],
      status: 200,
      body: /READY/,
      until: true,
    },
    {
      what: 'the first half',
      args: ['-T', 'half.bin', '$core/storages/$own/files/a/big.bin'],
      status: 204,
    },
    {
      what: 'go on with an upload',
      args: ['-C', '$half', '-T', 'whole.bin', '$core/storages/$own/files/a/big.bin'],
      status: 204,
    },
    {
      what: 'not twice',
      args: ['-T', 'rest.bin', '$core/storages/$own/files/a/big.bin?offset=$half'],
      status: 409,
    },
    {
      what: 'not from nowhere',
      args: [
        ...['-H', 'Content-Range: bytes some', '-T', 'rest.bin'],
        '$core/storages/$own/files/a/big.bin',
      ],
      status: 400,
      body: /Content-Range must be/,
    },
    {
      what: 'go on with a download',
      args: [...bytes, '-C', '-', '-o', 'part.bin', '$core/storages/$own/files/a/big.bin'],
      status: 206,
    },
    {
      what: 'a range',
      args: [...bytes, '-r', '3-', '$core/storages/$job-uspace/files/in.txt'],
      status: 206,
      body: /^d middleware\n$/,
    },
    { what: 'make a directory', args: action('$core/storages/$own/files/b'), status: 201 },
    {
      what: 'copy',
      args: post('$core/storages/$own/actions/copy', { from: 'a/big.bin', to: 'b/copy 1.bin' }),
      status: 204,
    },
    {
      what: 'metadata',
      args: put('$core/storages/$own/files/b/copy%201.bin', { metadata: { project: 'climate' } }),
      status: 200,
      body: /"metadata":"OK"/,
    },
    {
      what: 'search',
      args: ['$core/storages/$own/search?q=project:climate'],
      status: 200,
      body: /"numberOfResults":1/,
    },
    {
      what: 'list',
      args: ['$core/storages/$own/files/b'],
      status: 200,
      body: /"\/b\/copy 1\.bin"/,
    },
    { what: 'delete', args: remove('$core/storages/$own/files/b'), status: 204 },
    { what: 'storages', args: ['$core/storages'], status: 200, body: /storages\/DATA"/ },
  ],
  'transfers by the server': [
    {
      what: 'send',
      args: post('$core/storages/$own/transfers', {
        file: 'a/big.bin',
        target: '$core/storages/$site-HOME/files/big.bin',
      }),
      status: 201,
      keep: 'transfer',
    },
    {
      what: 'done',
      args: ['$core/transfers/$transfer?fields=status,transferredBytes'],
      status: 200,
      body: /"status":"DONE","transferredBytes":2000001/,
      until: true,
    },
    { what: 'forget it', args: remove('$core/transfers/$transfer'), status: 204 },
    {
      what: 'a link without a login',
      args: post('$core/storages/$own/exports', { file: 'a/big.bin' }),
      status: 200,
      body: /"accessURL":"([^"]+)"/,
      keep: 'link',
    },
  ],
  'the end': [
    { what: 'delete the storage', args: remove('$core/storages/$own'), status: 204 },
    { what: 'delete the target system', args: remove('$core/sites/$site'), status: 204 },
    {
      what: 'gone',
      args: ['$core/sites'],
      status: 200,
      body: /"sites":\[\]/,
      until: true,
    },
  ],
};

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
      const once = async (): Promise<boolean> => {
        const answer = await curl(args);
        assert.equal(answer.status, status, `${what}: ${answer.body}`);
        const found = body.exec(answer.body);
        if (!found && until) return false;
        assert.ok(found, `${what}: ${answer.body}`);
        if (keep) names.set(keep, found[1] ?? answer.made);
        return true;
      };
      await eventually(`${what}: ${String(body)}`, once);
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
      const { made } = await curl(post('$core/sites/$site', { Executable: echo }));
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
