import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { decodeJwt } from 'jose';
import { silentLog } from '#kernel/log.js';
import { Scope } from '#kernel/scope.js';
import { issueCertificate, type Credential } from '#kernel/security/ca.js';
import { dnKey, equalDns } from '#kernel/security/dn.js';
import { createDelegationVerifier, createTokenIssuer } from '#kernel/security/tokens.js';
import { RegistryConfig } from '#targetsystem/config.js';
import { ServerKeys, type ServerKeysOptions } from '#targetsystem/registry/server-keys.js';
import { until } from '../xnjs/job/rig.js';
import { ShiftedClock } from './shifted-clock.js';

const [ourDn, otherDn, thirdDn] = ['CN=Ours,O=Grid', 'CN=Other,O=Grid', 'CN=Third,O=Grid'];
const alice = 'CN=Alice,O=Grid';
const makeServer = (subject: string, validDays = 30): Promise<Credential> =>
  issueCertificate(undefined, { subject, usage: 'server', validDays });
const entryOf = ({ certificate }: Credential, identity: string) => ({
  ...{ href: 'https://h/S/rest/core', type: 'CoreServices' },
  ...{ ServerIdentity: identity, ServerPublicKey: certificate.toString() },
});

describe('keys of servers from registries', { timeout: 60_000 }, () => {
  const scope = new Scope();
  const clock = new ShiftedClock();
  let [ours, other, third, renewed]: Credential[] = [];
  let url = '';
  /** What the registry says, and how often it was asked. */
  let said = { status: 200, entries: [] as object[] };
  let asked = 0;
  let own: ReturnType<ServerKeysOptions['own']> = [];
  let keys: ServerKeys;
  let verify: (issuer: Credential, name: string) => Promise<string>;

  before(async () => {
    [ours, other, third, renewed] = await Promise.all([ourDn, otherDn, thirdDn, otherDn].map((dn) => makeServer(dn))); // prettier-ignore
    const http = createServer((_, response) => {
      asked++;
      response.writeHead(said.status, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ entries: said.entries }));
    });
    await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
    scope.defer(() => new Promise((resolve) => http.close(resolve)));
    url = `http://127.0.0.1:${(http.address() as AddressInfo).port}/rest/registries/r`;
    said.entries = [
      entryOf(other!, 'CN=Other, O=Grid'),
      entryOf(other!, otherDn), // of another of its services
      entryOf(ours!, otherDn),
      { ...entryOf(third!, ourDn) },
      { href: 'https://h/old', type: 'Old' },
      { ServerIdentity: thirdDn, ServerPublicKey: 'no certificate' },
      { ServerIdentity: 'no name', ServerPublicKey: third!.certificate.toString() },
    ];
    keys = scope.use(
      new ServerKeys({ registries: [{ url }], own: () => own, clock, log: silentLog }),
    );
    const check = createDelegationVerifier({
      ...{ issuers: [ours!.certificate], learned: keys.of, serverDn: ourDn, clock },
    });
    verify = async (issuer, name) => {
      const issue = createTokenIssuer(issuer.key, name, clock);
      const token = await issue({ subject: alice, lifetimeSeconds: 60, audience: ourDn });
      return (await check(token, decodeJwt(token))).dn;
    };
    await until('it was read', () => keys.of(dnKey(otherDn)).length > 0);
  });
  after(() => scope.close());

  const refused = (issuer: Credential, name: string) =>
    assert.rejects(verify(issuer, name), { code: 'UNAUTHENTICATED' });
  /** What the registry says from now on, until that has come through. */
  async function says(entries: object[], known: () => boolean): Promise<void> {
    said = { status: 200, entries };
    await until('it is read again', () => {
      clock.advance(61_000);
      return known();
    });
  }
  const known = (dn: string): number => keys.of(dnKey(dn)).length;

  it('let those speak for users whom the registry names, by their own key alone', async () => {
    assert.equal(await verify(other!, otherDn), alice);
    await refused(ours!, otherDn);
    await refused(third!, otherDn);
    await refused(third!, thirdDn);
    await refused(other!, 'no name');
  });

  it('never let anybody speak in our name', async () => {
    const forged = await makeServer(ourDn);
    await says([...said.entries, entryOf(forged, ourDn)], () => known(ourDn) === 1);
    await refused(forged, ourDn);
    assert.equal(await verify(ours!, ourDn), alice);
  });

  it('are followed: a new key counts, one that is gone does not', async () => {
    const entries = [entryOf(renewed!, otherDn), entryOf(third!, thirdDn)];
    await says(entries, () => known(thirdDn) === 1);
    assert.equal(await verify(renewed!, otherDn), alice);
    assert.equal(await verify(third!, thirdDn), alice);
    await refused(other!, otherDn);
  });

  it('count for half an hour while the registry is away, and not for ever', async () => {
    said = { ...said, status: 503 };
    const before = asked;
    clock.advance(1_600_000);
    assert.equal(await verify(third!, thirdDn), alice);
    await until('it was asked', () => asked > before);
    clock.advance(250_000);
    await refused(third!, thirdDn);
    await says(said.entries, () => known(thirdDn) === 1);
  });

  it('of entries here: only of the server that has added its own', async () => {
    const content = (of: Credential, name: string) => ({
      ...{ Endpoint: 'https://h/S', InterfaceName: 'X', ServerIdentity: name },
      ServerPublicKey: of.certificate.toString(),
    });
    own = [{ ownerDn: thirdDn, content: content(other!, otherDn) }];
    await refused(other!, otherDn);
    own = [{ ownerDn: 'CN=Other, O=Grid', content: content(other!, otherDn) }];
    assert.equal(await verify(other!, otherDn), alice);
    own = [];
    await refused(other!, otherDn);
  });

  it('end with their certificates', async () => {
    const brief = await makeServer('CN=Brief,O=Grid', 1);
    own = [{ ownerDn: 'CN=Brief,O=Grid', content: { Endpoint: '', InterfaceName: '', ServerIdentity: 'CN=Brief,O=Grid', ServerPublicKey: brief.certificate.toString() } }]; // prettier-ignore
    assert.equal(await verify(brief, 'CN=Brief,O=Grid'), alice);
    clock.advance(2 * 86_400_000);
    await refused(brief, 'CN=Brief,O=Grid');
  });

  it('come over https alone', () => {
    const external = [{ url: 'http://registry.example/S/rest/registries/r', trustKeys: true }];
    assert.throws(() => RegistryConfig.parse({ external }), /https where keys are trusted/);
    assert.ok(RegistryConfig.parse({ external: [{ ...external[0]!, trustKeys: false }] }));
    assert.ok(equalDns(otherDn, 'CN=Other, O=Grid'));
  });
});
