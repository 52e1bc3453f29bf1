import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { element, toXml } from '#kernel/xml/build.js';
import { parseDescription } from '#xnjs/job/description.js';
import { parseJsdl } from '#xnjs/jsdl/parse-jsdl.js';
import { readImageWish } from '#xnjs/vm/image-wish.js';

const namespaces = `xmlns="http://schemas.ggf.org/jsdl/2005/11/jsdl"
  xmlns:p="http://schemas.ggf.org/jsdl/2005/11/jsdl-posix"
  xmlns:h="http://schemas.ggf.org/jsdl/2006/07/jsdl-hpcpa"
  xmlns:s="http://schemas.ogf.org/jsdl/2007/02/jsdl-spmd"
  xmlns:u="http://www.unicore.eu/unicore/jsdl-extensions"
  xmlns:i="http://www.fz-juelich.de/unicore/xnjs/idb"
  xmlns:x="http://www.unicore.eu/unicore/xnjs"
  xmlns:ac="http://schemas.ogf.org/hpcp/2007/11/ac"
  xmlns:fs="http://schemas.ogf.org/hpcp/2007/01/fs"
  xmlns:w="http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-wssecurity-secext-1.0.xsd"
  xmlns:sw="http://schemas.ogf.org/jsdl/2009/03/sweep"
  xmlns:f="http://schemas.ogf.org/jsdl/2009/03/sweep/functions"`;
const job = (content: string, more = ''): string =>
  `<?xml version="1.0"?><JobDefinition ${namespaces}><JobDescription>${content}</JobDescription>${more}</JobDefinition>`;
const read = (content: string, more = '') => parseJsdl(job(content, more)).description;
const application = (content: string) => read(`<Application>${content}</Application>`);
const posix = (content: string) =>
  application(`<p:POSIXApplication>${content}</p:POSIXApplication>`);
const resources = (content: string) => read(`<Resources>${content}</Resources>`)['Resources'];
const staging = (content: string) => read(`<DataStaging>${content}</DataStaging>`);

describe('JSDL', () => {
  it('that is empty is a job with nothing to do', () => {
    assert.deepEqual(read(''), {});
  });

  it('tells name, project, and what annotations say; others are tags', () => {
    const annotations = [
      'User email: a@b.c',
      'job type= INTERACTIVE',
      'Login node: n*',
      'Notify: https://h/x',
      'scheduledStartTime: 2026-12-01 10:00',
      'IgnoreNonZeroExitCode: TRUE',
      'my tag',
      'other: tag',
      'x'.repeat(200),
    ];
    assert.deepEqual(
      read(
        `<JobIdentification><JobName> demo </JobName><Description>long</Description>${annotations
          .map((text) => `<JobAnnotation>${text}</JobAnnotation>`)
          .join('')}<JobProject>p1</JobProject><JobProject>p2</JobProject></JobIdentification>`,
      ),
      {
        Name: 'demo',
        Project: 'p1',
        'User email': 'a@b.c',
        'Job type': 'INTERACTIVE',
        'Login node': 'n*',
        Notification: 'https://h/x',
        'Not before': '2026-12-01 10:00',
        IgnoreNonZeroExitCode: true,
        Tags: ['my tag', 'other: tag'],
      },
    );
  });

  const program = (prefix: string) =>
    `<${prefix}:Executable>/bin/prog</${prefix}:Executable>
     <${prefix}:Argument>-a</${prefix}:Argument>
     <${prefix}:Argument> two  words </${prefix}:Argument>
     <${prefix}:Argument>a\nb</${prefix}:Argument>
     <${prefix}:Argument/>
     <${prefix}:Input>in</${prefix}:Input>
     <${prefix}:Output>out</${prefix}:Output>
     <${prefix}:Error>err</${prefix}:Error>
     <${prefix}:WorkingDirectory>/tmp</${prefix}:WorkingDirectory>
     <${prefix}:Environment name="A">1 &lt; 2</${prefix}:Environment>
     <${prefix}:UserName>bob</${prefix}:UserName><${prefix}:GroupName>lab</${prefix}:GroupName>`;
  const asProgram = {
    Executable: '/bin/prog',
    Arguments: ['-a', ' two  words ', 'a b', ''],
    Stdin: 'in',
    Stdout: 'out',
    Stderr: 'err',
    Environment: { A: '1 < 2' },
  };
  for (const [prefix, name] of [
    ['p', 'POSIXApplication'],
    ['h', 'HPCProfileApplication'],
  ] as const)
    it(`describes a program by ${name}, and its account`, () => {
      const text = job(
        `<Application><${prefix}:${name}>${program(prefix)}</${prefix}:${name}></Application>`,
      );
      assert.deepEqual(parseJsdl(text), {
        description: asProgram,
        account: { user: 'bob', group: 'lab' },
      });
    });

  it('names an application of the IDB, with commands before and after', () => {
    assert.deepEqual(
      application(`<ApplicationName>Sim</ApplicationName><ApplicationVersion>2.1</ApplicationVersion>
        <u:UserPreCommand runOnLoginNode="false">echo 'a'
b</u:UserPreCommand><u:UserPostCommand>rm x</u:UserPostCommand>`),
      {
        ApplicationName: 'Sim',
        ApplicationVersion: '2.1',
        'User precommand': "echo 'a'\nb",
        RunUserPrecommandOnLoginNode: false,
        'User postcommand': 'rm x',
      },
    );
  });

  it('describes a parallel program, whose numbers are variables and a request', () => {
    const spmd = `<Application><s:SPMDApplication><p:Executable>mpi</p:Executable>
      <s:NumberOfProcesses>8</s:NumberOfProcesses><s:ProcessesPerHost>4</s:ProcessesPerHost>
      <s:ThreadsPerProcess actualIndividualCPUCount="true"/></s:SPMDApplication></Application>`;
    assert.deepEqual(read(spmd), {
      Executable: 'mpi',
      Environment: { NumberOfProcesses: '8', ProcessesPerHost: '4' },
      Resources: { TotalCPUs: '8' },
    });
    const more = '<Resources><TotalCPUCount><Exact>16</Exact></TotalCPUCount></Resources>';
    assert.deepEqual(read(spmd + more)['Resources'], { TotalCPUs: '16' });
  });

  describe('of system and processor', () => {
    const machine = `<OperatingSystem>
        <OperatingSystemType><OperatingSystemName> LINUX </OperatingSystemName></OperatingSystemType>
        <OperatingSystemVersion>12</OperatingSystemVersion>
      </OperatingSystem>
      <CPUArchitecture><CPUArchitectureName>arm</CPUArchitectureName></CPUArchitecture>`;
    const wishOf = (image: string) => {
      const request = `<u:ResourceRequest><u:Name>Image</u:Name><u:Value>${image}</u:Value></u:ResourceRequest>`;
      const description = read(`<Resources>${machine}${request}</Resources>`);
      assert.deepEqual(parseDescription(description).Resources, {}, 'the engine is not asked');
      return readImageWish(description);
    };

    it('asks for an image that has them, whichever it is or that one', () => {
      const requirements = { osType: 'LINUX', osVersion: '12', architecture: 'aarch64' };
      assert.deepEqual(wishOf('*'), { requirements });
      assert.deepEqual(wishOf('vsite-demo'), { requirements, reference: 'vsite-demo' });
    });

    it('asks for nothing where no image is named, as ever: that is for brokers', () => {
      assert.equal(resources(machine), undefined);
    });
  });

  it('asks for resources by exact values, expressions and names, never by ranges', () => {
    assert.deepEqual(
      resources(`
        <IndividualCPUTime><Exact>3600.9</Exact><Exact>1</Exact></IndividualCPUTime>
        <IndividualPhysicalMemory><Exact>6.442450944E9</Exact></IndividualPhysicalMemory>
        <IndividualCPUCount><Range><LowerBound>2</LowerBound><UpperBound>4</UpperBound></Range></IndividualCPUCount>
        <TotalCPUCount u:expression="2*N"><UpperBoundedRange>4</UpperBoundedRange></TotalCPUCount>
        <TotalResourceCount><Exact u:expression="\${N}">1</Exact></TotalResourceCount>
        <IndividualDiskSpace><Exact>7</Exact></IndividualDiskSpace>
        <OperatingSystem/><CandidateHosts/>
        <u:ResourceRequest><u:Name>Queue</u:Name><u:Value>fast</u:Value></u:ResourceRequest>
        <u:ResourceRequest><u:Name>ArraySize</u:Name><u:Value>\${N}</u:Value></u:ResourceRequest>
        <i:ResourceSetting><i:Name>GPUsPerNode</i:Name><i:Value><Exact>2</Exact></i:Value></i:ResourceSetting>
        <x:ReservationReference>r-1</x:ReservationReference>`),
      {
        Runtime: '3600',
        MemoryPerNode: '6442450944',
        TotalCPUs: '${2*N}',
        Nodes: '${N}',
        GPUsPerNode: '2',
        Queue: 'fast',
        ArraySize: '${N}',
        Reservation: 'r-1',
      },
    );
  });

  it('stages data in and out', () => {
    const parts = [
      `<FileName>in</FileName><CreationFlag>overwrite</CreationFlag><Source><URI>https://h/in</URI></Source>
       <ac:Credential><w:UsernameToken><w:Username>u</w:Username><w:Password> p </w:Password></w:UsernameToken></ac:Credential>`,
      `<FileName>d/</FileName><CreationFlag>dontOverwrite</CreationFlag><Source><URI>BFT:https://h/S/services/StorageManagement?res=x#/a*</URI></Source>
       <Target><URI>https://h/ignored</URI></Target><u:IgnoreFailure>true</u:IgnoreFailure><u:ReadOnly>1</u:ReadOnly>`,
      `<FileName>i</FileName><CreationFlag>append</CreationFlag><Source><URI>inline://x</URI></Source><u:InlineData> a\nb</u:InlineData>`,
      `<FileName>l</FileName><CreationFlag>overwrite</CreationFlag><Source><URI>/etc/motd</URI></Source>`,
      `<FileName>out</FileName><CreationFlag>overwrite</CreationFlag><DeleteOnTermination>true</DeleteOnTermination>
       <Target><URI>scp://h/out</URI></Target><fs:Credential><u:BearerToken>t</u:BearerToken></fs:Credential>`,
      `<FileName>scratch</FileName><CreationFlag>overwrite</CreationFlag><DeleteOnTermination>true</DeleteOnTermination>`,
    ];
    assert.deepEqual(read(parts.map((part) => `<DataStaging>${part}</DataStaging>`).join('')), {
      Imports: [
        {
          From: 'https://h/in',
          To: 'in',
          Mode: 'overwrite',
          Credentials: { Username: 'u', Password: ' p ' },
        },
        {
          From: 'BFT:https://h/S/services/StorageManagement?res=x#/a*',
          To: 'd/',
          Mode: 'nooverwrite',
          FailOnError: 'false',
          ReadOnly: 'true',
        },
        { Data: ' a\nb', To: 'i', Mode: 'append' },
        { From: 'file:///etc/motd', To: 'l', Mode: 'overwrite' },
      ],
      Exports: [
        {
          From: 'out',
          To: 'scp://h/out',
          Mode: 'overwrite',
          DeleteOnTermination: 'true',
          Credentials: { BearerToken: 't' },
        },
      ],
    });
  });

  it('means the same job as its JSON', () => {
    const description = read(
      `<JobIdentification><JobName>n</JobName></JobIdentification>
       <Application><p:POSIXApplication><p:Executable>echo</p:Executable><p:Argument>hi</p:Argument></p:POSIXApplication></Application>
       <Resources><IndividualCPUTime><Exact>60</Exact></IndividualCPUTime></Resources>
       <DataStaging><FileName>f</FileName><CreationFlag>overwrite</CreationFlag><Source/><u:InlineData>x</u:InlineData></DataStaging>`,
    );
    assert.deepEqual(
      parseDescription(description),
      parseDescription({
        Name: 'n',
        Executable: 'echo',
        Arguments: ['hi'],
        Resources: { Runtime: '60' },
        Imports: [{ Data: 'x', To: 'f' }],
      }),
    );
  });

  it('hands over arguments as they are, whatever XML has to say about their characters', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (raw) => {
        const text = Buffer.from(raw)
          .toString()
          // eslint-disable-next-line no-control-regex -- what XML or a normalised string does not have
          .replace(/[\x00-\x1f\x85\u2028\ufffe\uffff]/g, '');
        const argument = toXml(element('p:Argument', {}, text));
        assert.deepEqual(posix(argument)['Arguments'], [text]);
      }),
      { numRuns: 50 },
    );
  });
});

describe('JSDL that is wrong', () => {
  const source = '<Source><URI>http://h/x</URI></Source>';
  const wrong: [string, () => unknown, RegExp][] = [
    ['another document', () => parseJsdl('<a/>'), /JSDL: a: the document must be a JobDefinition/],
    ['no XML', () => parseJsdl('{"Executable": "date"}'), /JSDL: malformed XML/],
    ['a document type', () => parseJsdl(`<!DOCTYPE x>${job('')}`), /document type/],
    [
      'no description',
      () => parseJsdl(`<JobDefinition ${namespaces}/>`),
      /JobDefinition: holds no/,
    ],
    ['two descriptions', () => read('', '<JobDescription/>'), /more than one JobDescription/],
    [
      'a variable without name',
      () => posix('<p:Environment>x</p:Environment>'),
      /Environment: has no/,
    ],
    [
      'an odd number',
      () => resources('<TotalCPUCount><Exact>many</Exact></TotalCPUCount>'),
      /TotalCPUCount Exact: "many"/,
    ],
    [
      'an endless number',
      () => resources('<TotalCPUCount><Exact>1e400</Exact></TotalCPUCount>'),
      /not a number/,
    ],
    [
      'a request without name',
      () => resources('<u:ResourceRequest><u:Value>1</u:Value></u:ResourceRequest>'),
      /ResourceRequest: has no Name/,
    ],
    [
      'an unknown creation flag',
      () => staging(`<FileName>f</FileName><CreationFlag>maybe</CreationFlag>${source}`),
      /DataStaging f: CreationFlag: "maybe" is not one of overwrite/,
    ],
    [
      'no file name',
      () => staging(`<CreationFlag>append</CreationFlag>${source}`),
      /DataStaging: has no FileName/,
    ],
    [
      'a source without URI',
      () => staging('<FileName>f</FileName><Source/>'),
      /DataStaging f: Source has no URI/,
    ],
    [
      'a file system',
      () => staging(`<FileName>f</FileName><FilesystemName>Home</FilesystemName>${source}`),
      /FilesystemName: "Home"/,
    ],
    [
      'credentials of no kind',
      () => staging(`<FileName>f</FileName>${source}<ac:Credential/>`),
      /Credential: holds neither/,
    ],
    [
      'a flag that is none',
      () => staging(`<FileName>f</FileName>${source}<u:ReadOnly>yes</u:ReadOnly>`),
      /ReadOnly: "yes" is neither/,
    ],
  ];
  for (const [what, parse, message] of wrong)
    it(`is refused for ${what}, naming the element`, () => {
      assert.throws(parse, { code: 'JOB_INVALID', message });
    });
});

describe('a JSDL sweep', () => {
  const content = `<Application><p:POSIXApplication><p:Executable>e</p:Executable>
      <p:Argument>-x</p:Argument><p:Argument>0</p:Argument><p:Environment name="A">0</p:Environment>
      <p:Environment name="B">b</p:Environment></p:POSIXApplication></Application>
    <Resources><TotalCPUCount><Exact>1</Exact></TotalCPUCount></Resources>
    <DataStaging><FileName>f</FileName><CreationFlag>overwrite</CreationFlag><Source><URI>http://h/0</URI></Source></DataStaging>`;
  const sweep = (match: string, values = ['1', '2'], more = '') =>
    read(
      content,
      `<sw:Sweep><sw:Assignment><sw:DocumentNode>
         <sw:NamespaceBinding ns="http://schemas.ggf.org/jsdl/2005/11/jsdl-posix" prefix="q"/>
         <sw:NamespaceBinding ns="http://schemas.ggf.org/jsdl/2005/11/jsdl" prefix="j"/>
         <sw:Match>${match}</sw:Match></sw:DocumentNode>
         <f:Values>${values.map((value) => `<f:Value>${value}</f:Value>`).join('')}</f:Values>
       </sw:Assignment>${more}</sw:Sweep>`,
    );
  const values = { Values: ['1', '2'] };

  it('of a variable is one of parameters', () => {
    const description = sweep("//q:Environment[@name='A']");
    assert.deepEqual(description['Parameters'], { A: values });
    assert.deepEqual(description['Environment'], { B: 'b' });
  });

  it('of an argument or a resource refers to a variable', () => {
    const paths =
      '/j:JobDefinition/j:JobDescription/j:Application/q:POSIXApplication/q:Argument[2]/text()';
    const swept = sweep(paths);
    assert.deepEqual(swept['Arguments'], ['-x', '${JSDL_SWEEP}']);
    assert.deepEqual(swept['Parameters'], { JSDL_SWEEP: values });
    assert.deepEqual(sweep('/*//j:TotalCPUCount/j:Exact')['Resources'], {
      TotalCPUs: '${JSDL_SWEEP}',
    });
  });

  it('of a source is one of files', () => {
    assert.deepEqual(sweep('//j:Source/j:URI', ['http://h/1', 'http://h/2'])['Imports'], [
      { From: ['http://h/1', 'http://h/2'], To: 'f', Mode: 'overwrite' },
    ]);
  });

  const wrong: [string, () => unknown, RegExp][] = [
    ['matches nothing', () => sweep('//q:Nothing'), /matches 0 elements/],
    ['matches several', () => sweep('//q:Argument'), /matches 2 elements/],
    ['names what cannot be swept', () => sweep('//j:FileName'), /FileName, which cannot be swept/],
    ['has an unbound prefix', () => sweep('//z:Argument[1]'), /prefix z is not bound/],
    ['is more than a path', () => sweep('//q:Argument[position() = 1]'), /not understood from/],
    ['is endless', () => sweep('//*'.repeat(100)), /more than 16 steps/],
    ['has no values', () => sweep('//q:Argument[1]', []), /holds no Value/],
    ['is nested', () => sweep('//q:Argument[1]', ['1'], '<sw:Sweep/>'), /only one Assignment/],
  ];
  for (const [what, parse, message] of wrong)
    it(`that ${what} is refused`, () => {
      assert.throws(parse, { code: 'JOB_INVALID', message });
    });
});
