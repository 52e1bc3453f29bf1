import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { networkInterfaces } from 'node:os';
import { connect } from 'node:tls';
import type { Configuration } from './configuration.js';
import { bad, doubtful, good, together, unseen, type Finding } from './finding.js';

/** `setting` is where it stands in the configuration. */
type Port = { readonly setting: string; readonly host: string; readonly port: number };

const callMs = 10_000;
const wildcards: readonly string[] = ['::', '0.0.0.0'];

/** Whether our gateway answers at its port, nobody, or another program. */
export async function gatewayAnswers({
  gateway: { listen, tls },
}: Configuration): Promise<'ours' | 'another' | 'nobody'> {
  const host = wildcards.includes(listen.host) ? 'localhost' : listen.host;
  const expected = new X509Certificate(await readFile(tls.certFile)).fingerprint256;
  const found = await peerFingerprint(host, listen.port);
  if (found === undefined) return 'nobody';
  return found === expected ? 'ours' : 'another';
}

export async function checkGateway(configuration: Configuration): Promise<Finding> {
  const { port } = configuration.gateway.listen;
  const answers = await gatewayAnswers(configuration);
  if (answers === 'ours') return good(`answers at port ${port}`);
  return answers === 'nobody'
    ? doubtful(`nothing listens at port ${port}`, 'run: vsite serve --config …')
    : bad(`another program has port ${port}`, `${endIt(port)}, or set listen.port`);
}

/** Every port that the services open. A server that runs has them all: it does not start without. */
export async function checkPorts(configuration: Configuration): Promise<Finding> {
  const ports = portsOf(configuration);
  const twice = findTwice(ports);
  if (twice.length > 0) return together(twice, '');
  const names = ports.map(({ setting, port }) => `${port} (${setting})`).join(', ');
  const answers = await gatewayAnswers(configuration);
  if (answers === 'ours') return good(`the running server has ${names}`);
  // that of the gateway is told by its own check
  const asked = ports.slice(answers === 'another' ? 1 : 0);
  const found = await Promise.all([...asked.map(tryPort), tryCallbacks(configuration)]);
  return together(found, `free: ${names}`);
}

function portsOf({ gateway, imagerepo, targetsystem }: Configuration): Port[] {
  const ports: Port[] = [{ setting: 'gateway.yaml: listen.port', ...gateway.listen }];
  const { acme } = gateway;
  if (acme?.httpPort !== undefined) {
    const { host } = gateway.listen;
    ports.push({ setting: 'gateway.yaml: acme.httpPort', host, port: acme.httpPort });
  }
  for (const [file, { listen }] of Object.entries({ imagerepo, targetsystem }))
    if ('port' in listen) ports.push({ setting: `${file}.yaml: listen.port`, ...listen });
  for (const [file, { metrics }] of Object.entries({ gateway, imagerepo, targetsystem }))
    if (metrics) ports.push({ setting: `${file}.yaml: metrics.port`, ...metrics });
  return ports.filter(({ port }) => port !== 0); // any that is free
}

function findTwice(ports: readonly Port[]): Finding[] {
  return ports.flatMap((one, at) =>
    ports
      .slice(at + 1)
      .filter(({ port, host }) => port === one.port && meet(host, one.host))
      .map(({ setting }) =>
        bad(
          `port ${one.port} is given twice: ${one.setting}, ${setting}`,
          `give another in ${setting}`,
        ),
      ),
  );
}

const meet = (one: string, other: string): boolean =>
  one === other || wildcards.includes(one) || wildcards.includes(other);

/** Ports that TSIs call back are opened when they are needed, and one is enough. */
async function tryCallbacks({ targetsystem: { xnjs } }: Configuration): Promise<Finding> {
  const { network } = xnjs.hypervisor;
  const { firstPort, lastPort, host = network?.server.split('/')[0] ?? '' } = xnjs.tsi.callback;
  const own = Object.values(networkInterfaces()).flatMap((each) => each ?? []);
  // the network, and with it the address, is made with the first machine that wants it
  if (!network || !own.some(({ address }) => address === host)) return good('no call-backs yet');
  const count = Math.min(lastPort - firstPort + 1, 32);
  const setting = 'targetsystem.yaml: xnjs.tsi.callback';
  const tried = await Promise.all(
    Array.from({ length: count }, (_, at) => tryPort({ setting, host, port: firstPort + at })),
  );
  return tried.find(({ state }) => state === 'good') ?? together(tried, '');
}

/** Takes the port for a moment: that is the only way to know whether it may be had. */
async function tryPort({ setting, host, port }: Port): Promise<Finding> {
  const server = createServer();
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ host, port }, resolve);
    });
    await new Promise((resolve) => server.close(resolve));
    return good(`${port} is free`);
  } catch (error) {
    switch ((error as NodeJS.ErrnoException).code) {
      case 'EADDRINUSE':
        return bad(`another program has port ${port}`, `${endIt(port)}, or set ${setting}`);
      case 'EACCES':
        return bad(
          `port ${port} is for root only`,
          `AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, or set ${setting}`,
        );
      case 'EADDRNOTAVAIL':
      case 'ENOTFOUND':
        return bad(`this host has no address ${host}`, `correct the host of ${setting}`);
      default:
        return unseen(error, `set ${setting}`);
    }
  }
}

const endIt = (port: number): string => `end it (ss -ltnp 'sport = :${port}' names it)`;

/** The certificate of whatever listens there, `''` where it has none; `undefined`: nobody does. */
async function peerFingerprint(host: string, port: number): Promise<string | undefined> {
  // it is the identity that is asked for, not whether we trust it
  const socket = connect({ host, port, rejectUnauthorized: false, timeout: callMs });
  let isConnected = false;
  const found = new Promise<string | undefined>((resolve) => {
    socket.once('connect', () => (isConnected = true));
    socket.once('secureConnect', () => resolve(socket.getPeerCertificate().fingerprint256));
    for (const event of ['timeout', 'error', 'close'])
      socket.once(event, () => resolve(isConnected ? '' : undefined));
  });
  return await found.finally(() => socket.destroy());
}
