import jsep, { type CoreExpression, type Expression } from 'jsep';

type Value = number | string | boolean;

const longest = 1_000;
const functions: Readonly<Record<string, (...values: number[]) => number>> = {
  min: Math.min,
  max: Math.max,
  abs: Math.abs,
  ceil: Math.ceil,
  floor: Math.floor,
  round: Math.round,
  sqrt: Math.sqrt,
  log2: Math.log2,
};

/**
 * Evaluates arithmetic over variables: numbers, strings, `+ - * / %`, comparisons, `&& || !`,
 * `a ? b : c` and a few functions of numbers. A variable that looks like a number is one. Nothing else of
 * the language that the parser reads is understood: no members, no assignments, no code.
 * @throws Error saying what is wrong with the expression
 */
export function evaluate(text: string, variables: Readonly<Record<string, string>>): Value {
  if (text.length > longest) throw new Error(`is longer than ${longest} characters`);
  return valueOf(jsep(text), variables);
}

function valueOf(expression: Expression, variables: Readonly<Record<string, string>>): Value {
  const node = expression as CoreExpression; // the parser has no plug-ins that would make others
  const recur = (part: Expression): Value => valueOf(part, variables);
  switch (node.type) {
    case 'Literal':
      if (['number', 'string', 'boolean'].includes(typeof node.value)) return node.value as Value;
      throw new Error(`${node.raw} cannot be used here`);
    case 'Identifier':
      return variable(node.name, variables);
    case 'UnaryExpression':
      return unary(node.operator, recur(node.argument));
    case 'BinaryExpression':
      if (node.operator === '&&') return truth(recur(node.left)) && truth(recur(node.right));
      if (node.operator === '||') return truth(recur(node.left)) || truth(recur(node.right));
      return binary(node.operator, recur(node.left), recur(node.right));
    case 'ConditionalExpression':
      return truth(recur(node.test)) ? recur(node.consequent) : recur(node.alternate);
    case 'CallExpression': {
      const callee = node.callee as CoreExpression;
      const name = callee.type === 'Identifier' ? callee.name : '';
      const call = Object.hasOwn(functions, name) ? functions[name] : undefined;
      if (!call) throw new Error(`knows the functions ${Object.keys(functions).join(', ')} only`);
      return call(...node.arguments.map((part) => numeric(recur(part))));
    }
    default:
      throw new Error(`${node.type} is not supported`);
  }
}

function variable(name: string, variables: Readonly<Record<string, string>>): Value {
  const text = Object.hasOwn(variables, name) ? variables[name] : undefined;
  if (text === undefined) throw new Error(`${name} is not set`);
  return text.trim() !== '' && Number.isFinite(Number(text)) ? Number(text) : text;
}

function unary(operator: string, value: Value): Value {
  if (operator === '-') return -numeric(value);
  if (operator === '+') return numeric(value);
  if (operator === '!') return !truth(value);
  throw new Error(`${operator} is not supported`);
}

const arithmetic: Readonly<Record<string, (a: number, b: number) => Value>> = {
  '-': (a, b) => a - b,
  '*': (a, b) => a * b,
  '/': (a, b) => a / b,
  '%': (a, b) => a % b,
};
const comparisons: Readonly<Record<string, (a: Value, b: Value) => boolean>> = {
  '==': (a, b) => a === b,
  '===': (a, b) => a === b,
  '!=': (a, b) => a !== b,
  '!==': (a, b) => a !== b,
  '<': (a, b) => a < b,
  '<=': (a, b) => a <= b,
  '>': (a, b) => a > b,
  '>=': (a, b) => a >= b,
};

function binary(operator: string, a: Value, b: Value): Value {
  if (operator === '+')
    return typeof a === 'string' || typeof b === 'string' ? `${a}${b}` : numeric(a) + numeric(b);
  const calculate = Object.hasOwn(arithmetic, operator) ? arithmetic[operator] : undefined;
  if (calculate) return calculate(numeric(a), numeric(b));
  const compare = Object.hasOwn(comparisons, operator) ? comparisons[operator] : undefined;
  if (!compare) throw new Error(`${operator} is not supported`);
  if (typeof a !== typeof b) throw new Error(`"${a}" and "${b}" cannot be compared`);
  return compare(a, b);
}

function numeric(value: Value): number {
  if (typeof value === 'number') return value;
  throw new Error(`"${value}" is not a number`);
}

function truth(value: Value): boolean {
  if (typeof value === 'boolean') return value;
  throw new Error(`"${value}" is neither true nor false`);
}
