import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { startStaging, type StagingRig } from './rig.js';
import { startWeb, type WebServer } from './web-server.js';

const basic = { Username: 'alice', Password: 'pa55word' };
const authorization = `Basic ${Buffer.from('alice:pa55word').toString('base64')}`;

describe('staging from git repositories', { timeout: 120_000 }, () => {
  const scope = new Scope();
  let rig: StagingRig;
  let server: WebServer;
  let other: WebServer;
  let root: string;
  let first: string;

  const git = (directory: string, ...args: string[]): string =>
    execFileSync('git', ['-c', 'protocol.file.allow=always', ...args], {
      cwd: join(root, directory),
      encoding: 'utf8',
      env: {
        PATH: process.env['PATH'],
        HOME: root,
        ...{
          GIT_AUTHOR_NAME: 'A',
          GIT_AUTHOR_EMAIL: 'a@x',
          GIT_COMMITTER_NAME: 'A',
          GIT_COMMITTER_EMAIL: 'a@x',
        },
      },
    }).trim();
  const make = (name: string, files: Record<string, string>): void => {
    mkdirSync(join(root, name), { recursive: true });
    git(name, 'init', '--quiet', '--initial-branch=main');
    commit(name, files);
  };
  const commit = (name: string, files: Record<string, string>): string => {
    for (const [file, text] of Object.entries(files))
      writeFileSync(join(root, name, file), text, { mode: file.endsWith('.sh') ? 0o755 : 0o644 });
    git(name, 'add', '--all');
    git(name, 'commit', '--quiet', '--message=x');
    return git(name, 'rev-parse', 'HEAD');
  };

  /** git's own server. */
  function backend(request: IncomingMessage, response: ServerResponse): void {
    const [path = '', query = ''] = (request.url ?? '').split('?');
    if (path.startsWith('/private') && request.headers.authorization !== authorization) {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
      return;
    }
    if (path.startsWith('/moved')) {
      response.writeHead(302, { location: `${other.url}/main/.git/info/refs?${query}` }).end();
      return;
    }
    const cgi = spawn('git', ['http-backend'], {
      env: {
        PATH: process.env['PATH'],
        HOME: root,
        ...{
          GIT_PROJECT_ROOT: root,
          GIT_HTTP_EXPORT_ALL: '1',
          PATH_INFO: path,
          QUERY_STRING: query,
        },
        ...{ REQUEST_METHOD: request.method, CONTENT_TYPE: request.headers['content-type'] ?? '' },
        GIT_PROTOCOL: String(request.headers['git-protocol'] ?? ''),
        HTTP_CONTENT_ENCODING: request.headers['content-encoding'],
      },
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    request.pipe(cgi.stdin);
    cgi.stdin.on('error', () => undefined);
    const chunks: Buffer[] = [];
    cgi.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
    cgi.on('close', () => {
      const answer = Buffer.concat(chunks);
      const end = answer.indexOf('\r\n\r\n');
      const fields = answer
        .subarray(0, end)
        .toString()
        .split('\r\n')
        .map((line) => line.split(': '));
      const { Status: status = '200', ...headers } = Object.fromEntries(fields) as Record<
        string,
        string
      >;
      response.writeHead(Number.parseInt(status), headers).end(answer.subarray(end + 4));
    });
  }

  before(async () => {
    rig = await startStaging(scope, { config: { retries: 0 } });
    server = await startWeb(scope, backend);
    other = await startWeb(scope, backend);
    root = join(rig.directory, 'repositories');
    mkdirSync(root);
    make('part', { 'part.txt': 'of the whole' });
    make('main', {
      'run.sh': 'echo one',
      '.gitattributes': 'kept export-ignore\nsubst.txt export-subst\n',
    });
    first = git('main', 'rev-parse', 'HEAD');
    symlinkSync('run.sh', join(root, 'main', 'link'));
    commit('main', { 'run.sh': 'echo two', kept: 'kept', 'subst.txt': '$Format:%H$' });
    git('main', 'submodule', 'add', '--quiet', join(root, 'part'), 'lib/part');
    git('main', 'config', '--file=.gitmodules', 'submodule.lib/part.url', '../../part/.git');
    commit('main', {});
    git('main', 'checkout', '--quiet', '-b', 'feature');
    commit('main', { feature: 'yes' });
    git('main', 'checkout', '--quiet', 'main');
    make('private', { secret: 'for alice' });
  });
  after(() => scope.close());

  it('brings the files of the default branch, with those of sub-modules, and no .git', async () => {
    const { job, log } = await rig.imports([{ From: `git:${server.url}/main/.git`, To: 'src' }]);
    assert.deepEqual(readdirSync(rig.path(job, 'src')).sort(), [
      '.gitattributes',
      '.gitmodules',
      'kept',
      'lib',
      'link',
      'run.sh',
      'subst.txt',
    ]);
    assert.equal(rig.read(job, 'src/run.sh'), 'echo two');
    assert.equal(statSync(rig.path(job, 'src/run.sh')).mode & 0o100, 0o100);
    assert.ok(lstatSync(rig.path(job, 'src/link')).isSymbolicLink());
    assert.equal(rig.read(job, 'src/subst.txt'), '$Format:%H$');
    assert.equal(rig.read(job, 'src/lib/part/part.txt'), 'of the whole');
    assert.deepEqual(readdirSync(rig.path(job, '.')), ['src']);
    assert.deepEqual(readdirSync(join(rig.directory, 'staging')), []);
    assert.ok(log.some((line) => line.includes('2 repositories')));
  });

  it('brings a branch or a commit', async () => {
    const From = `git+${server.url}/main/.git`;
    const { job } = await rig.imports([
      { From, To: 'feature', ExtraParameters: { branch: 'feature' } },
      { From, To: 'old', ExtraParameters: { commit: first } },
      { From, To: 'short', ExtraParameters: { commit: first.slice(0, 10) } },
    ]);
    assert.equal(rig.read(job, 'feature/feature'), 'yes');
    for (const name of ['old', 'short']) assert.equal(rig.read(job, `${name}/run.sh`), 'echo one');
    assert.ok(existsSync(rig.path(job, 'old/.gitattributes')));
  });

  it('shows credentials to the host that they are for', async () => {
    const From = `git:${server.url}/private/.git`;
    const { job } = await rig.imports([{ From, To: 'x', Credentials: basic }]);
    assert.equal(rig.read(job, 'x/secret'), 'for alice');
    await assert.rejects(rig.imports([{ From, To: 'x' }]), { code: 'FORBIDDEN' });
  });

  const wrong: [string, () => { From: string; ExtraParameters?: object }, RegExp][] = [
    ['a missing repository', () => ({ From: `git:${server.url}/none/.git` }), /not found/],
    [
      'a missing branch',
      () => ({ From: `git:${server.url}/main/.git`, ExtraParameters: { branch: 'none' } }),
      /none/,
    ],
    [
      'an option for a branch',
      () => ({
        From: `git:${server.url}/main/.git`,
        ExtraParameters: { branch: '--upload-pack=touch /tmp/x' },
      }),
      /no name of a branch/,
    ],
    ['an unencrypted protocol', () => ({ From: 'git://127.0.0.1/x' }), /git:https:/],
    ['a program as transport', () => ({ From: 'git:ext::sh -c id' }), /git:https:/],
    ['a redirect', () => ({ From: `git:${server.url}/moved/.git` }), /302|redirect/i],
  ];
  for (const [what, entry, message] of wrong)
    it(`refuses ${what}`, async () => {
      await assert.rejects(rig.imports([{ To: 'x', ...entry() }]), message);
    });

  it('never reaches addresses inside the site that are not allowed', async () => {
    await using own = new Scope();
    const strict = await startStaging(own, { config: { allowAddresses: [], retries: 0 } });
    server.seen.length = 0;
    for (const host of ['127.0.0.1', 'localhost'])
      await assert.rejects(
        strict.imports([
          { From: `git:http://${host}:${new URL(server.url).port}/main/.git`, To: 'x' },
        ]),
        { code: 'FORBIDDEN' },
      );
    assert.deepEqual(server.seen, []);
  });

  it('ends when a repository is larger than it may be', async () => {
    await using own = new Scope();
    const small = await startStaging(own, { config: { gitMaxBytes: 2_000_000, retries: 0 } });
    make('large', { readme: 'x' });
    const noise = randomBytes(4_000_000);
    writeFileSync(join(root, 'large', 'noise'), noise);
    commit('large', {});
    await assert.rejects(small.imports([{ From: `git:${server.url}/large/.git`, To: 'x' }]));
  });
});
