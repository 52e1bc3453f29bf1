import { attributeOf, childOf, childrenOf, isNamed, textOf } from '#kernel/xml/read.js';
import { ns, refuse } from './elements.js';

type Entry = Record<string, unknown>;

export type Sweep = {
  /** The swept variable, as JSON has it. */
  readonly parameters: { readonly Parameters?: Readonly<Record<string, unknown>> };
  /** Where files are swept: the import with all of its sources. */
  readonly imports: (imports: readonly Entry[]) => readonly Entry[];
};

/** What stands in the description for the value of one run. */
const variable = 'JSDL_SWEEP';
const reference = `\${${variable}}`;
const longestPath = 512;
const mostSteps = 16;

/**
 * Turns a sweep into the one that JSON knows: a variable with a list of values, which the node that is
 * swept then refers to. That goes where a description may refer to variables (arguments, resources), for
 * variables themselves, and for the source of an import.
 */
export function applySweeps(definition: Element, job: Element): Sweep {
  const sweeps = childrenOf(definition, ns.sweep, 'Sweep');
  const assignments = sweeps.flatMap((sweep) => childrenOf(sweep, ns.sweep, 'Assignment'));
  const nested = sweeps.some((sweep) => childrenOf(sweep, ns.sweep, 'Sweep').length > 0);
  const [assignment] = assignments;
  if (!assignment) return { parameters: {}, imports: (imports) => imports };
  if (nested || assignments.length > 1) refuse('Sweep', 'only one Assignment can be swept');
  const values = readValues(assignment);
  const nodes = childrenOf(assignment, ns.sweep, 'DocumentNode');
  const [node] = nodes;
  if (!node || nodes.length > 1) refuse('Sweep Assignment', 'must name one DocumentNode');
  const path = childOf(node, ns.sweep, 'Match');
  const match = path ? textOf(path).trim() : '';
  const targets = selectNodes(job, parsePath(match, prefixesOf(node)));
  const [target] = targets;
  if (!target || targets.length > 1)
    refuse('Sweep Match', `"${match}" matches ${targets.length} elements, and must match one`);
  return sweepElement(target, match, values);
}

function sweepElement(target: Element, match: string, values: readonly string[]): Sweep {
  const keep: Sweep['imports'] = (imports) => imports;
  if (target.localName === 'Environment') {
    const name = attributeOf(target, 'name') ?? '';
    target.parentNode?.removeChild(target);
    return { parameters: { Parameters: { [name]: { Values: values } } }, imports: keep };
  }
  const isSource = target.localName === 'URI' && target.parentNode?.nodeName.endsWith('Source');
  if (isSource === true) {
    target.textContent = `inline-sweep:${reference}`;
    const imports = (all: readonly Entry[]): Entry[] =>
      all.map((entry) =>
        entry['From'] === target.textContent ? { ...entry, From: values } : entry,
      );
    return { parameters: {}, imports };
  }
  if (!['Argument', 'Exact', 'Value'].includes(target.localName))
    refuse('Sweep Match', `"${match}" names ${target.localName}, which cannot be swept here`);
  target.textContent = reference;
  return { parameters: { Parameters: { [variable]: { Values: values } } }, imports: keep };
}

function readValues(assignment: Element): string[] {
  const functions = childrenOf(assignment).filter((each) => !isNamed(each, ns.sweep));
  const [values] = functions;
  if (!values || functions.length > 1 || !isNamed(values, ns.sweepFunctions, 'Values'))
    refuse('Sweep Assignment', 'must hold the function Values');
  const all = childrenOf(values, ns.sweepFunctions, 'Value').map((value) => textOf(value).trim());
  if (all.length === 0) refuse('Sweep Values', 'holds no Value');
  return all;
}

function prefixesOf(node: Element): ReadonlyMap<string, string> {
  return new Map(
    childrenOf(node, ns.sweep, 'NamespaceBinding').map((binding) => [
      attributeOf(binding, 'prefix') ?? '',
      attributeOf(binding, 'ns') ?? '',
    ]),
  );
}

type Step = {
  readonly anywhere: boolean;
  readonly position: number | undefined;
  readonly isWanted: (element: Element) => boolean;
};

const stepPattern =
  /(\/\/?)(?:([A-Za-z_][\w.-]*):)?([A-Za-z_][\w.-]*|\*)(?:\[(?:(\d{1,4})|@([A-Za-z_]\w*)=(?:"([^"]*)"|'([^']*)'))\])?/y;

/** Location paths of names, with a position or one attribute each: enough of XPath, and never slow. */
function parsePath(path: string, prefixes: ReadonlyMap<string, string>): Step[] {
  const whole = path.replace(/\/text\(\)$/, '');
  if (whole === '' || whole.length > longestPath)
    refuse('Sweep Match', `"${path.slice(0, 80)}" is no path`);
  const steps: Step[] = [];
  const pattern = new RegExp(stepPattern); // it remembers how far it came
  while (pattern.lastIndex < whole.length) {
    const from = pattern.lastIndex;
    const match = pattern.exec(whole);
    if (!match) refuse('Sweep Match', `"${path}" is not understood from "${whole.slice(from)}" on`);
    steps.push(toStep(match, prefixes));
  }
  if (steps.length > mostSteps) refuse('Sweep Match', `has more than ${mostSteps} steps`);
  return steps;
}

function toStep(match: RegExpExecArray, prefixes: ReadonlyMap<string, string>): Step {
  const [, slashes, prefix, name, position, attribute, quoted, apostrophed] = match;
  const namespace = prefix === undefined ? undefined : prefixes.get(prefix);
  if (prefix !== undefined && namespace === undefined)
    refuse('Sweep Match', `the prefix ${prefix} is not bound`);
  return {
    anywhere: slashes === '//',
    position: position === undefined ? undefined : Number(position),
    isWanted: (element) =>
      (name === '*' || element.localName === name) &&
      (namespace === undefined || element.namespaceURI === namespace) &&
      (attribute === undefined || attributeOf(element, attribute) === (quoted ?? apostrophed)),
  };
}

function selectNodes(job: Element, steps: readonly Step[]): Element[] {
  let found: (Element | undefined)[] = [undefined];
  for (const { anywhere, position, isWanted } of steps) {
    const next = found.flatMap((parent) => {
      const wanted = (anywhere ? below : startOrChildren)(parent, job).filter(isWanted);
      return position === undefined ? wanted : wanted.slice(position - 1, position);
    });
    found = [...new Set(next)];
  }
  return found.filter((element) => element !== undefined);
}

/** A path may begin at the definition, as it does in the document, or at the description. */
function startOrChildren(parent: Element | undefined, job: Element): Element[] {
  if (parent) return childrenOf(parent);
  return [job.parentNode as Element, job];
}

function below(parent: Element | undefined, job: Element): Element[] {
  const withAll = (element: Element): Element[] => [
    element,
    ...childrenOf(element).flatMap(withAll),
  ];
  return parent ? childrenOf(parent).flatMap(withAll) : withAll(job);
}
