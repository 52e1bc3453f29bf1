import assert from 'node:assert/strict';
import { it } from 'node:test';
import { StagingConfig } from '#xnjs/staging/config.js';
import { createSiteTokens } from '#xnjs/staging/site-tokens.js';

const trustedSites = [
  { url: 'https://grid.example:8080/SITE/', dn: 'CN=Site,O=Grid' },
  { url: 'https://two.example', dn: 'CN=Two,O=Grid' },
];
const issue = (token: object) => Promise.resolve(JSON.stringify(token));
const onBehalfOf = createSiteTokens(StagingConfig.parse({ trustedSites }), issue);
const alice = 'CN=Alice,O=Grid';

const cases = [
  ['https://grid.example:8080/SITE', 'CN=Site,O=Grid'],
  ['https://GRID.example:8080/x/../SITE/', 'CN=Site,O=Grid'],
  ['https://two.example:443/', 'CN=Two,O=Grid'],
  ['http://grid.example:8080/SITE', undefined],
  ['https://grid.example/SITE', undefined],
  ['https://grid.example:8080/site', undefined],
  ['https://grid.example:8080/SITE/SITE', undefined],
  ['https://grid.example:8080/SITE/../OTHER', undefined],
  ['https://grid.example:8080', undefined],
  ['https://evil.example/https://grid.example:8080/SITE', undefined],
  ['https://two.example.evil', undefined],
] as const;
for (const [url, audience] of cases)
  it(`our word for a user ${audience ? `is for ${audience} at` : 'does not go to'} ${url}`, async () => {
    const expected = audience && { subject: alice, audience, lifetimeSeconds: 300 };
    const token = await onBehalfOf(alice, new URL(url));
    assert.deepEqual(token && JSON.parse(token), expected);
  });

it('sites that get it are https addresses and nothing more', () => {
  for (const url of [
    'http://grid.example',
    'https://a@grid.example',
    'https://h/S?x',
    'https://h/S#x',
  ])
    assert.throws(() => StagingConfig.parse({ trustedSites: [{ url, dn: 'CN=X' }] }), /url/);
});
