/** Who may import whom (docs/architecture.md). One row a folder: everything not named is refused. */
const mayImport = {
  kernel: [],
  gateway: ['kernel'],
  imagerepo: ['kernel'],
  tsi: ['kernel/(errors|log|scope|net)'],
  xnjs: ['kernel', 'tsi/protocol', 'imagerepo/contract'],
  targetsystem: ['kernel', 'xnjs/(index|contract)'],
  cli: ['kernel', 'gateway', 'imagerepo', 'targetsystem'],
};
const ours = '^(cli|config|gateway|imagerepo|kernel|targetsystem|test|tsi|xnjs)/';

module.exports = {
  forbidden: [
    {
      name: 'no-cycles',
      severity: 'error',
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    },
    ...Object.entries(mayImport).map(([folder, allowed]) => ({
      name: `${folder}-boundary`,
      severity: 'error',
      from: { path: `^${folder}/` },
      to: { path: ours, pathNot: [`^${folder}/`, ...allowed.map((door) => `^${door}`)] },
    })),
    { name: 'no-unresolvable', severity: 'error', from: {}, to: { couldNotResolve: true } },
    {
      name: 'no-dev-dependencies',
      severity: 'error',
      from: { pathNot: '^(test|cli)/' },
      to: { dependencyTypes: ['npm-dev'], dependencyTypesNot: ['type-only'] },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: {
      conditionNames: ['development', 'import', 'node', 'default'],
      exportsFields: ['exports'],
    },
  },
};
