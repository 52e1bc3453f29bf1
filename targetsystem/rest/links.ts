/** Absolute URLs of our resources, below the address that the client used (`…/VSITE`). */
export type Links = ReturnType<typeof linksFrom>;

export const factoryId = 'default_target_system_factory';
/** The one of older clients, for all types. */
export const storageFactoryId = 'default_storage_factory';
export const registryId = 'default_registry';

export function linksFrom(baseUrl: string) {
  const core = `${baseUrl}/rest/core`;
  return {
    core,
    collection: (name: string): string => `${core}/${name}`,
    factory: (): string => `${core}/factories/${factoryId}`,
    site: (id: string): string => `${core}/sites/${id}`,
    snapshot: (siteId: string, id: string): string => `${core}/sites/${siteId}/snapshots/${id}`,
    job: (id: string): string => `${core}/jobs/${id}`,
    storage: (id: string): string => `${core}/storages/${id}`,
    storageFactory: (id: string): string => `${core}/storagefactories/${id}`,
    reservation: (id: string): string => `${core}/reservations/${id}`,
    registryEntry: (id: string): string => `${baseUrl}/rest/registryentries/${id}`,
    resource: (collection: string, id: string): string => `${core}/${collection}/${id}`,
    /** A capability: whoever has the address may use it. */
    clientFile: (key: string): string => `${baseUrl}/rest/files/${key}`,
    share: (server: string, id: string): string => `${baseUrl}/rest/share/${server}/${id}`,
    access: (server: string, id: string): string => `${baseUrl}/rest/access/${server}/${id}`,
    registry: (): string => `${baseUrl}/rest/registries/${registryId}`,
  };
}

type Link = string | { readonly href: string; readonly description?: string };

/** `_links` of a resource: `{ rel: url }` becomes `{ rel: { href } }`. */
export function hrefs(
  links: Readonly<Record<string, Link>>,
): Record<string, Exclude<Link, string>> {
  return Object.fromEntries(
    Object.entries(links).map(([rel, link]) => [
      rel,
      typeof link === 'string' ? { href: link } : link,
    ]),
  );
}

/** Where a file lies below its storage, `/files/a%20b`. */
export function filePath(path: string): string {
  return `/files${path.split('/').map(encodeURIComponent).join('/')}`;
}
