import { z } from 'zod';

/** First lines of scripts for a TSI, `#!` included; absent: the TSI client's own. */
export type ScriptHeader = { readonly submit?: string; readonly execute?: string };

const lines = z.union([z.string().max(65_536), z.array(z.string().max(8_192)).max(1_000)]);

/** Nothing in it may look like the protocol's own: what follows is read by lines. */
const header = lines.transform((value, context) => {
  const text = join(value);
  const wrong = fault(text);
  if (wrong === undefined) return withInterpreter(text);
  context.addIssue(wrong);
  return z.NEVER;
});

/** Of UNICORE 8 and 9: what stands before `#SCRIPT` and is no place holder is the header. */
const template = lines.transform((value, context) => {
  const all = join(value).split('\n');
  const at = all.findIndex((line) => line.trim() === '#SCRIPT');
  const before = all.slice(0, at < 0 ? all.length : at);
  const after = at < 0 ? [] : all.slice(at + 1);
  const kept = before.filter((line) => !/^\s*#(COMMAND|RESOURCES)\s*$/.test(line));
  const wrong = after.some((line) => line.trim() !== '')
    ? 'lines after #SCRIPT are not supported: put them into an epilogue'
    : fault(kept.join('\n'));
  if (wrong === undefined) return withInterpreter(trimEnd(kept.join('\n')));
  context.addIssue(wrong);
  return z.NEVER;
});

export const scriptHeaderKeys = {
  ScriptHeader: header.optional(),
  SubmitScriptTemplate: template.optional(),
  ExecuteScriptTemplate: template.optional(),
};

/** `ScriptHeader` counts for every script; a template only where there is none. */
export function toScriptHeader(raw: {
  ScriptHeader?: string | undefined;
  SubmitScriptTemplate?: string | undefined;
  ExecuteScriptTemplate?: string | undefined;
}): ScriptHeader {
  const submit = raw.ScriptHeader ?? raw.SubmitScriptTemplate;
  const execute = raw.ScriptHeader ?? raw.ExecuteScriptTemplate;
  return {
    ...(submit !== undefined && { submit }),
    ...(execute !== undefined && { execute }),
  };
}

/** A last line feed more or less means nothing, whichever way it is written. */
function join(value: string | readonly string[]): string {
  return trimEnd(typeof value === 'string' ? value : value.join('\n'));
}

function trimEnd(text: string): string {
  return text.replace(/\n+$/, '');
}

function withInterpreter(text: string): string {
  return text.startsWith('#!') ? text : `#!/bin/bash${text === '' ? '' : `\n${text}`}`;
}

function fault(text: string): string | undefined {
  const [, interpreter] = /^#!(.*)/.exec(text) ?? [];
  if (interpreter !== undefined && !/^\s*(\S*\/env\s+)?(\S*\/)?bash(\s|$)/.test(interpreter))
    return `scripts are written for bash, which "${interpreter.trim()}" is not`;
  if (/[\0\r]/.test(text)) return 'must not contain NUL or carriage returns';
  if (/#TSI_|ENDOFMESSAGE/.test(text)) return 'must not contain #TSI_… or ENDOFMESSAGE';
  if (text.includes('\n#!')) return 'must have #! on its first line only';
  return undefined;
}
