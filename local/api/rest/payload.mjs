// What a writing request sends. The text goes to Postgres as it came, so that no digit is lost on the way.
import { restError } from '../errors.mjs';

/** @returns {text, keys, rows}: JSON, the columns it names, and how many objects it holds. */
export function readPayload(request, body, columns) {
  const type = (request.headers['content-type'] ?? 'application/json').split(';')[0].trim().toLowerCase();
  const text = body.toString('utf8');
  if (type === 'application/json' || type.endsWith('+json')) return described(text, columns);
  if (type === 'text/csv') return described(JSON.stringify(fromCsv(text)), columns);
  if (type === 'application/x-www-form-urlencoded') {
    return described(JSON.stringify(Object.fromEntries(new URLSearchParams(text))), columns);
  }
  throw restError(400, 'PGRST102', `Content-Type not acceptable: ${type}`);
}

function described(text, columns) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw restError(400, 'PGRST102', 'Empty or invalid json');
  }
  const objects = Array.isArray(value) ? value : [value];
  if (!objects.every((each) => each !== null && typeof each === 'object' && !Array.isArray(each))) {
    throw restError(400, 'PGRST102', 'Empty or invalid json', 'Expected an object or an array of objects.');
  }
  const keys = Object.keys(objects[0] ?? {});
  const alike = (each) => Object.keys(each).length === keys.length && keys.every((key) => Object.hasOwn(each, key));
  if (columns === null && !objects.every(alike)) throw restError(400, 'PGRST102', 'All object keys must match');
  return { text, keys: columns ?? keys, rows: objects.length, objects };
}

/** Fields separated by commas, quoted where they hold commas, quotes or line breaks; a bare NULL is null. */
function fromCsv(text) {
  const rows = [];
  let row = [];
  const field = /(?:"((?:[^"]|"")*)"|([^,\r\n]*))(,|\r?\n|$)/gy;
  while (field.lastIndex < text.length) {
    const [, quoted, bare, end] = field.exec(text) ?? [];
    if (end === undefined)
      throw restError(400, 'PGRST102', 'The CSV cannot be read', `Stopped in line ${rows.length + 1}.`);
    row.push(quoted !== undefined ? quoted.replaceAll('""', '"') : bare === 'NULL' ? null : bare);
    if (end !== ',') {
      rows.push(row);
      row = [];
    }
  }
  const [names = [], ...values] = rows;
  if (!values.every((each) => each.length === names.length)) {
    throw restError(400, 'PGRST102', 'All lines must have same number of fields');
  }
  return values.map((each) => Object.fromEntries(names.map((name, index) => [name, each[index]])));
}
