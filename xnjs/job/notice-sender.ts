import { lookup as lookupCallback, type LookupAddress } from 'node:dns';
import { BlockList, isIP } from 'node:net';
import { Agent } from 'undici';
import { GridError } from '#kernel/errors.js';
import { linkSignals, startDeadline } from '#kernel/net/deadline.js';

export type NoticeSenderOptions = {
  readonly allowLocalTargets: boolean;
  readonly timeoutMs: number;
};

/** Posts one notification. @throws `SITE_UNAVAILABLE` another try may help, `BAD_REQUEST` none will */
export type NoticeSender = Disposable & {
  send(url: string, body: object, signal: AbortSignal): Promise<void>;
};

/** This host itself, and what only holds on one link: among it the metadata services of clouds. */
const local = new BlockList();
local.addSubnet('0.0.0.0', 8);
local.addSubnet('127.0.0.0', 8);
local.addSubnet('169.254.0.0', 16);
local.addAddress('::', 'ipv6');
local.addAddress('::1', 'ipv6');
local.addSubnet('fe80::', 10, 'ipv6');

/** What the receiver says is not read beyond its status; redirects are not followed (docs/adr/012). */
export function createNoticeSender(options: NoticeSenderOptions): NoticeSender {
  const { allowLocalTargets, timeoutMs } = options;
  const connect = allowLocalTargets ? {} : { lookup: guardedLookup };
  const agent = new Agent({ connections: 4, connect: { timeout: timeoutMs, ...connect } });
  return {
    async send(address, body, outer) {
      const url = new URL(address);
      if (url.protocol !== 'http:' && url.protocol !== 'https:')
        throw new GridError('BAD_REQUEST', 'only http and https addresses are notified');
      const literal = url.hostname.replace(/^\[|\]$/g, '');
      if (!allowLocalTargets && isIP(literal) > 0) refuseLocal(literal);
      using deadline = startDeadline(timeoutMs, () => new Error(`not within ${timeoutMs} ms`));
      using until = linkSignals(outer, deadline.signal);
      const answer = await agent.request({
        origin: url.origin,
        path: url.pathname + url.search,
        method: 'POST',
        headers: { 'content-type': 'application/json', ...authorization(url) },
        body: JSON.stringify(body),
        signal: until.signal,
      });
      await answer.body.dump({ limit: 4_096, signal: until.signal });
      const { statusCode: status } = answer;
      if (status >= 500 || status === 429)
        throw new GridError('SITE_UNAVAILABLE', `the receiver answers with status ${status}`);
      if (status >= 300)
        throw new GridError('BAD_REQUEST', `the receiver answers with status ${status}`);
    },
    [Symbol.dispose]: () => void agent.destroy(),
  };
}

function authorization({ username, password }: URL): { authorization?: string } {
  if (username === '') return {};
  const plain = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return { authorization: `Basic ${Buffer.from(plain).toString('base64')}` };
}

function refuseLocal(address: string): void {
  if (local.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4'))
    throw new GridError('BAD_REQUEST', `${address} is an address of this host or link`);
}

/** The addresses that are connected to are those that were checked. */
function guardedLookup(
  hostname: string,
  options: object,
  done: (error: Error | null, address: string | LookupAddress[], family?: number) => void,
): void {
  lookupCallback(hostname, { ...options, all: true }, (error, addresses) => {
    try {
      if (error) throw error;
      for (const { address } of addresses) refuseLocal(address);
      const [first] = addresses;
      if ('all' in options && options.all === true) done(null, addresses);
      else done(null, first?.address ?? '', first?.family);
    } catch (refused) {
      done(refused as Error, []); // nothing else is thrown here
    }
  });
}
