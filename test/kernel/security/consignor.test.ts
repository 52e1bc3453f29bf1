import assert from 'node:assert/strict';
import { createHash, createVerify } from 'node:crypto';
import { before, describe, it } from 'node:test';
import { createCa, issueCertificate, type Credential } from '#kernel/security/ca.js';
import { createConsignorSigner, createConsignorVerifier } from '#kernel/security/consignor.js';
import { formatDn, parseDn } from '#kernel/security/dn.js';

describe('consignor header', () => {
  let signer: Credential;
  let stranger: Credential;
  let expired: Credential;
  const dn = parseDn('CN=Jörg \\"X\\" User,O=VSite');
  before(async () => {
    const ca = await createCa('CN=CA');
    [signer, stranger, expired] = await Promise.all([
      issueCertificate(ca, { subject: 'CN=Gateway', usage: 'client' }),
      issueCertificate(ca, { subject: 'CN=Gateway', usage: 'client' }),
      issueCertificate(ca, { subject: 'CN=Gateway', usage: 'client', validDays: -1 }),
    ]);
  });

  it('has the form and the signature that stock servers verify', () => {
    const value = createConsignorSigner(signer.key)(dn);
    const [, name, signature] = /^DN="(.*)";DSIG=([\w+/]+=*)$/.exec(value)!;
    assert.equal(name, 'CN=J\\C3\\B6rg \\"X\\" User,O=VSite');
    const digest = createHash('sha1').update(name).digest();
    const check = createVerify('RSA-SHA1').update(digest);
    assert.ok(check.verify(signer.certificate.publicKey, signature!, 'base64'));
  });
  it('is accepted from any of the trusted signers', () => {
    const verify = createConsignorVerifier([stranger.certificate, signer.certificate]);
    for (let i = 0; i < 2; i++)
      assert.equal(formatDn(verify(createConsignorSigner(signer.key)(dn))), formatDn(dn));
  });
  it('is refused when forged', () => {
    const verify = createConsignorVerifier([signer.certificate]);
    const good = createConsignorSigner(signer.key)(dn);
    const forged = [
      createConsignorSigner(stranger.key)(dn),
      good.replace('User', 'Admin'),
      good.replace(/DSIG=.*/, 'DSIG='),
      good.slice(0, -12),
      `${good}, ${good}`,
      'DN="CN=x"',
      'nonsense',
      '',
    ];
    for (const value of forged) assert.throws(() => verify(value), { code: 'UNAUTHENTICATED' });
  });
  it('is refused from a signer whose certificate has ended, and when nobody is trusted', () => {
    const value = createConsignorSigner(expired.key)(dn);
    const none = createConsignorVerifier([]);
    const verify = createConsignorVerifier([expired.certificate]);
    assert.throws(() => verify(value), { code: 'UNAUTHENTICATED' });
    assert.throws(() => none(value), { code: 'UNAUTHENTICATED' });
  });
});
