import { asGridError } from '#kernel/errors.js';
import type { Caller } from '#kernel/http/caller.js';
import type { Context } from '#kernel/http/operation.js';
import { decide, type Policy } from '#kernel/security/policy.js';

/**
 * Whether what was allowed once is allowed still.
 * @returns the caller as he is by now; `undefined`: it is not
 * @throws what keeps that from being known
 */
export type Permission = () => Promise<Caller | undefined>;

/** That of an operation whose answer goes on: by its policy, asked again. */
export function permissionOf<Deps, Input>(
  policy: Policy<Deps, Input>,
  operation: string,
  {
    deps,
    input,
    context,
  }: { readonly deps: Deps; readonly input: Input; readonly context: Context },
): Permission {
  const { audit, url, caller, renew } = context;
  const note = (why: string): void => {
    audit?.({
      ...{ what: 'access', allowed: false, why: `not any more: ${why}` },
      ...{ caller, operation, resource: url },
    });
  };
  return async () => {
    try {
      const now = await renew();
      const { allowed, why } = await decide(policy, now, deps, input);
      if (allowed) return now;
      note(why);
    } catch (error) {
      const known = asGridError(error);
      if (!known || known.row.http >= 500) throw error;
      note(known.message);
    }
    return undefined;
  };
}

export type PermissionWatch = {
  readonly permission: Permission;
  readonly everySeconds: number;
  readonly onRenewed?: (caller: Caller) => void;
  readonly onLost: () => void;
};

/**
 * Asks again and again; where nobody can tell, things stay as they are until the next time.
 * @returns ends that
 */
export function watchPermission(watch: PermissionWatch): () => void {
  const { permission, everySeconds, onRenewed, onLost } = watch;
  let hasEnded = false;
  let timer = setTimeout(look, everySeconds * 1_000);
  function look(): void {
    permission()
      .then((caller) => {
        if (hasEnded) return;
        if (caller) onRenewed?.(caller);
        else end();
      })
      .catch(() => undefined) // asked again
      .finally(() => {
        if (!hasEnded) timer = setTimeout(look, everySeconds * 1_000);
      });
  }
  function end(): void {
    hasEnded = true;
    onLost();
  }
  return () => {
    hasEnded = true;
    clearTimeout(timer);
  };
}
