import { z } from 'zod';

/** The site's incarnation database; docs/protocols/idb.md. */
export const IdbConfig = z.strictObject({
  /** Absolute. A JSON file or a directory of them; absent: only the images say what can be run. */
  path: z.string().startsWith('/', 'must be an absolute path').optional(),
  /** Name of the main file in a directory; by default the one that says more than applications. */
  main: z.string().optional(),
  /** Files of applications on the target systems, read as their users: `$HOME/.applications/*.json`. */
  userFiles: z
    .array(
      z
        .string()
        .regex(
          /^(?:\$HOME)?\/[A-Za-z0-9._/*?+@-]+$/,
          'must be an absolute path, perhaps with $HOME in front, of letters, digits and ._/*?+@-',
        ),
    )
    .max(20)
    .default([]),
  /** `false`: jobs may run the IDB's applications only, without commands of their own. */
  allowUserExecutable: z.boolean().default(true),
  /** How soon a change of the files counts. */
  recheckSeconds: z.number().positive().default(1),
});
export type IdbConfig = z.output<typeof IdbConfig>;
