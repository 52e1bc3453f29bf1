import { attributeOf, childOf, childrenOf, textOf } from '#kernel/xml/read.js';
import { hpcCredential, ns, refuse, toFlag, wordOf } from './elements.js';

type Entry = Record<string, unknown>;
export type Staging = { readonly Imports?: readonly Entry[]; readonly Exports?: readonly Entry[] };

const modes = { overwrite: 'overwrite', append: 'append', dontOverwrite: 'nooverwrite' } as const;

/** One with a source is an import, whatever else it has; one with a target only is an export. */
export function readStaging(description: Element): Staging {
  const imports: Entry[] = [];
  const exports: Entry[] = [];
  for (const element of childrenOf(description, ns.jsdl, 'DataStaging')) {
    const file = wordOf(element, ns.jsdl, 'FileName');
    const title = `DataStaging ${file ?? attributeOf(element, 'name') ?? ''}`.trim();
    const source = childOf(element, ns.jsdl, 'Source');
    const target = childOf(element, ns.jsdl, 'Target');
    if (!source && !target) continue;
    if (file === undefined) refuse(title, 'has no FileName');
    const details = readDetails(element, title);
    if (source) imports.push({ ...readSource(element, source, title), To: file, ...details });
    else if (target) exports.push({ From: file, To: uriOf(target, title), ...details });
  }
  return {
    ...(imports.length > 0 && { Imports: imports }),
    ...(exports.length > 0 && { Exports: exports }),
  };
}

/** Inline data stand beside a source of the scheme `inline`. */
function readSource(element: Element, source: Element, title: string): Entry {
  const data = childOf(element, ns.jsdlu, 'InlineData');
  const uri = wordOf(source, ns.jsdl, 'URI');
  if (data && (uri === undefined || /^inline:/i.test(uri))) return { Data: textOf(data) };
  return { From: uriOf(source, title) };
}

/** Without a scheme it is a file of the target system's host. */
function uriOf(end: Element, title: string): string {
  const uri = wordOf(end, ns.jsdl, 'URI');
  if (uri === undefined) refuse(title, `${end.localName} has no URI`);
  return /^[A-Za-z][A-Za-z0-9+.-]*:/.test(uri) ? uri : `file://${uri}`;
}

function readDetails(element: Element, title: string): Entry {
  const fileSystem = wordOf(element, ns.jsdl, 'FilesystemName');
  if (fileSystem !== undefined)
    refuse(title, `FilesystemName: "${fileSystem}": files are staged in the job's directory only`);
  const flag = wordOf(element, ns.jsdl, 'CreationFlag') ?? 'overwrite';
  if (!Object.hasOwn(modes, flag))
    refuse(title, `CreationFlag: "${flag}" is not one of ${Object.keys(modes).join(', ')}`);
  const flagOf = (namespace: string, name: string): boolean => {
    const text = wordOf(element, namespace, name);
    return text !== undefined && toFlag(`${title} ${name}`, text);
  };
  const credentials = readCredentials(element, title);
  return {
    Mode: modes[flag as keyof typeof modes], // a key of it, as has been checked
    ...(flagOf(ns.jsdlu, 'IgnoreFailure') && { FailOnError: 'false' }),
    ...(flagOf(ns.jsdlu, 'ReadOnly') && { ReadOnly: 'true' }),
    ...(flagOf(ns.jsdl, 'DeleteOnTermination') && { DeleteOnTermination: 'true' }),
    ...(credentials && { Credentials: credentials }),
  };
}

function readCredentials(element: Element, title: string): Entry | undefined {
  const credential = hpcCredential
    .map((namespace) => childOf(element, namespace, 'Credential'))
    .find((found) => found !== undefined);
  if (!credential) return undefined;
  const bearer = wordOf(credential, ns.jsdlu, 'BearerToken');
  if (bearer !== undefined) return { BearerToken: bearer };
  const token = childOf(credential, ns.wsse, 'UsernameToken');
  const user = token && wordOf(token, ns.wsse, 'Username');
  if (!token || user === undefined)
    refuse(title, 'Credential: holds neither a UsernameToken with a Username nor a BearerToken');
  const password = childOf(token, ns.wsse, 'Password');
  return { Username: user, Password: password ? textOf(password) : '' };
}
