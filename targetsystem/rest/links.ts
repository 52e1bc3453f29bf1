/** Absolute URLs of our resources, below the address that the client used (`…/VSITE`). */
export type Links = ReturnType<typeof linksFrom>;

export const factoryId = 'default_target_system_factory';
export const registryId = 'default_registry';

export function linksFrom(baseUrl: string) {
  const core = `${baseUrl}/rest/core`;
  return {
    core,
    collection: (name: string): string => `${core}/${name}`,
    factory: (): string => `${core}/factories/${factoryId}`,
    site: (id: string): string => `${core}/sites/${id}`,
    job: (id: string): string => `${core}/jobs/${id}`,
    storage: (id: string): string => `${core}/storages/${id}`,
    file: (storageId: string, path: string): string =>
      `${core}/storages/${storageId}/files${encodePath(path)}`,
    registry: (): string => `${baseUrl}/rest/registries/${registryId}`,
  };
}

/** `_links` of a resource: `{ rel: url }` becomes `{ rel: { href } }`; what is not there is left out. */
export function hrefs(
  links: Readonly<Record<string, string | { href: string; description: string } | undefined>>,
): Record<string, { href: string; description?: string }> {
  const entries = Object.entries(links).flatMap(([rel, link]) =>
    link === undefined ? [] : [[rel, typeof link === 'string' ? { href: link } : link] as const],
  );
  return Object.fromEntries(entries);
}

function encodePath(path: string): string {
  return path.split('/').map(encodeURIComponent).join('/');
}
