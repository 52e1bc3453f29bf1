import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { parseDocument } from 'yaml';
import { demoUser } from '#cli/quickstart/configuration.js';
import { inProject } from '../program.js';
import { oidcClient, startOidcProvider } from '../kernel/security/oidc-provider.js';
import { installPython } from './clients/python.js';
import { Grid, noContainers } from './grid.js';

const script = inProject('test/grid/clients/pyunicore_scenario.py');
const demoDn = 'CN=Demo User,O=VSite,C=EU';
const used = {
  listed: ['/a/b/', '/a/c/', '/a/streamed.txt', '/a/up.txt'],
  names: ['a/b/', 'a/c/', 'a/streamed.txt', 'a/up.txt'],
  size: [10, true, false],
  read: ['234', '0123456789'],
  moved: '0123456789',
  directory: [true, false],
  metadata: ['climate', true],
  left: [],
};

/** Each chapter of the story, and what came of it. */
const chapters: Record<string, object> = {
  authentication: {
    who: {
      password: [demoDn, 'PASSWORD_FILE', 'user'],
      'ssh key': [demoDn, 'SSHKEY', 'user'],
      oidc: ['CN=jane,O=OIDC', 'OAUTH', 'user'],
      'oidc by token': ['CN=jane,O=OIDC', 'OAUTH', 'user'],
      limited: [demoDn, 'ETD', 'user'],
      renewed: [demoDn, 'ETD', 'user'],
      anonymous: ['CN=ANONYMOUS,O=UNKNOWN,OU=UNKNOWN', null, 'anonymous'],
    },
    refused: ['403', '403', '403'],
  },
  base: { version: [11, 1, 0], role: 'user', preferences: 'role:user', session: true, site: true },
  compute: {
    state: 'READY',
    fields: ['image', 'resourceStatus'],
    queues: ['vm'],
    applications: ['Transform', 'Wordcount'],
    same: true,
    transform: ['1.0', true, true],
  },
  jobs: {
    status: ['SUCCESSFUL', 6, false],
    exit: [0, null, 3, 'FAILED'],
    scratch: 'SUCCESSFUL',
    stdout: 'GRID MIDDLEWARE\n',
    first: 'ker',
    files: ['input.txt', 'stderr', 'stdout'],
    used: { ...used, metadata: {} }, // directories of jobs have none
    other: ['READY', 'GRID MIDDLEWARE'],
    log: true,
    id: true,
    details: 'dict',
    fields: ['exitCode', 'status'],
    parent: true,
    again: ['FAILED', 0],
    listed: 5,
    tagged: 2,
    retagged: [{ tags: 'OK' }, 1],
    left: 0,
  },
  allocation: {
    kind: ['Allocation', 'RUNNING', true],
    number: true,
    inside: ['SUCCESSFUL', true],
    again: true,
    'given back': 'FAILED',
  },
  description: {
    status: ['SUCCESSFUL', '', 'described'],
    exported: 'by helper',
    pre: 'before\n',
    fetched: ['', 'by helper'],
  },
  storages: {
    home: used,
    data: used,
    mine: used,
    properties: { tags: 'OK', umask: 'OK' },
    tagged: [true],
    left: 0,
    listed: ['DATA', 'SITE-HOME', 'SITE-WORK'],
  },
  resumed: [3, true, true, true],
  transfers: {
    status: ['DONE', false, 'DONE', 'CREATED', 'ABORTED'],
    bytes: [10, 10],
    received: 'to be sent',
    listed: 3,
    left: 0,
    withoutLogin: 'to be sent',
  },
  forwarding: {
    ...{ tunnel: true, class: true, program: true },
    refused: 'Backend returned HTTP 500, could not handle UNICORE-Socket-Forwarding',
  },
  paging: { pages: [200, 200, 101], all: true, first: 200 },
  command_line: {
    wrong: [],
    forgotten: [],
    fetched: 'for the command line\n',
    cancelled: 'FAILED',
    put: 1,
  },
};

describe(
  'an unmodified pyunicore, as the registry has it today',
  { skip: noContainers, timeout: 300_000 },
  () => {
    let grid: Grid;
    let work: string;
    let told: Record<string, unknown>;

    before(async () => {
      work = await mkdtemp(join(tmpdir(), 'vsite-py-'));
      const identity = join(work, 'ssh');
      execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', identity]);
      await using provider = await startOidcProvider();
      const [python] = await Promise.all([
        installPython(join(work, 'python'), ['pyunicore', 'cryptography']),
        startGrid(provider.issuer, provider.ca, `${identity}.pub`),
      ]);
      const child = spawn(python, ['-W', 'ignore', script], { cwd: work, stdio: 'pipe' });
      child.stdin.end(
        JSON.stringify({
          ...{ url: grid.url, user: demoUser.name, password: demoUser.password },
          ...{
            image: 'vsite-demo',
            batchImage: 'vsite-test-slurm',
            identity,
            programs: dirname(python),
          },
          oidcToken: await provider.tokenOf('jane'),
        }),
      );
      const [out, errors] = await Promise.all([text(child.stdout), text(child.stderr)]);
      const last = out.trim().split('\n').at(-1)!; // pyunicore also prints
      assert.match(last, /^\{/, errors);
      told = JSON.parse(last) as Record<string, unknown>;
    });
    after(async () => {
      await grid[Symbol.asyncDispose]();
      await rm(work, { recursive: true });
    });

    async function startGrid(issuer: string, ca: string, publicKeyFile: string): Promise<void> {
      grid = await Grid.start({
        prepare: async (made) => {
          const caFile = join(made.layout.credentials, 'provider.pem');
          await writeFile(caFile, ca);
          const oidc = [{ issuer, clientId: oidcClient.id, caFile }];
          await made.set('targetsystem', 'bearers', { oidc });
          const users = parseDocument(await readFile(made.layout.users, 'utf8'));
          users.setIn(['users', 0, 'sshKeys'], [await readFile(publicKeyFile, 'utf8')]);
          await writeFile(made.layout.users, users.toString());
        },
      });
      await grid.publishDemo('vm');
      await grid.publishTestImage('slurm');
    }

    for (const [chapter, expected] of Object.entries(chapters))
      it(`tells of ${chapter.replace('_', ' ')}`, () => {
        assert.deepEqual(told[chapter], expected);
      });

    it('has no public method that this does not call, but those with a reason', () => {
      const { called, ...coverage } = told['coverage'] as { called: number };
      assert.deepEqual(coverage, { forgotten: [], excusedInVain: [] });
      assert.ok(called > 80);
    });
  },
);
