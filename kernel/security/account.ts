import { z } from 'zod';

/** An account that a grid user may map to: nothing that a shell, a path or a command line takes for something else. */
export const accountPattern = /^[A-Za-z_][A-Za-z0-9_.-]{0,63}$/;
export const account = z.string().regex(accountPattern, 'must be an account name');
