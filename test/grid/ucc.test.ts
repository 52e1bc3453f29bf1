import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { parseDocument } from 'yaml';
import { demoUser } from '#cli/quickstart/configuration.js';
import { addUser } from '#kernel/security/users.js';
import { chapters } from './clients/ucc-story.js';
import { Ucc, ucc, uccVariable, type Typed } from './clients/ucc.js';
import { eventually, Grid, noContainers, sitePath } from './grid.js';

const skip =
  noContainers || (ucc === undefined && `${uccVariable} names no installation of UNICORE's UCC`);
/** For services that a VSite has none of. */
const senseless = ['workflow-submit', 'workflow-control'];
const administrator = { name: 'root', password: 'a long enough password' };

describe(
  "UNICORE's own command line client, through the gateway",
  { skip, timeout: 900_000 },
  () => {
    let grid: Grid;
    let home: string;
    let client: Ucc;
    const big = randomBytes(3_000_001);

    before(async () => {
      home = await mkdtemp(join(tmpdir(), 'vsite-ucc-'));
      const identity = join(home, 'identity');
      execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', identity]);
      grid = await Grid.start({
        prepare: async (made) => {
          await made.set('targetsystem', 'defaultImage', 'vsite-demo-container');
          const { users } = made.layout;
          const file = parseDocument(await readFile(users, 'utf8'));
          file.setIn(['users', 0, 'sshKeys'], [await readFile(`${identity}.pub`, 'utf8')]);
          await writeFile(users, file.toString());
          await addUser(users, { ...administrator, dn: 'CN=Root,O=VSite,C=EU', role: 'admin' });
        },
      });
      client = await Ucc.open(home, new Map([['core', grid.url + sitePath]]));
      await writePreferences(identity);
      await writeFiles();
      await grid.publishDemo('container');
      await grid.publishTestImage('slurm');
    });
    after(async () => {
      await grid[Symbol.asyncDispose]();
      await rm(home, { recursive: true });
    });

    /** One file for each way to log in. */
    async function writePreferences(identity: string): Promise<void> {
      const common = [
        `registry=${grid.url}/VSITE/rest/registries/default_registry`,
        'truststore.type=directory',
        `truststore.directoryLocations.1=${grid.caFile}`,
        'client.serverHostnameChecking=FAIL',
        'output=.',
      ];
      const byPassword = (username: string, password: string): string[] => [
        'authentication-method=USERNAME',
        ...[`username=${username}`, `password=${password}`],
      ];
      const pair = join(grid.layout.credentials, 'demo-user');
      const ways = {
        '.ucc/preferences': byPassword(demoUser.name, demoUser.password),
        wrong: byPassword(demoUser.name, 'wrong'),
        admin: byPassword(administrator.name, administrator.password),
        x509: [
          `credential.path=${pair}.p12`,
          `credential.password=${(await readFile(`${pair}.p12.password`, 'utf8')).trim()}`,
        ],
        sshkey: [`username=${demoUser.name}`, `identity=${identity}`, 'password='],
        token: ['token=@token.txt'],
      };
      for (const [name, way] of Object.entries(ways))
        await writeFile(join(home, name), [...common, ...way, ''].join('\n'));
    }

    async function writeFiles(): Promise<void> {
      await mkdir(join(home, 'tree', 'a'), { recursive: true });
      for (const folder of ['in', 'got', 'fetched']) await mkdir(join(home, folder));
      const transform = {
        ...{ Name: 'by UCC', ApplicationName: 'Transform', Parameters: { INPUT: 'in.txt' } },
        Imports: [{ From: 'in.txt', To: 'in.txt' }],
        Exports: [{ From: 'stdout', To: 'result.txt' }],
        Tags: ['story'],
      };
      const byServer = {
        Executable: 'cat inline data',
        Imports: [
          { From: 'inline://x', To: 'inline', Data: 'inline ' },
          { From: 'unicore://VSITE/DATA/of-server', To: 'data' },
        ],
        Exports: [{ From: 'stdout', To: 'unicore://VSITE/DATA/back' }],
      };
      const files = {
        'job.u': JSON.stringify(transform),
        'nowhere.u': JSON.stringify({ ApplicationName: 'Nowhere' }),
        'long.u': JSON.stringify({ Executable: 'sleep 1000' }),
        'server.u': JSON.stringify(byServer),
        ...Object.fromEntries(
          ['one', 'two', 'three'].map((word, at) => [
            `in/${at + 1}.u`,
            JSON.stringify({ Executable: `echo ${word}` }),
          ]),
        ),
        'in.txt': 'grid middleware\n',
        'meta.json': JSON.stringify({ topic: 'climate' }),
        'tree/one': '1\n',
        'tree/a/two': '2\n',
        'of-server': 'of server\n',
        'big.bin': big,
        'half.bin': big.subarray(0, 1_234_567),
        commands: ['list-sites', 'ls unicore://VSITE/DATA/', ''].join('\n'),
      };
      for (const [name, content] of Object.entries(files))
        await writeFile(join(home, name), content);
      await chmod(join(home, 'big.bin'), 0o755);
    }

    async function tell({ what, args, exit = 0, out = /(?:)/, keep, file }: Typed): Promise<void> {
      const outcome = await client.run(args);
      const said = `${what}: ${JSON.stringify(outcome)}`;
      assert.equal(outcome.exit, exit, said);
      const found = out.exec(outcome.out);
      assert.ok(found, `${said} is not ${String(out)}`);
      if (keep !== undefined) client.names.set(keep, found[1]!);
      if (file) assert.match(await readFile(join(home, file[0]), 'utf8'), file[1], said);
    }
    const chapter = (title: string): void => {
      it(title, async (context) => {
        for (const each of chapters[title]!) await context.test(each.what, () => tell(each));
      });
    };

    for (const title of Object.keys(chapters)) chapter(title);

    it('keeps all bytes', async () => {
      for (const name of ['back.bin', 'half.bin'])
        assert.ok((await readFile(join(home, name))).equals(big), name);
    });

    it('logs in by a token', async () => {
      await writeFile(join(home, 'token.txt'), client.names.get('token')!);
      const { out } = await client.run([
        'rest',
        'GET',
        '$core',
        '-k',
        'bearer-token',
        '-c',
        'token',
      ]);
      assert.match(out, /"dn": "CN=Demo User,O=VSite,C=EU"/);
      assert.match(out, /"ETD"/);
    });

    it('forwards a port to a service of a job', async () => {
      await eventually('it serves', async () => {
        const file = client.fill('$echo').replace('/jobs/', '/storages/') + '-uspace/files/stdout';
        return (await client.run(['cat', file])).out.includes('up');
      });
      const tunnel = client.start(['open-tunnel', '-L', '0', '$echo/forward-port?port=7778']);
      let heard = '';
      tunnel.stdout!.on('data', (chunk: Buffer) => (heard += chunk.toString()));
      const port = await eventually('it listens', () =>
        Promise.resolve(/Listening on <localhost:(\d+)>/.exec(heard)?.[1]),
      );
      const socket = connect(Number(port), '127.0.0.1');
      const sent = 'abcdefgh'.repeat(20_000);
      let got = '';
      socket.on('data', (chunk: Buffer) => (got += chunk.toString()));
      socket.write(sent);
      await eventually('it comes back', () => Promise.resolve(got === sent));
      socket.destroy();
      await client.stop(tunnel);
    });

    it('has no command that this does not give, but those with a reason', async () => {
      const { out } = await client.run(['--help']);
      const commands = [...out.matchAll(/^ (\S+) +- /gm)].map(([, name]) => name!);
      const known = new Set([...client.used, ...senseless]);
      assert.ok(commands.length > 30, out);
      assert.deepEqual(
        commands.filter((name) => !known.has(name)),
        [],
      );
    });
  },
);
