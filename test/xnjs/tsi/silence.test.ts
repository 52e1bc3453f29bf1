import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { silenceOf } from '#xnjs/tsi/silence.js';

describe('an agent is silent', () => {
  const cases = [
    ['after ten seconds, by default', { heartbeatMs: 1_000 }, 10_000],
    ['after three heartbeats where these are rare', { heartbeatMs: 5_000 }, 15_000],
    ['when it is told so', { heartbeatMs: 5_000, silenceMs: 3_000 }, 3_000],
  ] as const;
  for (const [when, options, ms] of cases) it(when, () => assert.equal(silenceOf(options), ms));
});
