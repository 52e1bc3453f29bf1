import type { Request } from './curl.js';

export const json = ['-H', 'Content-Type: application/json'];
export const bytes = ['-H', 'Accept: application/octet-stream'];
const posix = 'http://schemas.ggf.org/jsdl/2005/11/jsdl-posix';
export const jsdl = `<JobDefinition xmlns="http://schemas.ggf.org/jsdl/2005/11/jsdl"><JobDescription>
  <JobIdentification><JobName>by JSDL</JobName><JobAnnotation>xml</JobAnnotation></JobIdentification>
  <Application><POSIXApplication xmlns="${posix}"><Executable>echo</Executable>
  <Argument>from</Argument><Argument>XML</Argument></POSIXApplication></Application>
</JobDescription></JobDefinition>`;
/** A job that sends back what it gets, and its end after the other's; with what every guest has. */
export const echoService = (port: number): string =>
  `exec "$(command -v node || echo /usr/bin/node)" -e 'require("net").createServer({allowHalfOpen:true},s=>s.pipe(s)).listen(${port},"127.0.0.1",()=>console.log("up"))'`;

export const post = (url: string, body: object): string[] => [
  ...json,
  '-d',
  JSON.stringify(body),
  url,
];
const action = (url: string): string[] => ['-X', 'POST', url];
const put = (url: string, body: object): string[] => ['-X', 'PUT', ...post(url, body)];
export const remove = (url: string): string[] => ['-X', 'DELETE', url];

/** Chapters of the story: what is typed, and what comes back. */
export const chapters: Record<string, readonly Request[]> = {
  'who one is, and what there is': [
    {
      what: 'base resource',
      args: ['$core?fields=client'],
      status: 200,
      body: /^\{"client":\{"dn":"CN=Demo User,O=VSite,C=EU".*"selected":"user".*"X509"/,
    },
    {
      what: 'factory',
      args: ['$factory'],
      status: 200,
      body: /"applications":\[/,
    },
    {
      what: 'make a target system',
      args: ['-i', ...post('$factory', { image: 'vsite-demo-container' })],
      status: 201,
      keep: 'site',
    },
    {
      what: 'it is ready',
      args: ['$core/sites/$site?fields=resourceStatus'],
      status: 200,
      body: /^\{"resourceStatus":"READY"\}$/,
      until: true,
    },
    {
      what: 'its applications',
      args: ['$core/sites/$site/applications'],
      status: 200,
      body: /Transform/,
    },
  ],
  'a job with an input file': [
    {
      what: 'submit',
      args: post('$core/jobs', {
        ApplicationName: 'Transform',
        Parameters: { INPUT: 'in.txt' },
        haveClientStageIn: 'true',
        Tags: ['story'],
      }),
      status: 201,
      keep: 'job',
    },
    {
      what: 'upload',
      args: ['-T', 'in.txt', '$core/storages/$job-uspace/files/in.txt'],
      status: 204,
    },
    { what: 'start', args: action('$core/jobs/$job/actions/start'), status: 204 },
    {
      what: 'fields',
      args: ['$core/jobs/$job?fields=status,exitCode'],
      status: 200,
      body: /^\{"status":"SUCCESSFUL","exitCode":"0"\}$/,
      until: true,
    },
    {
      what: 'output',
      args: [...bytes, '$core/storages/$job-uspace/files/stdout'],
      status: 200,
      body: /GRID MIDDLEWARE\n$/,
    },
    { what: 'details', args: ['$core/jobs/$job/details'], status: 200, body: /^\{/ },
    {
      what: 'what was submitted',
      args: ['$core/jobs/$job/submitted'],
      status: 200,
      body: /"INPUT"/,
    },
    { what: 'by tag', args: ['$core/jobs?tags=story'], status: 200, body: /"jobs":\["[^"]+"\]/ },
    {
      what: 'other tags',
      args: put('$core/jobs/$job', { tags: ['new'] }),
      status: 200,
      body: /"OK"/,
    },
    { what: 'by the old tag', args: ['$core/jobs?tags=story'], status: 200, body: /"jobs":\[\]/ },
  ],
  'a job in JSDL': [
    {
      what: 'submit',
      args: ['-H', 'Content-Type: application/xml', '--data-binary', '@job.xml', '$core/jobs'],
      status: 201,
      keep: 'xml',
    },
    {
      what: 'it ends',
      args: ['$core/jobs/$xml?fields=status,name,tags'],
      status: 200,
      body: /"name":"by JSDL","status":"SUCCESSFUL"|"status":"SUCCESSFUL".*"by JSDL"/,
      until: true,
    },
    {
      what: 'output',
      args: [...bytes, '$core/storages/$xml-uspace/files/stdout'],
      status: 200,
      body: /^from XML\n$/,
    },
    {
      what: 'by its annotation',
      args: ['$core/jobs?tags=xml'],
      status: 200,
      body: /\/jobs\/\S+"\]/,
    },
  ],
  'abort and restart': [
    {
      what: 'submit',
      args: post('$core/sites/$site', {
        Executable: 'test -e there || { touch there; sleep 999; }',
      }),
      status: 201,
      keep: 'again',
    },
    {
      what: 'it is at work',
      args: ['$core/storages/$again-uspace/files'],
      status: 200,
      body: /"\/there"/,
      until: true,
    },
    { what: 'abort', args: action('$core/jobs/$again/actions/abort'), status: 204 },
    {
      what: 'aborted',
      args: ['$core/jobs/$again?fields=status,statusMessage'],
      status: 200,
      body: /"FAILED","statusMessage":"Job aborted/,
      until: true,
    },
    { what: 'restart', args: action('$core/jobs/$again/actions/restart'), status: 204 },
    {
      what: 'it ends',
      args: ['$core/jobs/$again?fields=status'],
      status: 200,
      body: /SUCCESSFUL/,
      until: true,
    },
    { what: 'delete', args: remove('$core/jobs/$again'), status: 204 },
    { what: 'gone', args: ['$core/jobs/$again'], status: 404 },
  ],
  'an allocation of a batch system': [
    {
      what: 'ask for it',
      args: post('$core/jobs', {
        'Job type': 'ALLOCATE',
        Resources: { Runtime: '600', Image: 'vsite-test-slurm' },
      }),
      status: 201,
      keep: 'allocation',
    },
    {
      what: 'it is there',
      args: ['$core/jobs/$allocation'],
      status: 200,
      body: /"status":"RUNNING"/,
      until: true,
    },
    {
      what: 'the batch system has it',
      args: ['$core/jobs/$allocation?fields=status,batchSystemID'],
      status: 200,
      body: /^\{"status":"RUNNING","batchSystemID":"\d+"\}$/,
    },
    {
      what: 'a job in it',
      args: post('$core/jobs/$allocation', { Executable: "srun sh -c 'echo step $SLURM_STEP_ID'" }),
      status: 201,
      keep: 'inside',
    },
    {
      what: 'it ends',
      args: ['$core/jobs/$inside?fields=status'],
      status: 200,
      body: /SUCCESSFUL/,
      until: true,
    },
    {
      what: 'its output',
      args: [...bytes, '$core/storages/$inside-uspace/files/stdout'],
      status: 200,
      body: /^step 0\n$/,
    },
    { what: 'give it back', args: action('$core/jobs/$allocation/actions/abort'), status: 204 },
    { what: 'and its machine', args: remove('$core/jobs/$allocation'), status: 204 },
  ],
  'an allocation, where there is no batch system': [
    {
      what: 'ask for it',
      args: post('$core/sites/$site', { 'Job type': 'ALLOCATE' }),
      status: 201,
      keep: 'allocation',
    },
    {
      what: 'it cannot be had',
      args: ['$core/jobs/$allocation'],
      status: 200,
      body: /"jobType":"ALLOCATE"[\s\S]*"status":"FAILED"[\s\S]*"statusMessage":"[^"]*alloc/i,
      until: true,
    },
    {
      what: 'nothing runs in it',
      args: post('$core/jobs/$allocation', { Executable: 'date' }),
      status: 409,
      body: /allocation \S+ is not there to be used/,
    },
  ],
  'files, with uploads and downloads that break': [
    { what: 'a storage of one’s own', args: post('$core/storages', {}), status: 201, keep: 'own' },
    {
      what: 'it is ready',
      args: ['$core/storages/$own?fields=resourceStatus'],
      status: 200,
      body: /READY/,
      until: true,
    },
    {
      what: 'the first half',
      args: ['-T', 'half.bin', '$core/storages/$own/files/a/big.bin'],
      status: 204,
    },
    {
      what: 'go on with an upload',
      args: ['-C', '$half', '-T', 'whole.bin', '$core/storages/$own/files/a/big.bin'],
      status: 204,
    },
    {
      what: 'not twice',
      args: ['-T', 'rest.bin', '$core/storages/$own/files/a/big.bin?offset=$half'],
      status: 409,
    },
    {
      what: 'not from nowhere',
      args: [
        ...['-H', 'Content-Range: bytes some', '-T', 'rest.bin'],
        '$core/storages/$own/files/a/big.bin',
      ],
      status: 400,
      body: /Content-Range must be/,
    },
    {
      what: 'go on with a download',
      args: [...bytes, '-C', '-', '-o', 'part.bin', '$core/storages/$own/files/a/big.bin'],
      status: 206,
    },
    {
      what: 'a range',
      args: [...bytes, '-r', '3-', '$core/storages/$job-uspace/files/in.txt'],
      status: 206,
      body: /^d middleware\n$/,
    },
    { what: 'make a directory', args: action('$core/storages/$own/files/b'), status: 201 },
    {
      what: 'copy',
      args: post('$core/storages/$own/actions/copy', { from: 'a/big.bin', to: 'b/copy 1.bin' }),
      status: 204,
    },
    {
      what: 'metadata',
      args: put('$core/storages/$own/files/b/copy%201.bin', { metadata: { project: 'climate' } }),
      status: 200,
      body: /"metadata":"OK"/,
    },
    {
      what: 'search',
      args: ['$core/storages/$own/search?q=project:climate'],
      status: 200,
      body: /"numberOfResults":1/,
    },
    {
      what: 'list',
      args: ['$core/storages/$own/files/b'],
      status: 200,
      body: /"\/b\/copy 1\.bin"/,
    },
    { what: 'delete', args: remove('$core/storages/$own/files/b'), status: 204 },
    { what: 'storages', args: ['$core/storages'], status: 200, body: /storages\/DATA"/ },
  ],
  'transfers by the server': [
    {
      what: 'send',
      args: post('$core/storages/$own/transfers', {
        file: 'a/big.bin',
        target: '$core/storages/$site-HOME/files/big.bin',
      }),
      status: 201,
      keep: 'transfer',
    },
    {
      what: 'done',
      args: ['$core/transfers/$transfer?fields=status,transferredBytes'],
      status: 200,
      body: /"status":"DONE","transferredBytes":2000001/,
      until: true,
    },
    { what: 'forget it', args: remove('$core/transfers/$transfer'), status: 204 },
    {
      what: 'a link without a login',
      args: post('$core/storages/$own/exports', { file: 'a/big.bin' }),
      status: 200,
      body: /"accessURL":"([^"]+)"/,
      keep: 'link',
    },
  ],
  'the end': [
    { what: 'delete the storage', args: remove('$core/storages/$own'), status: 204 },
    { what: 'delete the target system', args: remove('$core/sites/$site'), status: 204 },
    {
      what: 'gone',
      args: ['$core/sites'],
      status: 200,
      body: /"sites":\[\]/,
      until: true,
    },
  ],
};
