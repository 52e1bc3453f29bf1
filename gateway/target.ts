/** Where a request goes: the first element of its path names the site. */
export type Target = {
  /** As the client spelt it; empty for the gateway's own page. */
  readonly site: string;
  /** Below the site, with query, percent-encoding as it came; starts with a slash. */
  readonly path: string;
};

const needsWork = /\/\/|\/(?:\.|%2e)|.\/$/i;
const dot = /^(?:\.|%2e)$/i;
const dotDot = /^(?:\.|%2e){2}$/i;

/**
 * Splits and normalises a request target (unicore-rest 5.1): `.` and `..` are resolved, double and
 * trailing slashes vanish.
 * @returns `undefined` for what is no path, or leads out of the site
 */
export function parseTarget(url: string): Target | undefined {
  const relative = url.startsWith('/') ? url : url.replace(/^https?:\/\/[^/?#]*/i, '');
  if (!relative.startsWith('/') || /[#\\]/.test(relative)) return undefined;
  const queryAt = relative.indexOf('?');
  const query = queryAt < 0 ? '' : relative.slice(queryAt);
  const given = queryAt < 0 ? relative : relative.slice(0, queryAt);
  const path = needsWork.test(given) ? normalize(given) : given;
  if (path === undefined) return undefined;
  const siteEnd = path.indexOf('/', 1);
  if (siteEnd < 0) return { site: path.slice(1), path: `/${query}` };
  return { site: path.slice(1, siteEnd), path: path.slice(siteEnd) + query };
}

function normalize(path: string): string | undefined {
  const elements: string[] = [];
  for (const element of path.split('/')) {
    if (element === '' || dot.test(element)) continue;
    if (!dotDot.test(element)) elements.push(element);
    else if (elements.length > 1) elements.pop();
    else return undefined;
  }
  return `/${elements.join('/')}`;
}
