/** A copy that lacks some members. */
export function without<T extends object, Key extends keyof T>(
  value: T,
  ...keys: readonly Key[]
): Omit<T, Key> {
  const copy = { ...value };
  for (const key of keys) delete copy[key]; // eslint-disable-line @typescript-eslint/no-dynamic-delete -- a copy
  return copy;
}
