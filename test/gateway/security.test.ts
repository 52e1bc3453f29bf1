import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer as createTcpServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { silentLog } from '#kernel/log.js';
import { createAuthenticator, type Authenticate } from '#kernel/security/authenticate.js';
import { Sessions } from '#kernel/security/sessions.js';
import { openUsers } from '#kernel/security/users.js';
import { openTls, startRig, type Asked, type Rig } from './rig.js';

describe('who a site believes is asking', () => {
  let rig: Rig;
  let authenticate: Authenticate;
  let latest: Record<string, unknown> = {};
  let replay: Record<string, string> | undefined;
  before(async () => {
    rig = await startRig((request, response) => {
      latest = { ...request.headers };
      if (replay) Object.assign(request.headers, replay);
      authenticate(request, response).then(
        ({ dn, role, peer }) => response.end(JSON.stringify({ dn, role, peer })),
        (error: unknown) => response.writeHead(403).end(String(error)),
      );
    });
    const usersFile = join(rig.directory, 'users.yaml');
    await writeFile(usersFile, 'users: [{ name: demo, dn: "CN=Demo User,O=VSite,C=EU" }]');
    authenticate = createAuthenticator({
      users: await openUsers(usersFile, { log: silentLog }),
      trustedSigners: [rig.signer],
      siteName: 'VSITE',
      sessions: new Sessions({}),
      log: silentLog,
    });
  });
  after(() => rig[Symbol.asyncDispose]());
  const ask = async (options: Asked = {}) => {
    const { status, body } = await rig.request({ path: '/VSITE/x', ...options });
    return status === 200 ? (JSON.parse(body) as Record<string, string>) : { refused: body };
  };
  const stolen = async (...names: string[]) => {
    await ask({ ...rig.asUser });
    return Object.fromEntries(names.map((name) => [name, String(latest[name])]));
  };
  const token = ['x-unicore-consignor-token', 'x-unicore-consignor-key'];

  it('is the owner of the certificate, by token and by the older header', async () => {
    assert.equal((await ask({ ...rig.asUser }))['dn'], 'CN=Demo User,O=VSite,C=EU');
    assert.equal(typeof latest[token[0]!], 'string');
    assert.match(String(latest['x-unicore-consignor']), /DSIG=/);
  });
  it('is nobody for a client that sends such headers, stolen ones included', async () => {
    const headers = await stolen(...token, 'x-unicore-consignor');
    for (const name of Object.keys(headers)) {
      const spelt = { [name]: headers[name]!, [name.replaceAll('-', '_')]: headers[name]! };
      assert.equal((await ask({ headers: spelt }))['role'], 'anonymous', name);
    }
    assert.equal((await ask({ headers, method: 'POST', body: 'x' }))['role'], 'anonymous');
  });
  it('is refused when a token comes again, or for another request or site', async () => {
    const used = await stolen(...token, 'x-unicore-gateway', 'x-unicore-consignor-ip');
    const other = /consignor token refused: made for another request/;
    const cases = [
      [{}, {}, /consignor token refused: was here before/],
      [{ path: '/VSITE/y' }, {}, other],
      [{ method: 'DELETE' }, {}, other],
      [{}, { 'x-unicore-consignor-ip': '192.0.2.1' }, other],
      [{}, { 'x-unicore-gateway': 'https://elsewhere/VSITE' }, other],
      [{}, { 'x-unicore-gateway': 'https://localhost/OTHER' }, /refused: for another site/],
    ] as const;
    for (const [request, change, reason] of cases) {
      replay = { ...used, ...change };
      const { refused = 'nothing' } = await ask(request).finally(() => (replay = undefined));
      assert.match(refused, reason);
    }
  });
  it('is refused when another gateway, of a key that the site does not trust, names him', async () => {
    const { gateway, user } = rig.credentials;
    for (const signingKeyFile of [gateway.keyFile, user.keyFile]) {
      await rig.reconfigure({ signingKeyFile, legacyConsignor: false });
      assert.match((await ask({ ...rig.asUser }))['refused']!, /consignor token refused/);
    }
    await rig.reconfigure({});
    assert.equal((await ask({ ...rig.asUser }))['dn'], 'CN=Demo User,O=VSite,C=EU');
  });
  it('does not hang on the older header where a gateway is told to send none', async () => {
    await rig.reconfigure({ legacyConsignor: false });
    assert.equal((await ask({ ...rig.asUser }))['dn'], 'CN=Demo User,O=VSite,C=EU');
    assert.equal(latest['x-unicore-consignor'], undefined);
    await rig.reconfigure({});
  });
});

describe('request smuggling', () => {
  let rig: Rig;
  let site: Server;
  /** Everything that comes out at the back of the gateway. */
  let bytes = '';
  before(async () => {
    rig = await startRig(() => undefined);
    const path = join(rig.directory, 'raw.sock');
    site = createTcpServer((socket: Socket) => {
      socket.on('error', () => undefined);
      socket.on('data', (chunk) => {
        bytes += chunk.toString('latin1');
        // Answers each head, be it one that we were not to see
        const heads = chunk.toString('latin1').match(/(?:GET|POST|PUT) \S+ HTTP/g) ?? [];
        for (const head of heads) {
          const body = head.split(' ')[1] ?? '';
          socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
        }
      });
    }).listen(path);
    await once(site, 'listening');
    await rig.reconfigure({ sites: { VSITE: `unix:${path}` } });
  });
  after(async () => {
    await rig[Symbol.asyncDispose]();
    site.close();
  });
  const smuggled =
    'GET /smuggled HTTP/1.1\r\nHost: h\r\nX-UNICORE-Consignor: DN="CN=Root";DSIG=\r\n\r\n';
  const head = (...lines: string[]) =>
    ['POST /VSITE/x HTTP/1.1', 'Host: h', ...lines, '', ''].join('\r\n');
  const chunked = `0\r\n\r\n${smuggled}`;
  const attempts = [
    [
      'length and chunks',
      head(`Content-Length: ${chunked.length}`, 'Transfer-Encoding: chunked') + chunked,
    ],
    ['chunks and length', head('Transfer-Encoding: chunked', 'Content-Length: 4') + chunked],
    ['a coding nobody knows', head('Content-Length: 6', 'Transfer-Encoding: xchunked') + chunked],
    ['two codings', head('Transfer-Encoding: chunked', 'Transfer-Encoding: identity') + chunked],
    ['a coding behind a tab', head('Transfer-Encoding:\tchunked', 'Content-Length: 3') + chunked],
    [
      'a coding with a blank in its name',
      head('Transfer-Encoding : chunked', 'Content-Length: 3') + chunked,
    ],
    [
      'a coding after a bare line feed',
      head('X: a\nTransfer-Encoding: chunked', 'Content-Length: 3') + chunked,
    ],
    ['a folded coding', head('X: a', ' Transfer-Encoding: chunked', 'Content-Length: 3') + chunked],
    ['quoted chunked', head('Transfer-Encoding: "chunked"', 'Content-Length: 3') + chunked],
    ['a signed length', head('Content-Length: +5') + `12345${smuggled}`],
    ['a length in hexadecimal', head('Content-Length: 0x5') + `12345${smuggled}`],
    ['a list of lengths', head('Content-Length: 5, 0') + `12345${smuggled}`],
    ['two lengths', head('Content-Length: 0', 'Content-Length: 5') + `12345${smuggled}`],
    ['a negative size of a chunk', head('Transfer-Encoding: chunked') + `-1\r\n${chunked}`],
    [
      'a size of a chunk that is too big',
      head('Transfer-Encoding: chunked') + `fffffffffffffffff\r\n${chunked}`,
    ],
    ['a chunk longer than it says', head('Transfer-Encoding: chunked') + `1\r\nxx\r\n${chunked}`],
    [
      'a chunk that ends with a line feed',
      head('Transfer-Encoding: chunked') + `1\nx\n0\n\n${smuggled}`,
    ],
    ['chunked twice', head('Transfer-Encoding: chunked, chunked', 'Content-Length: 3') + chunked],
    ['chunked, then nothing', head('Transfer-Encoding: chunked, identity') + chunked],
    ['chunked, then a comma', head('Transfer-Encoding: chunked,') + chunked],
    ['a coding in two words', head('Transfer-Encoding: chunked identity') + chunked],
    [
      'a coding with a null in it',
      head('Transfer-Encoding: chunked\0', 'Content-Length: 3') + chunked,
    ],
    ['a coding after a bare return', head('X: a\rTransfer-Encoding: chunked') + chunked],
    ['a head of bare line feeds', `GET /VSITE/x HTTP/1.1\nHost: h\n\n${smuggled}`],
    ['the same length twice', head('Content-Length: 5', 'Content-Length: 5') + `12345${smuggled}`],
    ['a length with an underscore', head('Content_Length: 5', 'Content-Length: 0') + smuggled],
    [
      'an endless extension of a chunk',
      head('Transfer-Encoding: chunked') + `1;${'a'.repeat(100_000)}\r\nx\r\n${chunked}`,
    ],
    [
      'a line feed in the extension of a chunk',
      head('Transfer-Encoding: chunked') + `1;a\nx\r\n${chunked}`,
    ],
    [
      'headers behind the last chunk',
      head('Connection: close', 'Transfer-Encoding: chunked') +
        '0\r\nContent-Length: 5\r\nX-UNICORE-Consignor: x\r\n\r\n',
    ],
    [
      'a tunnel that the site refuses',
      `GET /VSITE/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n${smuggled}`,
    ],
    [
      'a body of a request for a tunnel',
      `GET /VSITE/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`,
    ],
    [
      'a line break in the path',
      `GET /VSITE/x%0d%0aX HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n`,
    ],
    [
      'a body of a GET',
      `GET /VSITE/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`,
    ],
    ['a request behind a refused one', `TRACE /VSITE/x HTTP/1.1\r\nHost: h\r\n\r\n${smuggled}`],
    [
      'a length that Connection hides',
      head('Connection: close, content-length', `Content-Length: ${smuggled.length}`) + smuggled,
    ],
    [
      'a coding that Connection hides',
      head('Connection: close, transfer-encoding', 'Transfer-Encoding: chunked') +
        `${smuggled.length.toString(16)}\r\n${smuggled}\r\n0\r\n\r\n`,
    ],
    [
      'an Upgrade with a request behind',
      `GET /VSITE/x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n${smuggled}`,
    ],
  ] as const;
  /** @returns what the client hears until the gateway hangs up */
  async function send(text: string): Promise<string> {
    bytes = '';
    const socket = await openTls(rig);
    let answer = '';
    socket.on('data', (chunk: Buffer) => (answer += chunk.toString('latin1')));
    socket.write(text);
    // What follows tells whether the gateway has lost count
    if (!text.includes('Connection: close'))
      socket.write('GET /VSITE/next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n');
    await once(socket, 'close');
    return answer;
  }
  const honest = [
    ['a length', head('Content-Length: 5') + '12345'],
    ['chunks', head('Transfer-Encoding: chunked') + '5\r\n12345\r\n0\r\n\r\n'],
  ] as const;
  for (const [what, text] of honest)
    it(`is not seen in a body with ${what}, which comes through with what follows`, async () => {
      const answer = await send(text);
      assert.deepEqual(readRequests(bytes), ['POST /x HTTP/1.1', 'GET /next HTTP/1.1']);
      assert.match(bytes, /12345/);
      assert.match(answer, /^HTTP\/1\.1 200 [^]*\/xHTTP\/1\.1 200 [^]*\/next$/);
    });
  for (const [what, text] of attempts)
    it(`is not done by ${what}`, async () => {
      const answer = await send(text);
      // As a request of its own; inside a body it is as it should be
      const requests = readRequests(bytes);
      assert.deepEqual(
        requests.filter((line) => line.includes('smuggled')),
        [],
        answer,
      );
      assert.ok(requests.length <= 2, bytes);
      assert.ok((answer.match(/HTTP\/1\.1 \d/g) ?? []).length <= 2, answer);
    });
});

/** The request lines in what a site got, by a reader that is as strict as can be. */
function readRequests(text: string): string[] {
  const lines: string[] = [];
  for (let rest = text; rest !== '';) {
    const end = rest.indexOf('\r\n\r\n');
    assert.ok(end > 0, `no head: ${rest}`);
    const [line = '', ...fields] = rest.slice(0, end).split('\r\n');
    lines.push(line);
    const lengths = fields.filter((field) => /^content-length:/i.test(field));
    const isChunked = fields.some((field) => /^transfer-encoding: chunked$/i.test(field));
    assert.ok(lengths.length + Number(isChunked) <= 1, `framed twice: ${rest}`);
    rest = rest.slice(end + 4);
    if (isChunked) rest = afterChunks(rest);
    else rest = rest.slice(Number(lengths[0]?.split(':')[1] ?? 0));
  }
  return lines;
}

function afterChunks(text: string): string {
  for (let rest = text; ;) {
    const size = /^([0-9a-f]+)\r\n/i.exec(rest);
    // Cut off in the middle: the connection ended with it
    if (!size) return '';
    const bytes = Number.parseInt(size[1]!, 16);
    rest = rest.slice(size[0].length + bytes + 2);
    if (bytes === 0) return rest;
  }
}
