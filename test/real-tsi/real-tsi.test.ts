import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { systemClock } from '#kernel/clock.js';
import { errorText } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import type { Scope } from '#kernel/scope.js';
import { CallbackRange } from '#xnjs/tsi/callback-range.js';
import { callbackTransport } from '#xnjs/tsi/callback-transport.js';
import { createTsi } from '#xnjs/tsi/tsi-client.js';
import { TsiGroup } from '#xnjs/tsi/tsi-group.js';
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
  { tls = false, ordinary = false, nodes = 1 }: Way,
  options: RigOptions,
): Promise<EngineRig> {
  const secrets = mkdtempSync(join(tmpdir(), 'vsite-real-tsi-'));
  scope.defer(() => rmSync(secrets, { recursive: true, force: true }));
  const certificates = tls ? await makeCertificates(secrets) : undefined;
  const properties = certificates
    ? [...certificates.tsi, 'tsi.allowed_dn.1=CN=XNJS 1,O=Grid,C=EU']
    : [];
  const log = silentLog;
  const ports = { host: '127.0.0.1', firstPort: 0, lastPort: 0, log };
  const listener = scope.use(new CallbackRange(ports));
  const common = { clock: systemClock, log };
  const clients = Array.from({ length: nodes }, async (_, i) => {
    const { port } = await UnicoreTsi.start(scope, source, { properties, ordinary });
    const peer = certificates && { ...certificates.xnjs, peerDns: ['CN=TSI,O=Grid'] };
    const transport = callbackTransport({
      host: '127.0.0.1',
      port,
      listener,
      ...(peer && { tls: peer }),
    });
    return { name: `node${i}`, tsi: createTsi(transport, { ...common, systemIdentity: identity }) };
  });
  const group = scope.use(
    new TsiGroup({ name: 'test', nodes: await Promise.all(clients), ...common }),
  );
  return await startEngineOn(scope, scratch(scope), () => group.tsi, options);
}
