import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { parse } from 'yaml';
import { GatewayConfig } from '#gateway/config.js';
import { createRouteLimits } from '#gateway/routes.js';
import { inProject } from '../program.js';

describe('the configuration of a new installation', () => {
  const template = readFileSync(inProject('config/gateway.yaml'), 'utf8');
  const { routes } = parse(template) as { routes: unknown };
  const limitsOf = createRouteLimits(GatewayConfig.shape.routes.parse(routes));

  for (const [what, site, path] of [
    ['a file of a storage', 'VSITE', '/rest/core/storages/DATA/files/big.iso'],
    ['an import by its address', 'VSITE', '/rest/files/KEY'],
    ['a share', 'VSITE', '/rest/access/VSITE/ID/big.iso'],
    ['a part of an image', 'IMAGES', '/rest/images/ID/parts/disk'],
  ] as const)
    it(`has no limit for ${what}, up or down`, () => {
      assert.deepEqual(limitsOf(site, path), {});
    });

  it('has some for documents, of size and of time', () => {
    const limits = { maxBodyBytes: 67_108_864, timeoutMs: 600_000 };
    assert.deepEqual(limitsOf('VSITE', '/rest/core/jobs'), limits);
  });
  it('lets streams of events go on', () => {
    assert.equal(limitsOf('VSITE', '/rest/core/events?since=7').timeoutMs, undefined);
  });
  it('waits longer than the gateway does for a site that is silent', () => {
    const { timeoutMs = 0 } = limitsOf('VSITE', '/rest/core/jobs');
    const { idleSeconds } = GatewayConfig.shape.upstream.parse(undefined);
    assert.ok(timeoutMs > idleSeconds * 1_000);
  });
});
