import { parseXml, XmlError } from '#kernel/xml/parse.js';
import { childrenOf, isNamed } from '#kernel/xml/read.js';
import type { RawDescription } from '../job/description.js';
import { JobError } from '../job/errors.js';
import { readApplication } from './application.js';
import { ns, refuse } from './elements.js';
import { readIdentification } from './identification.js';
import { readResources } from './resources.js';
import { readStaging } from './staging.js';
import { applySweeps } from './sweep.js';

/** A job as JSDL describes it, in the form that JSON has. */
export type JsdlJob = {
  readonly description: RawDescription;
  /** Under whose account and group it is to run. */
  readonly account: { readonly user?: string; readonly group?: string };
};

/**
 * Reads JSDL 1.0 (GFD.136) with the extensions that UNICORE knows (docs/protocols/jsdl.md). What is not
 * known is ignored; what is known and wrong is refused.
 * @throws {@link JobError} `JOB_INVALID` naming the element and the reason
 */
export function parseJsdl(text: string): JsdlJob {
  try {
    return readJobDefinition(parseXml(text).documentElement);
  } catch (error) {
    if (!(error instanceof XmlError)) throw error;
    throw new JobError('JOB_INVALID', `JSDL: ${error.message}`, {}, { cause: error });
  }
}

/** The same of an element that stands in a larger document. It is changed by sweeps. */
export function readJobDefinition(definition: Element): JsdlJob {
  if (!isNamed(definition, ns.jsdl, 'JobDefinition'))
    refuse(definition.nodeName, 'the document must be a JobDefinition of JSDL 1.0');
  const [job, ...others] = childrenOf(definition, ns.jsdl, 'JobDescription');
  if (!job) refuse('JobDefinition', 'holds no JobDescription');
  if (others.length > 0) refuse('JobDefinition', 'holds more than one JobDescription');
  const sweep = applySweeps(definition, job);
  const { description, resources, account } = readApplication(job);
  const { Imports, ...staging } = readStaging(job);
  const requests = { ...resources, ...readResources(job) };
  return {
    description: {
      ...readIdentification(job),
      ...description,
      ...(Object.keys(requests).length > 0 && { Resources: requests }),
      ...staging,
      ...(Imports && { Imports: sweep.imports(Imports) }),
      ...sweep.parameters,
    },
    account,
  };
}
