import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { compareVersions, parseVersionRange } from '#xnjs/incarnation/version.js';

const ascending = [
  '0.9',
  '1.0-alpha',
  '1.0-beta2',
  '1.0-rc1',
  '1.0',
  '1.0a',
  '1.0a2',
  '1.0-1',
  '1.2',
  '1.10',
  '2',
  '10.1',
  '2019a',
  '2024.1',
];

describe('versions', () => {
  it('are ordered by their numbers and words, what announces a version before it', () => {
    for (const [at, version] of ascending.entries())
      for (const [other, against] of ascending.entries())
        assert.equal(
          Math.sign(compareVersions(version, against)),
          Math.sign(at - other),
          `${version} ${against}`,
        );
  });

  it('are equal when only zeros or signs make the difference', () => {
    for (const other of ['2.1.0', '2_1', '02.1', '2.1.0.0'])
      assert.equal(compareVersions('2.1', other), 0);
  });

  const ranges: [range: string, inside: string[], outside: string[]][] = [
    ['*', ['1', 'x9'], []],
    ['2.x', ['2.0', '2.17.3', '2'], ['20.1', '1.9', '3']],
    ['2.1.*', ['2.1', '2.1.9'], ['2.10', '2.2']],
    ['>=2.1 <3', ['2.1', '2.1.0', '2.99'], ['2.0.9', '3.0', '3']],
    ['>= 2.1, < 3', ['2.1', '2.9'], ['2.0', '3']],
    ['>2', ['2.0.1', '3'], ['2', '2.0', '1']],
    ['<=2', ['2.0', '1.9'], ['2.1']],
    ['=2', ['2.0'], ['2.1']],
  ];
  for (const [range, inside, outside] of ranges)
    it(`${range} holds ${inside.join(' ')} and not ${outside.join(' ')}`, () => {
      const holds = parseVersionRange(range);
      assert.ok(holds);
      for (const version of inside) assert.ok(holds(version), version);
      for (const version of outside) assert.ok(!holds(version), version);
    });

  it('that are no ranges are none', () => {
    for (const text of ['', ' ', '2.1', '>=', '~2', '>=2 and <3', '$(id)', '1.0-2.0'])
      assert.equal(parseVersionRange(text), undefined, text);
  });
});
