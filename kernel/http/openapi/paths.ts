/** One way to write a record's path in OpenAPI: `{/*path}` makes two, with and without it. */
export type DocumentedPath = {
  readonly path: string;
  readonly parameters: readonly string[];
  /** Of its record's paths the shorter one, whose wildcard is left out. */
  readonly isRoot: boolean;
};

/** `/storages/:id/files{/*path}` to `/storages/{id}/files` and `/storages/{id}/files/{path}`. */
export function documentedPaths(path: string): readonly DocumentedPath[] {
  const optional = /\{([^}]*)\}/.exec(path);
  const whole = optional
    ? [path.replace(optional[0], ''), path.replace(optional[0], optional[1] ?? '')]
    : [path];
  return whole.map((each, at) => ({
    path: each.replace(/[:*](\w+)/g, '{$1}').replace(/(.)\/$/, '$1'),
    parameters: [...each.matchAll(/[:*](\w+)/g)].map(([, name = '']) => name),
    isRoot: whole.length > at + 1,
  }));
}

/** Segments of a path that are the same for all resources. */
export function fixedSegments(path: string): string[] {
  return path
    .replace(/\{[^}]*\}/g, '')
    .split('/')
    .filter((segment) => segment !== '' && !/^[:*]/.test(segment));
}
