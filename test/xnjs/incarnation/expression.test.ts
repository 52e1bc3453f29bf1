import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { evaluate } from '#xnjs/incarnation/expression.js';

const variables = { N: '4', SIZE: '2.5', MODE: 'fast', EMPTY: '', constructor1: '1' };
const cases: [string, number | string | boolean][] = [
  ['2*N', 8],
  ['(N + 1) * SIZE', 12.5],
  ['N > 2 ? 16 : 1', 16],
  ['MODE == "fast" && N >= 4', true],
  ["MODE != 'fast' || !true", false],
  ['max(N, 10, 3)', 10],
  ['ceil(SIZE)', 3],
  ['-N % 3', -1],
  ['MODE', 'fast'],
  ['MODE + N', 'fast4'],
  ['EMPTY == ""', true],
  ['false && UNSET > 1', false],
];
const refused: [string, RegExp][] = [
  ['UNSET', /UNSET is not set/],
  ['constructor', /constructor is not set/],
  ['__proto__', /not set/],
  ['process.exit(1)', /MemberExpression|functions/],
  ['N.constructor', /MemberExpression is not supported/],
  ['(1).constructor.constructor("return 1")()', /functions/],
  ['constructor("x")', /functions/],
  ['toString()', /functions/],
  ['[1,2]', /ArrayExpression/],
  ['N = 5', /./],
  ['N; 5', /Compound/],
  ['this', /ThisExpression/],
  ['null', /null cannot be used/],
  ['MODE * 2', /"fast" is not a number/],
  ['MODE > 2', /cannot be compared/],
  ['N ? 1 : 2', /neither true nor false/],
  ['N << 2', /<< is not supported/],
  ['2 *', /./],
  ['', /./],
  ['1+'.repeat(600) + '1', /longer than 1000/],
];

describe('expressions', () => {
  for (const [text, value] of cases)
    it(`${text} is ${value}`, () => {
      assert.equal(evaluate(text, variables), value);
    });
  for (const [text, message] of refused)
    it(`${text.slice(0, 50) || '(nothing)'} is refused`, () => {
      assert.throws(() => evaluate(text, variables), { message });
    });
});
