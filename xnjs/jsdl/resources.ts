import { attributeOf, childOf, childrenOf, textOf } from '#kernel/xml/read.js';
import { ns, refuse, wordOf } from './elements.js';

/** What JSDL calls them, and the IDB (unicore-soap 4.2); seconds and bytes on both sides. */
const names = [
  ['IndividualCPUTime', 'Runtime'],
  ['IndividualPhysicalMemory', 'MemoryPerNode'],
  ['IndividualCPUCount', 'CPUsPerNode'],
  ['TotalCPUCount', 'TotalCPUs'],
  ['TotalResourceCount', 'Nodes'],
] as const;

/** Only an exact value is a request: a range says what would do, which the site's limits say already. */
export function readResources(description: Element): Record<string, string> {
  const resources = childOf(description, ns.jsdl, 'Resources');
  if (!resources) return {};
  const requests: Record<string, string> = {};
  for (const [element, name] of names) {
    const range = childOf(resources, ns.jsdl, element);
    const value = range && readExact(range, element);
    if (value !== undefined) requests[name] = value;
  }
  for (const setting of childrenOf(resources, ns.idb, 'ResourceSetting')) {
    const value = childOf(setting, ns.idb, 'Value');
    const name = settingName(setting, ns.idb);
    const exact = value && (readExact(value, `ResourceSetting ${name}`) ?? textOf(value).trim());
    if (exact !== undefined && exact !== '') requests[name] = exact;
  }
  for (const request of childrenOf(resources, ns.jsdlu, 'ResourceRequest')) {
    const name = settingName(request, ns.jsdlu);
    const value = childOf(request, ns.jsdlu, 'Value');
    if (!value) refuse(`ResourceRequest ${name}`, 'has no Value');
    requests[name] = expressionOf(value) ?? textOf(value).trim();
  }
  const reservation = wordOf(resources, ns.xnjs, 'ReservationReference');
  return {
    ...requests,
    // elsewhere they are for brokers: the original does not read them (unicore-soap 4.2)
    ...(requests['Image'] !== undefined && readMachine(resources)),
    ...(reservation !== undefined && { Reservation: reservation }),
  };
}

/** What the image of the job's machine must be. */
function readMachine(resources: Element): Record<string, string> {
  const system = childOf(resources, ns.jsdl, 'OperatingSystem');
  const type = system && childOf(system, ns.jsdl, 'OperatingSystemType');
  const processor = childOf(resources, ns.jsdl, 'CPUArchitecture');
  const found = {
    OperatingSystem: type && wordOf(type, ns.jsdl, 'OperatingSystemName'),
    OperatingSystemVersion: system && wordOf(system, ns.jsdl, 'OperatingSystemVersion'),
    CPUArchitecture: processor && wordOf(processor, ns.jsdl, 'CPUArchitectureName'),
  };
  return Object.fromEntries(
    Object.entries(found).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
  );
}

function settingName(element: Element, namespace: string): string {
  const name = wordOf(element, namespace, 'Name');
  if (name === undefined) refuse(element.localName, 'has no Name');
  return name;
}

/** The first `Exact`, cut to an integer, or the expression that stands there instead. */
function readExact(range: Element, element: string): string | undefined {
  const exact = childrenOf(range).find(({ localName }) => localName === 'Exact');
  const expression = (exact && expressionOf(exact)) ?? expressionOf(range);
  if (expression !== undefined) return expression;
  if (!exact) return undefined;
  const text = textOf(exact).trim();
  if (/^\$\{[^]*\}$/.test(text)) return text;
  const value = text === '' ? Number.NaN : Number(text);
  if (!Number.isFinite(value) || Math.abs(value) > Number.MAX_SAFE_INTEGER)
    refuse(`${element} Exact`, `"${text}" is not a number`);
  return String(Math.trunc(value));
}

function expressionOf(element: Element): string | undefined {
  const text = attributeOf(element, 'expression', ns.jsdlu)?.trim();
  if (text === undefined || text === '') return undefined;
  return text.startsWith('${') ? text : `\${${text}}`;
}
