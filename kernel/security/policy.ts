import { GridError } from '#kernel/errors.js';
import type { Caller, Role } from './caller.js';
import { equalDns } from './dn.js';

export class PolicyError extends GridError<'FORBIDDEN'> {}

/** Whether the caller may; `subject` is what he wants to touch. Banned users never get this far. */
export type Policy<Subject = unknown> = (caller: Caller, subject: Subject) => boolean;

/** The anonymous client too. */
export const everybody: Policy = () => true;

/** Known here: neither anonymous nor a stranger with a good certificate. */
export const authenticated: Policy = ({ role }) => role !== 'anonymous';

export const hasRole =
  (...roles: readonly Role[]): Policy =>
  ({ role }) =>
    roles.includes(role);

export const admin: Policy = hasRole('admin');

export type Owned = { readonly ownerDn: string };

/** An administrator who chose another role is no administrator. */
export const ownerOrAdmin: Policy<Owned> = ({ dn, role }, { ownerDn }) =>
  role === 'admin' || (role !== 'anonymous' && (dn === ownerDn || equalDns(dn, ownerDn)));

/** @throws {@link PolicyError} `FORBIDDEN` */
export function enforce<Subject>(policy: Policy<Subject>, caller: Caller, subject: Subject): void {
  if (!policy(caller, subject)) {
    throw new PolicyError('FORBIDDEN', 'not allowed', { dn: caller.dn, role: caller.role });
  }
}
