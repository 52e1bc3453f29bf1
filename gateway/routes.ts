import type { GatewayConfig } from './config.js';

export type RouteLimits = { readonly maxBodyBytes?: number; readonly timeoutMs?: number };

/** Limits of a request by where it goes; the first row that fits counts. */
export function createRouteLimits(
  routes: GatewayConfig['routes'],
): (site: string, path: string) => RouteLimits {
  const rows = routes.map(({ site, path, bodyBytes, seconds }) => ({
    site: site?.toLowerCase(),
    path: path.replace(/\/+$/, ''),
    limits: {
      ...(bodyBytes !== undefined && { maxBodyBytes: bodyBytes }),
      ...(seconds !== undefined && { timeoutMs: seconds * 1_000 }),
    },
  }));
  return (site, target) => {
    if (rows.length === 0) return {};
    const path = plainPath(target);
    const key = site.toLowerCase();
    const row = rows.find(
      (each) =>
        (each.site === undefined || each.site === key) &&
        (path === each.path || path.startsWith(`${each.path}/`)),
    );
    return row?.limits ?? {};
  };
}

/** Without query and percent-encoding: sites see through it as well. */
function plainPath(target: string): string {
  const path = target.split('?', 1)[0] ?? '';
  if (!path.includes('%')) return path;
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}
