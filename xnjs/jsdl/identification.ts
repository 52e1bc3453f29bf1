import { childOf, childrenOf, textOf } from '#kernel/xml/read.js';
import { ns, toFlag, wordOf } from './elements.js';

/** What UNICORE's clients write into annotations (unicore-soap 4.1), and the key that it is with us. */
const annotations = [
  ['user email', 'User email'],
  ['job type', 'Job type'],
  ['login node', 'Login node'],
  ['batch file', 'BSS file'],
  ['notify', 'Notification'],
  ['notbefore', 'Not before'],
  ['scheduledstarttime', 'Not before'],
  ['ignorenonzeroexitcode', 'IgnoreNonZeroExitCode'],
] as const;
const longestTag = 128;

/** Name, project, and what annotations say; those that say nothing we know are tags. */
export function readIdentification(description: Element): Record<string, unknown> {
  const identification = childOf(description, ns.jsdl, 'JobIdentification');
  if (!identification) return {};
  const name = wordOf(identification, ns.jsdl, 'JobName');
  const project = wordOf(identification, ns.jsdl, 'JobProject');
  const settings: Record<string, unknown> = {};
  const tags: string[] = [];
  for (const element of childrenOf(identification, ns.jsdl, 'JobAnnotation')) {
    const text = textOf(element).trim();
    const known = readAnnotation(text);
    if (known) settings[known[0]] ??= known[1];
    else if (text !== '' && text.length <= longestTag && !/[\r\n]/.test(text)) tags.push(text);
  }
  return {
    ...(name !== undefined && { Name: name }),
    ...(project !== undefined && { Project: project }),
    ...settings,
    ...(tags.length > 0 && { Tags: tags }),
  };
}

/** `key: value` or `key= value`. */
function readAnnotation(text: string): [string, unknown] | undefined {
  const [, written = '', value = ''] = /^([^:=]*)[:=]([^]*)$/.exec(text) ?? [];
  const found = annotations.find(([name]) => written.trim().toLowerCase() === name);
  if (!found) return undefined;
  const [, key] = found;
  return key === 'IgnoreNonZeroExitCode'
    ? [key, toFlag('JobAnnotation IgnoreNonZeroExitCode', value.toLowerCase())]
    : [key, value.trim()];
}
