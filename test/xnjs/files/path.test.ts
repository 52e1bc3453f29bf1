import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { normalisePath, parentOf } from '#xnjs/files/path.js';

const cases: [string, string][] = [
  ['', '/'],
  ['.', '/'],
  ['//', '/'],
  ['a', '/a'],
  ['/a/./b//c/', '/a/b/c'],
  ['a/../b', '/b'],
  ['a/b/../..', '/'],
  ['a\\b', '/a/b'],
  ['...', '/...'],
  [' a ', '/ a '],
];
const refused = [
  '..',
  '/..',
  'a/../..',
  '/../other/x',
  'a/../../b',
  '..\\x',
  'a\0b',
  'a\nb',
  'a\rb',
  'x'.repeat(5_000),
];

describe('paths of a storage', () => {
  for (const [path, canonical] of cases)
    it(`"${path}" is ${canonical}`, () => assert.equal(normalisePath(path), canonical));

  for (const path of refused)
    it(`${JSON.stringify(path.slice(0, 20))} is refused`, () => {
      assert.throws(() => normalisePath(path), { code: 'BAD_REQUEST' });
    });

  it('never lead out of the root', () => {
    const part = fc.constantFrom('..', '.', '', 'a', 'b', '...', '\\', '/', '..\\', '%2e%2e');
    fc.assert(
      fc.property(fc.array(part), (parts) => {
        let path: string;
        try {
          path = normalisePath(parts.join('/'));
        } catch (error) {
          assert.equal((error as { code?: string }).code, 'BAD_REQUEST');
          return;
        }
        assert.ok(path.startsWith('/'));
        assert.ok(!path.split('/').includes('..'));
        assert.equal(normalisePath(path), path);
      }),
    );
  });

  it('know their directory', () => {
    assert.deepEqual(['/a/b', '/a', '/'].map(parentOf), ['/a', '/', '/']);
  });
});
