// The query string of the data API: ?select=id,author:users!fk(name)&age=gte.18&or=(a.is.null,b.eq.1)&order=id.desc
import { restError } from '../errors.mjs';

const OPERATORS = new Set([
  'eq',
  'neq',
  'gt',
  'gte',
  'lt',
  'lte',
  'like',
  'ilike',
  'match',
  'imatch',
  'isdistinct',
  'cs',
  'cd',
  'ov',
  'sl',
  'sr',
  'nxr',
  'nxl',
  'adj',
  'in',
  'is',
  'fts',
  'plfts',
  'phfts',
  'wfts',
]);
const QUANTIFIABLE = new Set(['eq', 'gt', 'gte', 'lt', 'lte', 'like', 'ilike', 'match', 'imatch']);
const TEXT_SEARCH = new Set(['fts', 'plfts', 'phfts', 'wfts']);
const AGGREGATES = new Set(['sum', 'avg', 'count', 'max', 'min']);
const IS_VALUES = new Set(['null', 'not_null', 'true', 'false', 'unknown']);
const NAME = /^(?:[\p{L}\p{N}_$ ]|-(?!>))+/u;

/**
 * @returns the tree of what is asked: {select, where, order, limit, offset} with relations inside `select` shaped alike,
 * and `columns`, `onConflict`, `rest` (pairs that are no filters when `isArgument` claims them).
 */
export function parseQuery(searchParams, isArgument = () => false) {
  const pairs = [...searchParams];
  const last = (name) => searchParams.getAll(name).at(-1);
  const tree = level(parseSelect(last('select') ?? '*'));
  const asked = {
    tree,
    columns: parseNames(last('columns')),
    onConflict: parseNames(last('on_conflict')),
    arguments: [],
  };
  for (const [name, text] of pairs) {
    if (['select', 'columns', 'on_conflict', 'apikey'].includes(name)) continue;
    if (isArgument(name)) asked.arguments.push([name, text]);
    else applyParameter(tree, name, text);
  }
  return asked;
}

const level = (select) => ({ select, where: [], order: [], limit: null, offset: 0 });

function applyParameter(tree, name, text) {
  const path = splitPath(name);
  const field = path.pop();
  const negated = path.at(-1) === 'not' && ['and', 'or'].includes(field);
  if (negated) path.pop();
  const node = path.reduce((at, step) => embedded(at, step), tree);
  if (field === 'and' || field === 'or') node.where.push(parseLogic(`${negated ? 'not.' : ''}${field}${text}`));
  else if (field === 'order') node.order = parseOrder(text);
  else if (field === 'limit') node.limit = parseCount(name, text);
  else if (field === 'offset') node.offset = parseCount(name, text);
  else node.where.push(parseFilter(field, text));
}

function embedded(node, name) {
  const found =
    node.select.find((item) => item.relation && (item.alias ?? item.relation) === name) ??
    node.select.find((item) => item.relation === name);
  if (found) return found;
  throw restError(
    400,
    'PGRST108',
    `'${name}' is not an embedded resource in this request`,
    null,
    `Verify that '${name}' is included in the 'select' query parameter.`,
  );
}

/** `a."b.c".d->e` are the steps a, "b.c" and d->e; a JSON path belongs to the last. */
function splitPath(name) {
  return (name.match(/(?:"(?:\\.|[^"\\])*"|[^."])+|(?<=\.)(?=$)/g) ?? [name]).map((step, index, steps) =>
    index < steps.length - 1 ? unquote(step) : step,
  );
}

const unquote = (text) => (text.startsWith('"') ? text.slice(1, -1).replace(/\\(.)/g, '$1') : text);

function parseCount(name, text) {
  if (!/^-?\d+$/.test(text)) throw failed(name, text, `'${text}' is no whole number`);
  return Number(text);
}

const failed = (what, text, details) =>
  restError(400, 'PGRST100', `"failed to parse ${what} (${text})" (line 1, column 1)`, details);

/** Reads one parameter from left to right. */
class Reader {
  constructor(text, what) {
    this.text = text;
    this.what = what;
    this.at = 0;
  }

  get left() {
    return this.text.slice(this.at);
  }

  fail(expected) {
    const found = this.at < this.text.length ? `"${this.text[this.at]}"` : 'end of input';
    throw restError(
      400,
      'PGRST100',
      `"failed to parse ${this.what} (${this.text})" (line 1, column ${this.at + 1})`,
      `unexpected ${found} expecting ${expected}`,
    );
  }

  take(sign) {
    if (!this.text.startsWith(sign, this.at)) return false;
    this.at += sign.length;
    return true;
  }

  expect(sign) {
    if (!this.take(sign)) this.fail(`"${sign}"`);
  }

  match(pattern) {
    const found = pattern.exec(this.left);
    if (found) this.at += found[0].length;
    return found;
  }

  quoted() {
    const found = this.match(/^"((?:\\.|[^"\\])*)"/s);
    return found && found[1].replace(/\\(.)/gs, '$1');
  }

  name(expected = 'field name (* or [a..z0..9_$])') {
    const name = this.quoted() ?? this.match(NAME)?.[0].trim();
    return name || this.fail(expected);
  }

  end() {
    if (this.at < this.text.length) this.fail('end of input');
  }

  list(item) {
    const items = [];
    do items.push(item(this));
    while (this.take(','));
    return items;
  }

  /** A column and the way into its JSON: data->a->>b */
  field() {
    const field = { column: this.name(), path: [] };
    for (let arrow = this.match(/^->>?/); arrow; arrow = this.match(/^->>?/)) {
      const index = this.match(/^-?\d+(?=$|[-:,.)]|::)/);
      field.path.push({ arrow: arrow[0], step: index ? Number(index[0]) : (this.quoted() ?? this.name('a JSON key')) });
    }
    return field;
  }
}

function parseSelect(text) {
  const reader = new Reader(text, 'select parameter');
  if (text.trim() === '') return [];
  const items = reader.list(selectItem);
  reader.end();
  return items;
}

function selectItem(reader) {
  reader.match(/^\s+/);
  if (reader.take('*')) return { all: true };
  if (reader.take('...')) return relationItem(reader, reader.name(), null, true);
  let field = reader.field();
  let alias = null;
  if (field.path.length === 0 && /^:(?!:)/.test(reader.left)) {
    reader.take(':');
    alias = field.column;
    field = reader.field();
  }
  if (AGGREGATES.has(field.column) && field.path.length === 0 && reader.left.startsWith('()')) throw aggregateRefused();
  if (field.path.length === 0 && /^[!(]/.test(reader.left)) return relationItem(reader, field.column, alias, false);
  const cast = reader.match(/^::([\p{L}\p{N}_ $[\]]+(?:\(\d+(?:,\d+)?\))?)/u)?.[1] ?? null;
  if (/^\.(sum|avg|count|max|min)\(\)/.test(reader.left)) throw aggregateRefused();
  if (reader.left !== '' && !/^[,)]/.test(reader.left)) reader.fail('"->", "::", ".", ")", "," or end of input');
  return { field, alias, cast };
}

/** Off on hosted projects too, unless switched on there: an aggregate over a large table is a cheap way to hurt. */
const aggregateRefused = () => restError(400, 'PGRST123', 'Use of aggregate functions is not allowed');

function relationItem(reader, relation, alias, spread) {
  let inner = false;
  let hint = null;
  while (reader.take('!')) {
    const word = reader.name('a hint, inner or left');
    if (word === 'inner') inner = true;
    else if (word !== 'left') hint = word;
  }
  reader.expect('(');
  const select = reader.take(')') ? [] : reader.list(selectItem);
  if (select.length > 0) reader.expect(')');
  return { relation, alias, hint, inner, spread, ...level(select) };
}

function parseOrder(text) {
  const reader = new Reader(text, 'order');
  const terms = reader.list(orderTerm);
  reader.end();
  return terms;
}

function orderTerm(reader) {
  let relation = null;
  let field = reader.field();
  if (field.path.length === 0 && reader.take('(')) {
    relation = field.column;
    field = reader.field();
    reader.expect(')');
  }
  const direction = reader.match(/^\.(asc|desc)(?=[.,)]|$)/)?.[1] ?? 'asc';
  const nulls = reader.match(/^\.nulls(first|last)(?=[,)]|$)/)?.[1] ?? null;
  if (reader.left !== '' && !reader.left.startsWith(',')) reader.fail('"asc", "desc", "nullsfirst" or "nullslast"');
  return { relation, field, direction, nulls };
}

/** A filter of its own parameter: everything after the operator is the value. */
function parseFilter(name, text) {
  const target = new Reader(name, 'filter');
  const field = target.field();
  target.end();
  const reader = new Reader(text, 'filter');
  const condition = operation(reader, () => {
    const value = reader.left;
    reader.at = reader.text.length;
    return value;
  });
  reader.end();
  return { field, ...condition };
}

/** Conditions joined in one parameter: values end at a comma or bracket unless quoted. */
function parseLogic(text) {
  const reader = new Reader(text, 'logic tree');
  const tree = logicNode(reader);
  reader.end();
  return tree;
}

function logicNode(reader) {
  const joined = reader.match(/^(not\.)?(and|or)\(/);
  if (!joined) {
    const field = reader.field();
    reader.expect('.');
    return { field, ...operation(reader, () => logicValue(reader)) };
  }
  const parts = reader.list(logicNode);
  reader.expect(')');
  return { join: joined[2], negated: Boolean(joined[1]), parts };
}

function logicValue(reader) {
  const quoted = /^"(?:\\.|[^"\\])*"(?=[,)])/s.test(reader.left) ? reader.quoted() : null;
  return quoted ?? reader.match(/^\{[^}]*\}/)?.[0] ?? reader.match(/^[^,)]*/)[0];
}

function operation(reader, value) {
  const negated = reader.take('not.');
  const [, operator, argument] = reader.match(/^([a-z]+)(?:\(([^)]*)\))?\./) ?? [];
  if (!OPERATORS.has(operator)) {
    reader.at = 0;
    reader.fail('operator (eq, gt, ...)');
  }
  const condition = { negated, operator, argument: argument ?? null };
  if (argument !== undefined && !TEXT_SEARCH.has(operator)) {
    if (!QUANTIFIABLE.has(operator) || !['any', 'all'].includes(argument)) reader.fail('operator (eq, gt, ...)');
  }
  if (operator === 'in') return { ...condition, values: valueList(reader) };
  const given = value();
  if (operator === 'is') {
    const known = given.toLowerCase();
    if (!IS_VALUES.has(known))
      throw failed('filter', `is.${given}`, 'expecting null, not_null, true, false or unknown');
    return { ...condition, value: known };
  }
  return { ...condition, value: given };
}

function valueList(reader) {
  reader.expect('(');
  if (reader.take(')')) return [];
  const values = reader.list(() => {
    const quoted = /^"(?:\\.|[^"\\])*"(?=[,)])/s.test(reader.left) ? reader.quoted() : null;
    return quoted ?? reader.match(/^[^,)]*/)[0];
  });
  reader.expect(')');
  return values;
}

function parseNames(text) {
  if (text === undefined || text === '') return null;
  const reader = new Reader(text, 'columns parameter');
  const names = reader.list(() => reader.name());
  reader.end();
  return names;
}
