import { z } from 'zod';

/** What the values of a job description are made of. Numbers and booleans stand for their text. */
export function scalar(error: (value: unknown) => string) {
  return z
    .union([z.string(), z.number(), z.boolean()], { error: ({ input }) => error(input) })
    .transform(String)
    .refine(noNul, noNulError);
}

export const noNulError = 'must not contain NUL';
export const text = scalar(() => 'must be a string');
export const line = text.refine(isLine, 'must be one line');
/** Names that a TSI hands to a shell: what it could take for a command is refused (tsi-xnjs 4.4). */
export const fileName = line.refine((value) => !/`|\$\(/.test(value), 'must not contain ` or $(');
export const lines = z
  .union([text, z.array(text)], 'must be a string or a list of strings')
  .transform((value) => (Array.isArray(value) ? value.join('\n') : value));
export const flag = z
  .union(
    [
      z.boolean(),
      z
        .string()
        .toLowerCase()
        .pipe(z.enum(['true', 'false'])),
    ],
    { error: 'must be true or false' },
  )
  .transform((value) => value === true || value === 'true');

export function isLine(value: string): boolean {
  return !/[\r\n]/.test(value);
}

export function noNul(value: string): boolean {
  return !value.includes('\0');
}

export function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
