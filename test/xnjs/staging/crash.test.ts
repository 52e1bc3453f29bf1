import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, it } from 'node:test';
import { CreateBucketCommand, GetObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { Scope } from '#kernel/scope.js';
import { nodeFlags, program } from '../../program.js';
import { Agent, scratch, until } from '../job/rig.js';
import { attachStaging } from './rig.js';
import { startS3 } from './s3-server.js';
import { bodyOf, serve, startWeb } from './web-server.js';

const content = randomBytes(8_000_000);
const sha256 = createHash('sha256').update(content).digest('hex');

type Child = {
  readonly jobId: string;
  readonly kill: () => Promise<void>;
  readonly ended: Promise<unknown>;
};

async function startChild(
  directory: string,
  socket: string,
  description: object,
  direction: 'in' | 'out' = 'in',
  jobId = '',
): Promise<Child> {
  const script = program('test/xnjs/staging/stage-child.ts');
  const child: ChildProcess = spawn(
    process.execPath,
    [
      ...[...nodeFlags, script],
      ...[directory, socket, JSON.stringify(description), direction, jobId],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const ended = once(child, 'exit');
  for await (const line of createInterface({ input: child.stdout! })) {
    const [word, id = ''] = line.split(' ');
    if (word !== 'job') continue;
    const kill = async (): Promise<void> => {
      child.kill('SIGKILL');
      await ended;
      assert.equal(child.signalCode, 'SIGKILL');
    };
    return { jobId: id, kill, ended };
  }
  throw new Error('the child has said nothing');
}

describe('what staging survives', { timeout: 240_000 }, () => {
  it('goes on in the middle of a file after kill -9, and does nothing twice', async () => {
    await using scope = new Scope();
    const directory = scratch(scope);
    const agent = new Agent(directory);
    scope.defer(() => agent.kill());
    await agent.start();
    let whole = false;
    const server = await startWeb(scope, (request, response) => {
      if (request.url === '/small') {
        serve(Buffer.from('small'), request, response);
        return;
      }
      if (whole) {
        serve(content, request, response);
        return;
      }
      const etag = `"${createHash('md5').update(content).digest('hex')}"`;
      response.writeHead(200, { etag, 'content-length': content.length });
      response.write(content.subarray(0, 5_000_000)); // and no more
    });
    const child = await startChild(directory, agent.socket, {
      Imports: [
        { From: `${server.url}/small`, To: 'small' },
        { To: 'log', Data: 'one\n' },
        { To: 'log', Data: 'two\n', Mode: 'append' },
        { From: `${server.url}/big`, To: 'big', ExtraParameters: { checksum: `sha256:${sha256}` } },
        { From: `${server.url}/small`, To: 'log', Mode: 'append' },
      ],
    });
    const job = join(directory, 'jobs', child.jobId);
    const part = join(job, `.UNICORE_${child.jobId}_in1_3.part`);
    await until('half of it is there', () => existsSync(part) && statSync(part).size > 3_000_000);
    await until(
      'the log is complete',
      () =>
        existsSync(join(job, 'log')) &&
        readFileSync(join(job, 'log'), 'utf8') === 'one\ntwo\nsmall',
    );
    await child.kill();
    const before = server.seen.length;
    assert.equal(existsSync(join(job, 'big')), false);

    whole = true;
    const rig = await attachStaging(scope, directory, agent.socket);
    await rig.stage((await rig.jobs.find(child.jobId))!, 'in');
    assert.ok(readFileSync(join(job, 'big')).equals(content));
    assert.equal(readFileSync(join(job, 'log'), 'utf8'), 'one\ntwo\nsmall');
    assert.deepEqual(readdirSync(job).sort(), ['big', 'log', 'small']);
    const later = server.seen.slice(before).filter(({ path }) => path === '/big');
    assert.match(String(later[0]?.headers.range), /^bytes=[1-9]\d{6}-$/);
  });

  it('ends the same when it is killed before anybody knew that it was done', async () => {
    await using scope = new Scope();
    const directory = scratch(scope);
    const agent = new Agent(directory);
    scope.defer(() => agent.kill());
    await agent.start();
    const uploads: string[] = [];
    const server = await startWeb(scope, (request, response) => {
      if (request.method === 'HEAD') {
        response.writeHead(uploads.length > 0 ? 200 : 404).end();
        return;
      }
      void bodyOf(request).then((body) => {
        uploads.push(String(body));
        response.writeHead(201).end();
      });
    });
    const description = {
      Imports: [
        { To: 'a', Data: 'x' },
        { To: 'a', Data: 'y', Mode: 'append' },
      ],
      Exports: [{ From: 'a', To: `${server.url}/a`, Mode: 'nooverwrite' }],
    };
    const { jobId, ended } = await startChild(directory, agent.socket, description);
    await ended;
    await (
      await startChild(directory, agent.socket, {}, 'out', jobId)
    ).ended;
    const rig = await attachStaging(scope, directory, agent.socket);
    const job = (await rig.jobs.find(jobId))!;
    await rig.stage(job, 'in');
    await rig.stage(job, 'out');
    assert.equal(rig.read(job, 'a'), 'xy');
    assert.deepEqual(uploads, ['xy']);
  });

  it('goes on with an upload to S3 after kill -9, with the parts that are there', async () => {
    await using scope = new Scope();
    const directory = scratch(scope);
    const agent = new Agent(directory);
    scope.defer(() => agent.kill());
    await agent.start();
    const { endpoint, accessKey, secretKey } = await startS3(scope);
    const credentials = { accessKeyId: accessKey, secretAccessKey: secretKey };
    const s3 = new S3Client({ endpoint, region: 'us-east-1', forcePathStyle: true, credentials });
    scope.defer(() => s3.destroy());
    await s3.send(new CreateBucketCommand({ Bucket: 'results' }));
    // between the child and S3, to count parts and to hold up the third
    let hold = true;
    const puts: string[] = [];
    const { hostname, port } = new URL(endpoint);
    const { request: forward } = await import('node:http');
    const proxy = await startWeb(scope, (request, response) => {
      const path = request.url ?? '';
      if (path.includes('partNumber=')) puts.push(/partNumber=(\d+)/.exec(path)![1]!);
      if (hold && puts.at(-1) === '3') return;
      const onward = forward(
        { hostname, port, path, method: request.method, headers: request.headers },
        (answer) => {
          response.writeHead(answer.statusCode!, answer.headers);
          answer.pipe(response);
        },
      );
      onward.on('error', () => response.destroy());
      request.pipe(onward);
    });
    const bytes = Buffer.alloc(30 * 1024 * 1024, content);
    const source = await startWeb(scope, (request, response) => serve(bytes, request, response));
    const how = {
      Credentials: { Username: accessKey, Password: secretKey },
      ExtraParameters: { endpoint: proxy.url },
    };
    const description = {
      Imports: [{ From: source.url, To: 'big' }],
      Exports: [{ From: 'big', To: 's3://results/big', ...how }],
    };
    const staged = await startChild(directory, agent.socket, description);
    await staged.ended;
    const child = await startChild(directory, agent.socket, {}, 'out', staged.jobId);
    await until('the third part is on its way', () => puts.includes('3'));
    await child.kill();
    hold = false;
    puts.length = 0;
    const rig = await attachStaging(scope, directory, agent.socket);
    await rig.stage((await rig.jobs.find(staged.jobId))!, 'out');
    assert.deepEqual(puts, ['3', '4']);
    const { Body } = await s3.send(new GetObjectCommand({ Bucket: 'results', Key: 'big' }));
    assert.ok(Buffer.from(await Body!.transformToByteArray()).equals(bytes));
  });

  it('waits for a target system that does not answer, and goes on when it is back', async () => {
    await using scope = new Scope();
    const directory = scratch(scope);
    const agent = new Agent(directory);
    scope.defer(() => agent.kill());
    await agent.start();
    const rig = await attachStaging(scope, directory, agent.socket);
    let send!: () => void;
    const server = await startWeb(scope, (request, response) => {
      if (request.headers.range !== undefined) {
        serve(content, request, response, '"1"');
        return;
      }
      response.writeHead(200, { etag: '"1"', 'content-length': content.length });
      response.write(content.subarray(0, 6_000_000));
      send = () => response.end(content.subarray(6_000_000));
    });
    const job = await rig.makeJob({ Imports: [{ From: server.url, To: 'x' }] });
    const staged = rig.stage(job, 'in');
    const part = rig.path(job, `.UNICORE_${job.id}_in1_0.part`);
    await until('some of it is there', () => existsSync(part) && statSync(part).size > 1_000_000);
    await agent.kill();
    send();
    await agent.start();
    await staged;
    assert.ok(readFileSync(rig.path(job, 'x')).equals(content));
  });
});
