import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseQuantity, type UnitKind } from '#kernel/units.js';

const quantities: [string, UnitKind, number | undefined][] = [
  ['90', 'seconds', 90],
  [' 10m ', 'seconds', 600],
  ['10 min', 'seconds', 600],
  ['2hours', 'seconds', 7_200],
  ['1d', 'seconds', 86_400],
  ['2M', 'seconds', undefined],
  ['2k', 'bytes', 2_048],
  ['2K', 'bytes', 2_048],
  ['1m', 'bytes', 1_048_576],
  ['3gigabytes', 'bytes', 3 * 1024 ** 3],
  ['1T', 'bytes', 1024 ** 4],
  ['1GB', 'bytes', undefined],
  ['4', 'count', 4],
  ['4k', 'count', undefined],
  ['', 'count', undefined],
  ['${x}', 'count', undefined],
];
describe('quantities', () => {
  for (const [text, kind, value] of quantities)
    it(`"${text}" ${kind} is ${value ?? 'refused'}`, () => {
      assert.equal(parseQuantity(text, kind), value);
    });
});
