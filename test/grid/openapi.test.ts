import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { Validator } from '@seriousme/openapi-schema-validator';
import { createTargetSystem, findImage, waitUntilReady } from '#cli/quickstart/main-job.js';
import { creatorName, demoUser } from '#cli/quickstart/configuration.js';
import type { HttpClient } from '#kernel/http/client.js';
import { runWordcount } from '../fixtures/typed-client-example.js';
import { pythonWith } from './clients/python.js';
import { eventually, Grid, imagesPath, noContainers, sitePath } from './grid.js';

const run = promisify(execFile);
/** How many requests are made up for each operation; more find more. Absent: what a minute is enough for. */
const examples = process.env['VSITE_SCHEMATHESIS_EXAMPLES'];
const browser = 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8';

describe('the described interface of a running grid', { skip: noContainers }, () => {
  let grid: Grid;
  let user: HttpClient;
  let siteId: string;
  const idOf = (location: unknown): string => String(location).split('/').at(-1)!;

  before(async () => {
    grid = await Grid.start();
    await grid.publishDemo('container');
    user = await grid.user();
    const image = await findImage(user, 'Transform', 'rootfs');
    const site = await createTargetSystem(user, image.id, {});
    await waitUntilReady(user, site, AbortSignal.timeout(60_000), () => undefined);
    siteId = idOf(site);
  });
  after(() => grid[Symbol.asyncDispose]());

  const page = async (path: string): Promise<string> =>
    text((await user.download(path, { headers: { accept: browser } })).body);

  for (const service of ['/VSITE', '/IMAGES'])
    it(`of ${service} is a valid OpenAPI 3.1 document with a page, both kept by clients`, async () => {
      const { body, headers } = await user.json('GET', `${service}/rest/openapi.json`);
      const validator = new Validator();
      const { valid, errors } = await validator.validate(body as Record<string, unknown>);
      assert.deepEqual([valid, errors ?? []], [true, []]);
      assert.equal(validator.version, '3.1');
      assert.deepEqual((body as { servers: object[] }).servers, [{ url: grid.url + service }]);
      const known = { headers: { 'if-none-match': String(headers['etag']) } };
      const again = await user.json('GET', `${service}/rest/openapi.json`, undefined, known);
      assert.equal(again.status, 304);
      assert.match(await page(`${service}/rest/openapi.json`), /<summary>[^]*openapi\.json/);
      const docs = await page(`${service}/rest/docs`);
      for (const path of Object.keys((body as { paths: object }).paths))
        assert.ok(docs.includes(`<span class="mono">${path}</span>`), path);
    });

  it('runs a job for the example of the typed client', async () => {
    const words = await runWordcount(user, siteId, 'one two three\n');
    assert.equal(words.trim(), '3');
  });

  it('can be clicked through by a person', async () => {
    const home = `${sitePath}/storages/${siteId}-HOME`;
    await user.upload('PUT', `${home}/files/a/<b>.txt`, Readable.from([Buffer.from('hello')]));
    const follow = async (from: string, label: string): Promise<string> => {
      const found = [...(await page(from)).matchAll(/<a[^>]* href="([^"]*)"[^>]*>([^<]*)<\/a>/g)];
      const [, href = ''] = found.find(([, , name]) => name === label) ?? [];
      assert.notEqual(href, '', `${from} has no link "${label}"`);
      return href.replaceAll('&amp;', '&').replace(grid.url, '');
    };
    const storages = await follow(sitePath, '/rest/core/storages');
    const storage = await follow(storages, `${siteId}-HOME`);
    const files = await follow(storage, `/rest/core/storages/${siteId}-HOME/files`);
    const file = await follow(await follow(files, 'a/'), '&lt;b&gt;.txt');
    assert.match(await page(file), /<th scope="row">size<\/th>\s*<td>5<\/td>/);
    const { body, headers } = await user.download(`${file}?download=true`, {
      headers: { accept: browser },
    });
    assert.equal(await text(body), 'hello');
    assert.match(String(headers['content-security-policy']), /sandbox/);
  });

  async function schemathesis(
    service: string,
    credentials: string,
    settings: string,
    options: readonly string[],
  ): Promise<void> {
    const directory = await mkdtemp(join(tmpdir(), 'vsite-schemathesis-'));
    try {
      const config = join(directory, 'schemathesis.toml');
      await writeFile(config, settings);
      const python = await pythonWith(['schemathesis']);
      await run(
        join(dirname(python), 'schemathesis'),
        [
          ...['--config-file', config, 'run', `${grid.url}${service}/rest/openapi.json`],
          ...['--auth', credentials, '--tls-verify', grid.caFile, '--no-color'],
          ...['--warnings', 'off', ...options],
          // goes on for as long as the client wants
          ...['--exclude-path', '/rest/core/events'],
          ...['--generation-deterministic', '--checks', checks.join(',')],
        ],
        { cwd: directory, timeout: 3_600_000, maxBuffer: 64 * 1024 * 1024 },
      ).catch((error: unknown) => {
        assert.fail((error as { stdout?: string }).stdout ?? String(error));
      });
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }

  async function driveTargetSystems(): Promise<void> {
    const made = await user.json('POST', `${sitePath}/storages`, {});
    const { headers } = await user.json('POST', `${sitePath}/sites/${siteId}`, {});
    const jobId = idOf(headers['location']);
    await eventually('the job is over', async () => {
      const { body } = await user.json('GET', `${sitePath}/jobs/${jobId}?fields=status`);
      return (body as { status: string }).status === 'SUCCESSFUL';
    });
    const storageId = idOf(made.headers['location']);
    const known = configuration({ siteId, jobId, storageId });
    const credentials = `${demoUser.name}:${demoUser.password}`;
    await schemathesis('/VSITE', credentials, known, once('coverage,fuzzing'));
  }

  async function driveImages(): Promise<void> {
    const password = (await readFile(grid.layout.creatorPassword, 'utf8')).trim();
    const creator = await grid.creator();
    const { headers } = await creator.json('POST', imagesPath, {
      name: 'incomplete',
      version: '1',
      format: 'rootfs',
      os: { distribution: 'Debian', version: '12' },
      requirements: {
        cpus: { min: 1, default: 1, max: 1 },
        memoryMiB: { min: 64, default: 64, max: 128 },
      },
      tsi: { login: 'grid', jobsDirectory: '/jobs' },
    });
    const imageId = idOf(headers['location']);
    // covering the metadata of images takes a minute for itself
    const known = configuration({ imageId });
    await schemathesis('/IMAGES', `${creatorName}:${password}`, known, once('fuzzing'));
  }

  it('answers as documented, and never with a 5xx, whatever a user sends', async () => {
    await Promise.all([driveTargetSystems(), driveImages()]);
  });

  it('and whatever an administrator sends, with orders to the server among it', async () => {
    const admin = await grid.addUser('root', 'secret word', 'admin');
    const { headers } = await admin.json('POST', `${sitePath}/sites/${siteId}`, {});
    const orders = {
      'body.jobID': [idOf(headers['location'])],
      'body.host': ['local'],
      'body.lifetime': ['60'],
    };
    await schemathesis('/VSITE', 'root:secret word', dictionaries(orders), [
      ...['--include-tag', 'admin', '--phases', 'fuzzing'],
      ...['--max-examples', examples ?? '30'],
    ]);
  });
});

const checks = [
  'not_a_server_error',
  'status_code_conformance',
  'content_type_conformance',
  'response_headers_conformance',
  'response_schema_conformance',
];

/** So many requests that a minute is enough for all operations of a service. */
function once(phases: string): string[] {
  return examples === undefined
    ? ['--phases', phases, '--max-examples', '1']
    : ['--phases', 'coverage,fuzzing', '--max-examples', examples];
}

/** Words that mean something to the server, for most of the requests that are made up. */
function dictionaries(words: Readonly<Record<string, readonly string[]>>): string {
  const name = (parameter: string): string => parameter.replace('.', '-');
  return Object.entries(words)
    .flatMap(([parameter, values]) => [
      `[dictionaries.${name(parameter)}]\nvalues = ${JSON.stringify(values)}\n`,
      `[parameters."${parameter}"]\ndictionary = "${name(parameter)}"\nprobability = 0.9\n`,
    ])
    .join('\n');
}

/** Ids that are there, so that what lies behind them is reached; they are not deleted on the way. */
function configuration(known: Readonly<Record<string, string>>): string {
  const parameters = (members: Readonly<Record<string, string>>): string =>
    Object.entries(members)
      .map(([name, value]) => `"path.${name}" = ${JSON.stringify(value)}`)
      .join(', ');
  const only = (name: string, members: Readonly<Record<string, string>>): string =>
    `[[operations]]\ninclude-name = "${name}"\nparameters = { ${parameters(members)} }\n`;
  const core = '/rest/core';
  const unknown = '00000000-0000-4000-8000-000000000000';
  return [
    `[parameters]\n${parameters({ ...known, registryId: 'default_registry' }).replaceAll(', ', '\n')}\n`,
    ...['GET', 'POST'].flatMap((method) => [
      only(`${method} ${core}/factories/{factoryId}`, {
        factoryId: 'default_target_system_factory',
      }),
      only(`${method} ${core}/storagefactories/{factoryId}`, {
        factoryId: 'default_storage_factory',
      }),
    ]),
    only(`POST ${core}/jobs/{jobId}/actions/{action}`, { action: 'restart' }),
    only(`POST ${core}/storages/{storageId}/actions/{action}`, { action: 'copy' }),
    ...Object.keys(known).map((name) =>
      only(
        name === 'imageId'
          ? 'DELETE /rest/images/{imageId}'
          : `DELETE ${core}/${name.replace('Id', 's')}/{${name}}`,
        { [name]: unknown },
      ),
    ),
  ].join('\n');
}
