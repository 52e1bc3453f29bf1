import { attributeOf, childOf, childrenOf, findBelow, isNamed, textOf } from '#kernel/xml/read.js';
import { hpcProfile, normalizedText, ns, refuse, toFlag, wordOf } from './elements.js';

export type JsdlApplication = {
  readonly description: Readonly<Record<string, unknown>>;
  /** What an SPMD application asks for, unless the job's resources do. */
  readonly resources: Readonly<Record<string, string>>;
  /** Under whose account and group it is to run. */
  readonly account: { readonly user?: string; readonly group?: string };
};

/** The application, its POSIX (or HPC profile, or SPMD) part and UNICORE's own commands. */
export function readApplication(description: Element): JsdlApplication {
  const application = childOf(description, ns.jsdl, 'Application');
  if (!application) return { description: {}, resources: {}, account: {} };
  const name = wordOf(application, ns.jsdl, 'ApplicationName');
  const version = wordOf(application, ns.jsdl, 'ApplicationVersion');
  const spmd = childOf(application, ns.spmd, 'SPMDApplication');
  const program = findProgram(application);
  const read = program ? readProgram(program.element, program.namespace) : undefined;
  const processes = spmd ? readProcesses(spmd) : undefined;
  const environment = { ...processes?.environment, ...read?.environment };
  return {
    description: {
      ...(name !== undefined && { ApplicationName: name }),
      ...(version !== undefined && { ApplicationVersion: version }),
      ...read?.description,
      ...(Object.keys(environment).length > 0 && { Environment: environment }),
      ...readCommand(
        application,
        'UserPreCommand',
        'User precommand',
        'RunUserPrecommandOnLoginNode',
      ),
      ...readCommand(
        application,
        'UserPostCommand',
        'User postcommand',
        'RunUserPostcommandOnLoginNode',
      ),
    },
    resources: processes?.resources ?? {},
    account: {
      ...accountPart(application, 'UserName', 'user'),
      ...accountPart(application, 'GroupName', 'group'),
    },
  };
}

type Program = { readonly element: Element; readonly namespace: string };

/** An HPC profile is spelt as a POSIX application in a namespace of its own; an SPMD one has its parts. */
function findProgram(application: Element): Program | undefined {
  const posix = childOf(application, ns.posix, 'POSIXApplication');
  if (posix) return { element: posix, namespace: ns.posix };
  for (const namespace of hpcProfile) {
    const element = childOf(application, namespace, 'HPCProfileApplication');
    if (element) return { element, namespace };
  }
  const spmd = childOf(application, ns.spmd, 'SPMDApplication');
  return spmd && { element: spmd, namespace: ns.posix };
}

const streams = [
  ['Input', 'Stdin'],
  ['Output', 'Stdout'],
  ['Error', 'Stderr'],
] as const;

function readProgram(program: Element, namespace: string) {
  const executable = childOf(program, namespace, 'Executable');
  const words = childrenOf(program, namespace, 'Argument').map(normalizedText);
  const environment: Record<string, string> = {};
  for (const element of childrenOf(program, namespace, 'Environment')) {
    const name = attributeOf(element, 'name') ?? '';
    if (name === '') refuse('Environment', 'has no name');
    environment[name] = normalizedText(element);
  }
  const files = streams.flatMap(([element, key]) => {
    const file = wordOf(program, namespace, element);
    return file === undefined ? [] : [[key, file] as const];
  });
  return {
    description: {
      ...(executable && { Executable: textOf(executable).trim() }),
      ...(words.length > 0 && { Arguments: words }),
      ...Object.fromEntries(files),
    },
    environment,
  };
}

/** Known to the application by variables of the same names; the number of all is asked for. */
function readProcesses(spmd: Element) {
  const environment: Record<string, string> = {};
  const resources: Record<string, string> = {};
  for (const name of ['NumberOfProcesses', 'ProcessesPerHost', 'ThreadsPerProcess']) {
    const element = childOf(spmd, ns.spmd, name);
    const text = element && textOf(element).trim();
    if (text === undefined || text === '') continue;
    if (!/^\d{1,9}$/.test(text)) refuse(name, `"${text}" is not a number`);
    environment[name] = text;
    if (name === 'NumberOfProcesses') resources['TotalCPUs'] = text;
  }
  return { environment, resources };
}

function readCommand(application: Element, name: string, key: string, place: string): object {
  const element = childOf(application, ns.jsdlu, name);
  if (!element) return {};
  const onLoginNode = attributeOf(element, 'runOnLoginNode');
  return {
    [key]: textOf(element),
    ...(onLoginNode !== undefined && {
      [place]: toFlag(`${name} runOnLoginNode`, onLoginNode),
    }),
  };
}

/** The first anywhere below the application. */
function accountPart(application: Element, name: string, key: 'user' | 'group'): object {
  const isWanted = (element: Element): boolean =>
    [ns.posix, ...hpcProfile].some((namespace) => isNamed(element, namespace, name));
  const found = findBelow(application, isWanted);
  const text = found && textOf(found).trim();
  return text === undefined || text === '' ? {} : { [key]: text };
}
