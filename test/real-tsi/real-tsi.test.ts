import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { CallbackRange } from '#xnjs/tsi/callback-range.js';
import {
  askMain,
  callbackTransport,
  type CallbackTransportOptions,
} from '#xnjs/tsi/callback-transport.js';
import { createTsi, type TsiClient } from '#xnjs/tsi/tsi-client.js';
import { TsiGroup } from '#xnjs/tsi/tsi-group.js';
import { longestEnrolment, type EnrolmentAsk } from '#tsi/protocol/enrolment.js';
import { isRoot } from '../tsi/agent-process.js';
import { makeCertificates } from '../tsi/certificates.js';
import { endToEndSuite } from '../xnjs/job/end-to-end-suite.js';
import {
  identity,
  scratch,
  startEngineOn,
  type EngineRig,
  type RigOptions,
} from '../xnjs/job/rig.js';
import {
  findPython,
  findSources,
  sourcesVariable,
  UnicoreTsi,
  type TsiSources,
} from './unicore-tsi.js';

const ways = {
  'as root, plain': {},
  'as root, with TLS': { tls: true },
  'as an ordinary user, plain': { ordinary: true },
  'twice, as two login nodes': { nodes: 2 },
} as const satisfies Record<string, Way>;

const sources = findSources();
if (sources.length === 0)
  it('the end-to-end suite on a UNICORE TSI', {
    skip: `${sourcesVariable} names no checkout of github.com/UNICORE-EU/tsi`,
  });

for (const source of sources)
  for (const [name, way] of Object.entries(ways))
    describe(
      `jobs on the UNICORE TSI ${source.version} ${name}`,
      { timeout: 300_000, skip: cannotRun(way) },
      () => endToEndSuite((scope, options) => startOn(scope, source, way, options)),
    );

for (const source of sources)
  describe(
    `the UNICORE TSI ${source.version} that is asked which machine it is`,
    { timeout: 60_000, skip: cannotRun({ tls: true }) },
    () => {
      it('does not know the question, and works on', async () => {
        await using scope = new Scope();
        const { main, tsi } = await reach(scope, source, { tls: true });
        assert.ok(main.tls);
        const question: EnrolmentAsk = {
          machine: '5b3f0c1e-8d52-4a94-9a50-0f0e3a1f2b3c.1',
          challenge: randomBytes(32).toString('base64'),
          expects: createHash('sha256').update('a token').digest('hex'),
        };
        const line = `enrolment ${JSON.stringify(question)}`;
        const { signal } = new AbortController();
        const asked = { ...main, tls: main.tls };
        assert.equal(await askMain(asked, line, longestEnrolment, signal), undefined);
        assert.match(await tsi.ping(), new RegExp(source.version.replaceAll('.', '\\.')));
      });
    },
  );

type Way = { readonly tls?: boolean; readonly ordinary?: boolean; readonly nodes?: number };

function cannotRun({ ordinary = false }: Way): string | false {
  if (!ordinary && !isRoot) return 'needs root, to switch users';
  try {
    findPython(ordinary);
    return false;
  } catch (error) {
    return errorText(error);
  }
}

async function startOn(
  scope: Scope,
  source: TsiSources,
  way: Way,
  options: RigOptions,
): Promise<EngineRig> {
  const nodes = Array.from({ length: way.nodes ?? 1 }, async (_, i) => {
    return { name: `node${i}`, tsi: (await reach(scope, source, way)).tsi };
  });
  const group = scope.use(
    new TsiGroup({ name: 'test', nodes: await Promise.all(nodes), ...common }),
  );
  return await startEngineOn(scope, scratch(scope), () => group.tsi, options);
}

const log = silentLog;
const common = { clock: systemClock, log };

/** One that runs, and how it is called. */
async function reach(
  scope: Scope,
  source: TsiSources,
  { tls = false, ordinary = false }: Way,
): Promise<{ readonly main: CallbackTransportOptions; readonly tsi: TsiClient }> {
  const secrets = mkdtempSync(join(tmpdir(), 'vsite-real-tsi-'));
  scope.defer(() => rmSync(secrets, { recursive: true, force: true }));
  const certificates = tls ? await makeCertificates(secrets) : undefined;
  const properties = certificates
    ? [...certificates.tsi, 'tsi.allowed_dn.1=CN=XNJS 1,O=Grid,C=EU']
    : [];
  const { port } = await UnicoreTsi.start(scope, source, { properties, ordinary });
  const listener = scope.use(
    new CallbackRange({ host: '127.0.0.1', firstPort: 0, lastPort: 0, log }),
  );
  const peer = certificates && { ...certificates.xnjs, peerDns: ['CN=TSI,O=Grid'] };
  const main = { host: '127.0.0.1', port, listener, ...(peer && { tls: peer }) };
  const tsi = createTsi(callbackTransport(main), { ...common, systemIdentity: identity });
  return { main, tsi };
}
