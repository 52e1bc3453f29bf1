import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import type { SecurityDecision } from '#kernel/security/audit.js';
import { idOf, startCompute, type Ask, type Compute } from '../../targetsystem/compute-rig.js';
import { until } from '../job/rig.js';

describe('a machine proves which one it is', { timeout: 120_000 }, () => {
  const scope = new Scope();
  const decisions: SecurityDecision[] = [];
  let rig: Compute;
  let alice: Ask;
  before(async () => {
    rig = await startCompute(scope, {
      limits: { perUser: 8 },
      enrolment: { audit: (decision) => void decisions.push(decision) },
    });
    alice = rig.as('alice');
  });
  after(() => scope.close());

  const start = async (image = 'plain'): Promise<string> => {
    const id = idOf(await alice('POST', '/sites', { image }));
    await becomes(id, 'READY');
    return id;
  };
  const becomes = (id: string, state: string): Promise<void> =>
    until(`${id} is ${state}`, () => rig.systems.get(id).state === state);
  const enrolmentOf = (id: string) => rig.systems.get(id).enrolment;
  const fileOf = (id: string, name: string): string => join(rig.hypervisor.directoryOf(id), name);
  const refusedWith = (id: string, reason: RegExp): Promise<void> =>
    until(`${id} is refused: ${reason.source}`, () =>
      decisions.some((each) => each.resource === id && reason.test(each.why)),
    );

  it('by its token once, which nobody finds on the server afterwards', async () => {
    const id = await start();
    const { means, tokenHash, keyHash, usedMs, expiresMs } = enrolmentOf(id) ?? {};
    assert.equal(means, 'commandLine');
    assert.match(tokenHash ?? '', /^[0-9a-f]{64}$/);
    assert.ok(keyHash !== undefined && usedMs !== undefined);
    assert.ok((expiresMs ?? 0) > Date.now() && (expiresMs ?? 0) < Date.now() + 90_000_000);
    await until('the token is gone', () => !existsSync(fileOf(id, 'token.1')));
    const { body } = await alice('GET', `/sites/${id}`);
    assert.doesNotMatch(JSON.stringify(body), /tokenHash|keyHash/);
  });

  it('by its certificate when it, or the server, was started anew', async () => {
    const id = await start();
    const { keyHash } = enrolmentOf(id) ?? {};
    await rig.hypervisor.replaceAgent(id);
    await until('the loss is seen', () => rig.systems.get(id).state !== 'READY');
    await becomes(id, 'READY');
    rig = await rig.restart();
    alice = rig.as('alice');
    await until('it is reached', () => rig.systems.heard(id).agent !== undefined);
    assert.equal(enrolmentOf(id)?.keyHash, keyHash);
    assert.deepEqual(decisions, []);
  });

  it('and whoever has stolen the token is refused, which the owner and the auditor are told', async () => {
    const id = await start();
    const token = 'T'.repeat(43);
    const stolen = rig.hypervisor.tokenGivenTo(id);
    await rig.hypervisor.replaceAgent(id, { state: 'lost', token: stolen });
    await refusedWith(id, /^the enrolment token was used before$/);
    await until('the owner can see it', async () => {
      const { body } = await alice('GET', `/sites/${id}`);
      return JSON.stringify(body).includes('refused: the enrolment token was used before');
    });
    assert.equal(rig.systems.get(id).state, 'UNREACHABLE');
    assert.equal(decisions.find(({ resource }) => resource === id)?.what, 'enrolment');
    // without any token it is not believed either
    await rig.hypervisor.replaceAgent(id, { state: 'lost', token });
    await refusedWith(id, /^it has neither the token nor a certificate$/);
  });

  it('and one that shows the certificate of another is refused: a copy is not the original', async () => {
    const [one, other] = [await start(), await start()];
    await rig.hypervisor.replaceAgent(one, { likeThatOf: other });
    await refusedWith(one, /^(it has neither the token nor a certificate)$/);
    assert.equal(rig.systems.get(one).state, 'UNREACHABLE');
    assert.equal(rig.systems.get(other).state, 'READY');
  });

  it('but an agent that knows nothing of it works as ever, unless its image says otherwise', async () => {
    const old = new Scope();
    const strict = { contextualisation: { enrolment: 'required' } };
    try {
      const other = await startCompute(old, {
        agent: ['tsi.enrolment = 0'],
        enrolment: { audit: (decision) => void decisions.push(decision) },
      });
      other.images.add({ name: 'strict', ...strict });
      const ask = other.as('alice');
      const plain = idOf(await ask('POST', '/sites', { image: 'plain' }));
      const refused = idOf(await ask('POST', '/sites', { image: 'strict' }));
      await until('it is ready', () => other.systems.get(plain).state === 'READY');
      assert.equal(other.systems.get(plain).enrolment?.keyHash, undefined);
      await refusedWith(refused, /^its agent cannot prove which machine it is$/);
      assert.equal(other.systems.get(refused).state, 'INITIALIZING');
    } finally {
      await old.close();
    }
  });

  it('with a certificate that is renewed long before its time is over', async () => {
    const own = new Scope();
    try {
      const short = await startCompute(own, {
        ...{ guestMs: 100, enrolment: { validDays: 8 / 86_400 } },
      });
      const id = idOf(await short.as('alice')('POST', '/sites', { image: 'plain' }));
      await until('it is ready', () => short.systems.get(id).state === 'READY');
      const first = short.systems.get(id).enrolment;
      await until('it is renewed', () => {
        const now = short.systems.get(id).enrolment;
        return now?.expiresMs !== first?.expiresMs && now?.keyHash === first?.keyHash;
      });
      const held = JSON.parse(
        readFileSync(join(short.hypervisor.directoryOf(id), 'agent', 'enrolment.json'), 'utf8'),
      ) as { machine: string };
      assert.equal(held.machine, `${id}.1`);
    } finally {
      await own.close();
    }
  });
});
