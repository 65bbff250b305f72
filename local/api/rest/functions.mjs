// Which of several functions of one name is called, and with what.
import { restError } from '../errors.mjs';

const WHOLE_BODY = {
  'application/json': ['json', 'jsonb'],
  'text/plain': ['text'],
  'application/octet-stream': ['bytea'],
};

export function chooseFunction({ candidates, schema, name, request, body, asked }) {
  const type = (request.headers['content-type'] ?? 'application/json').split(';')[0].trim().toLowerCase();
  const reads = body === null;
  const object = reads
    ? fromQuery(candidates, asked.arguments)
    : type === 'application/x-www-form-urlencoded'
      ? Object.fromEntries(new URLSearchParams(body.toString('utf8')))
      : type === 'application/json'
        ? parsed(body)
        : undefined;
  const given = new Set(isObject(object) ? Object.keys(object) : []);
  const whole = candidates.filter(
    ({ parameters: [first, ...more] }) =>
      !reads && first?.name === '' && more.length === 0 && WHOLE_BODY[type]?.includes(first.type),
  );
  const named = object === undefined || Array.isArray(object) ? [] : candidates.filter((fn) => accepts(fn, given));
  const found = named.length > 0 ? named : whole;
  if (found.length === 0) throw noFunction(schema, name, [...given], candidates);
  if (found.length > 1) throw tooMany(found);
  if (named.length === 0)
    return {
      fn: found[0],
      given: { body: type === 'application/octet-stream' ? hex(body) : body.toString('utf8'), whole: true },
    };
  // Sent as it came: what was parsed above has lost the digits of large numbers.
  const text = reads || type !== 'application/json' ? JSON.stringify(object) : body.toString('utf8') || '{}';
  return { fn: found[0], given: { body: text, names: given } };
}

const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);
const hex = (bytes) => `\\x${bytes.toString('hex')}`;

function accepts({ parameters }, given) {
  const names = new Set(parameters.map(({ name }) => name));
  return (
    [...given].every((key) => key !== '' && names.has(key)) &&
    parameters.every(({ name, required, variadic }) => !required || variadic || given.has(name)) &&
    parameters.every(({ name, required }) => name !== '' || !required)
  );
}

function parsed(body) {
  if (body.length === 0) return {};
  try {
    const value = JSON.parse(body.toString('utf8'));
    return isObject(value) ? value : [value];
  } catch {
    throw restError(400, 'PGRST102', 'Empty or invalid json');
  }
}

function fromQuery(candidates, pairs) {
  const parameters = new Map(candidates.flatMap((fn) => fn.parameters).map((each) => [each.name, each]));
  const object = {};
  for (const [name, text] of pairs) {
    const { variadic, type } = parameters.get(name);
    if (variadic) object[name] = [...(object[name] ?? []), text];
    else object[name] = ['json', 'jsonb'].includes(type) ? jsonOf(text) : text;
  }
  return object;
}

function jsonOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw restError(400, '22P02', 'invalid input syntax for type json', `Found: ${text.slice(0, 100)}`);
  }
}

function noFunction(schema, name, given, candidates) {
  const listed = given.length ? `parameters ${given.join(', ')}` : 'no parameters';
  return restError(
    404,
    'PGRST202',
    `Could not find the function ${schema}.${name}${given.length ? `(${given.join(', ')})` : ' without parameters'} in the schema cache`,
    `Searched for the function ${schema}.${name} with ${listed} or with a single unnamed json/jsonb parameter, ` +
      'but no matches were found in the schema cache.',
    candidates.length ? `Perhaps you meant to call the function ${signature(candidates[0])}` : null,
  );
}

function tooMany(found) {
  const typed = found.map(
    (fn) => `${fn.schema}.${fn.name}(${fn.parameters.map(({ name, type }) => `${name} => ${type}`).join(', ')})`,
  );
  return restError(
    300,
    'PGRST203',
    `Could not choose the best candidate function between: ${typed.join(', ')}`,
    null,
    'Try renaming the parameters or the function itself in the database so function overloading can be resolved',
  );
}

const signature = ({ schema, name, parameters }) =>
  `${schema}.${name}(${parameters.map((each) => each.name).join(', ')})`;
