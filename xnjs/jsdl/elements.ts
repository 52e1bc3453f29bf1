import { JobError } from '../job/errors.js';
import { childOf, textOf } from '#kernel/xml/read.js';

/** unicore-soap 1.1. */
export const ns = {
  jsdl: 'http://schemas.ggf.org/jsdl/2005/11/jsdl',
  posix: 'http://schemas.ggf.org/jsdl/2005/11/jsdl-posix',
  spmd: 'http://schemas.ogf.org/jsdl/2007/02/jsdl-spmd',
  sweep: 'http://schemas.ogf.org/jsdl/2009/03/sweep',
  sweepFunctions: 'http://schemas.ogf.org/jsdl/2009/03/sweep/functions',
  jsdlu: 'http://www.unicore.eu/unicore/jsdl-extensions',
  idb: 'http://www.fz-juelich.de/unicore/xnjs/idb',
  xnjs: 'http://www.unicore.eu/unicore/xnjs',
  wsse: 'http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd',
} as const;

/** Elements that are spelt in two namespaces, both of which clients use. */
export const hpcProfile = [
  'http://schemas.ggf.org/jsdl/2006/07/jsdl-hpcpa',
  'http://schemas.ogf.org/jsdl/2006/07/jsdl-hpcpa',
] as const;
export const hpcCredential = [
  'http://schemas.ogf.org/hpcp/2007/11/ac',
  'http://schemas.ogf.org/hpcp/2007/01/fs',
] as const;

/** @throws {@link JobError} `JOB_INVALID` naming the element and the reason */
export function refuse(element: string, reason: string): never {
  throw new JobError('JOB_INVALID', `JSDL: ${element}: ${reason}`, { element });
}

/** Text of a child without blanks around it; `undefined` where there is none, or nothing in it. */
export function wordOf(parent: Element, namespace: string, name: string): string | undefined {
  const child = childOf(parent, namespace, name);
  const text = child && textOf(child).trim();
  return text === '' ? undefined : text;
}

/** As `xsd:normalizedString`: line ends and tabs are blanks. */
export function normalizedText(element: Element): string {
  return textOf(element).replace(/[\t\r\n]/g, ' ');
}

/** `xsd:boolean`. */
export function toFlag(element: string, text: string): boolean {
  const value = text.trim();
  if (value === 'true' || value === '1') return true;
  if (value === 'false' || value === '0') return false;
  refuse(element, `"${value}" is neither true nor false`);
}
