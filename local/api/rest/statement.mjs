// One statement per request. Postgres itself makes the JSON, so numbers keep their digits and times their form.
import { restError } from '../errors.mjs';
import { findLink } from './relationships.mjs';

export const quote = (name) => `"${name.replaceAll('"', '""')}"`;
const text = (value) => `'${value.replaceAll("'", "''")}'`;
const qualified = ({ schema, name }) => `${quote(schema)}.${quote(name)}`;
// A name no table or function is likely to have.
const BODY = '"request body"';
const JSON_TYPES = new Set(['json', 'jsonb']);

const COMPARISONS = {
  eq: '=',
  neq: '<>',
  gt: '>',
  gte: '>=',
  lt: '<',
  lte: '<=',
  like: 'like',
  ilike: 'ilike',
  match: '~',
  imatch: '~*',
  cs: '@>',
  cd: '<@',
  ov: '&&',
  sl: '<<',
  sr: '>>',
  nxr: '&<',
  nxl: '&>',
  adj: '-|-',
  isdistinct: 'is distinct from',
};
const SEARCHES = {
  fts: 'to_tsquery',
  plfts: 'plainto_tsquery',
  phfts: 'phraseto_tsquery',
  wfts: 'websearch_to_tsquery',
};

export class Statement {
  constructor(catalog, schema) {
    this.catalog = catalog;
    this.schema = schema;
    this.values = [];
    this.aliases = 0;
  }

  value(given) {
    this.values.push(given);
    return `$${this.values.length}`;
  }

  alias(name) {
    this.aliases += 1;
    return `${name.slice(0, 50)}_${this.aliases}`;
  }

  /** Rows of a relation, or of the CTE `source` that stands for it. */
  rows(node, relation, { source = qualified(relation), alias = relation.name, conditions = [], maxRows } = {}) {
    const parts = this.#selected(node, relation, alias);
    const where = [...conditions, ...this.conditions(node, relation, alias, parts.embedded)];
    const limit = Math.min(node.limit ?? Infinity, maxRows ?? Infinity);
    return [
      `select ${parts.columns.join(', ') || '1 as "_"'}`,
      `from ${source} as ${quote(alias)}`,
      ...parts.joins,
      where.length ? `where ${where.join(' and ')}` : '',
      this.#order(node, relation, alias, parts.embedded),
      Number.isFinite(limit) ? `limit ${limit}` : '',
      node.offset > 0 ? `offset ${node.offset}` : '',
    ]
      .filter(Boolean)
      .join(' ');
  }

  /** How many there are beyond limit and offset; embedded relations matter only where they narrow the rows. */
  count(node, relation, { source = qualified(relation), alias = relation.name } = {}) {
    const parts = this.#selected(node, relation, alias);
    const where = this.conditions(node, relation, alias, parts.embedded);
    return `select 1 from ${source} as ${quote(alias)} ${parts.joins.join(' ')}${where.length ? ` where ${where.join(' and ')}` : ''}`;
  }

  #selected(node, relation, alias) {
    const columns = [];
    const joins = [];
    const embedded = new Map();
    for (const item of node.select) {
      if (item.all) {
        columns.push(`${quote(alias)}.*`);
      } else if (item.field) {
        columns.push(this.#column(item, relation, alias));
      } else {
        const part = this.#embed(item, relation, alias);
        embedded.set(item.alias ?? item.relation, part);
        joins.push(part.join);
        columns.push(...part.columns);
      }
    }
    return { columns, joins, embedded };
  }

  #column({ field, alias: name, cast }, relation, alias) {
    const expression = this.field(field, relation, alias);
    const shown = name ?? field.path.findLast(({ step }) => typeof step === 'string')?.step ?? field.column;
    const typed = cast ? `cast(${expression} as ${typeName(cast)})` : expression;
    return `${typed} as ${quote(shown)}`;
  }

  field({ column, path }, relation, alias) {
    const base = `${quote(alias)}.${quote(column)}`;
    if (path.length === 0) return base;
    const known = relation?.columns.get(column);
    const start = known && !JSON_TYPES.has(known.base) ? `to_jsonb(${base})` : base;
    return `(${start}${path.map(({ arrow, step }) => `${arrow}${typeof step === 'number' ? step : text(step)}`).join('')})`;
  }

  /** A lateral join makes the JSON of the related rows, or, spread, puts their columns beside ours. */
  #embed(item, relation, alias) {
    const link = findLink(this.catalog, relation, item, this.schema);
    item.link = link;
    const name = item.alias ?? item.relation;
    const inside = this.alias(link.to.name);
    const outside = quote(this.alias(name));
    const { tables, conditions } = this.#joined(link, alias, inside);
    const select = this.rows(item, link.to, {
      source: tables,
      alias: inside,
      conditions,
      maxRows: link.many ? this.catalog.maxRows : undefined,
    });
    const kind = item.inner ? 'inner' : 'left';
    if (!link.many) {
      const columns = item.spread
        ? this.#spreadNames(item, link.to).map((column) => `${outside}.${quote(column)} as ${quote(column)}`)
        : [`row_to_json(${outside}.*) as ${quote(name)}`];
      return {
        link,
        outside,
        missing: `${outside} is not distinct from null`,
        columns: item.select.length ? columns : [],
        join: `${kind} join lateral (${select}) as ${outside} on true`,
      };
    }
    const collected = item.spread
      ? this.#spreadNames(item, link.to).map((column) => `json_agg("each".${quote(column)}) as ${quote(column)}`)
      : [];
    const columns = item.spread
      ? this.#spreadNames(item, link.to).map(
          (column) => `coalesce(${outside}.${quote(column)}, '[]') as ${quote(column)}`,
        )
      : [`coalesce(${outside}."all", '[]') as ${quote(name)}`];
    const lists = ['json_agg("each".*) as "all"', ...collected].join(', ');
    return {
      link,
      outside,
      missing: `${outside}."all" is null`,
      columns: item.select.length ? columns : [],
      join:
        `${kind} join lateral (select ${lists} from (${select}) as "each") as ${outside} on ` +
        (item.inner ? `${outside}."all" is not null` : 'true'),
    };
  }

  #joined(link, alias, inside) {
    const equal = (left, right, on) => on.map(([a, b]) => `${quote(left)}.${quote(a)} = ${quote(right)}.${quote(b)}`);
    if (!link.junction) return { tables: qualified(link.to), conditions: equal(alias, inside, link.on) };
    const { relation, near, far } = link.junction;
    const between = this.alias(relation.name);
    return {
      tables: `${qualified(relation)} as ${quote(between)}, ${qualified(link.to)}`,
      conditions: [...equal(between, alias, near.on), ...equal(between, inside, far.on)],
    };
  }

  #spreadNames(item, relation) {
    return item.select.flatMap((each) => {
      if (each.all) return [...relation.columns.keys()];
      if (each.field) return [each.alias ?? each.field.path.at(-1)?.step ?? each.field.column];
      return each.spread ? this.#spreadNames(each, each.link.to) : [each.alias ?? each.relation];
    });
  }

  conditions(node, relation, alias, embedded = new Map()) {
    return node.where.map((condition) => this.#condition(condition, relation, alias, embedded));
  }

  #condition(condition, relation, alias, embedded) {
    const not = condition.negated ? 'not ' : '';
    if (condition.join) {
      const parts = condition.parts.map((part) => this.#condition(part, relation, alias, embedded));
      return `${not}(${parts.join(` ${condition.join} `)})`;
    }
    const { field, operator } = condition;
    const part =
      !relation?.columns.has(field.column) && operator === 'is' && condition.value === 'null'
        ? embedded.get(field.column)
        : undefined;
    if (part) return `${not}(${part.missing})`;
    const left = this.field(field, relation, alias);
    return `${not}${this.#comparison(left, condition, field.path.length ? null : relation?.columns.get(field.column))}`;
  }

  #comparison(left, { operator, argument, value, values }, column) {
    if (operator === 'in') return `${left} = any(${this.value(arrayOf(values))})`;
    if (operator === 'is') return `(${left} is ${value.replace('_', ' ')})`;
    if (operator in SEARCHES) {
      const language = argument === null ? '' : `${this.value(argument)}::regconfig, `;
      const searched = column && column.base !== 'tsvector' ? `to_tsvector(${language}${left})` : left;
      return `${searched} @@ ${SEARCHES[operator]}(${language}${this.value(value)})`;
    }
    const given = operator.endsWith('like') ? value.replaceAll('*', '%') : value;
    if (argument !== null) return `${left} ${COMPARISONS[operator]} ${argument}(${this.value(given)})`;
    return `(${left} ${COMPARISONS[operator]} ${this.value(given)})`;
  }

  #order(node, relation, alias, embedded) {
    if (node.order.length === 0) return '';
    const terms = node.order.map(({ relation: related, field, direction, nulls }) => {
      const by = related === null ? this.field(field, relation, alias) : this.#related(related, field, alias, embedded);
      return `${by} ${direction}${nulls ? ` nulls ${nulls}` : ''}`;
    });
    return `order by ${terms.join(', ')}`;
  }

  #related(name, field, alias, embedded) {
    const part = embedded.get(name);
    if (!part) {
      throw restError(
        400,
        'PGRST108',
        `'${name}' is not an embedded resource in this request`,
        null,
        `Verify that '${name}' is included in the 'select' query parameter.`,
      );
    }
    if (part.link.many) {
      throw restError(
        400,
        'PGRST118',
        `A related order on '${name}' is not possible`,
        `'${name}' is not on the one side of the relationship`,
      );
    }
    const inside = this.alias(name);
    const { tables, conditions } = this.#joined(part.link, alias, inside);
    return `(select ${this.field(field, part.link.to, inside)} from ${tables} as ${quote(inside)} where ${conditions.join(' and ')})`;
  }

  /** The request's JSON as rows of the named columns, each read as the column's own type. */
  #payload(body, relation, columns, { useDefaults = false, one = false } = {}) {
    const known = columns.map((name) => relation.columns.get(name));
    const defaults = known.filter((column) => useDefaults && column.default);
    const typed = known.map(({ name, type }) => `${quote(name)} ${type}`).join(', ');
    const array =
      `case json_typeof(${this.value(body)}::json) when 'array' then $${this.values.length}::json ` +
      `else json_build_array($${this.values.length}::json) end`;
    const limit = one ? ' limit 1' : '';
    if (defaults.length === 0) return `(select * from json_to_recordset(${array}) as given(${typed})${limit})`;
    const made = defaults.map((column) => `${text(column.name)}, ${column.default}`).join(', ');
    return (
      `(select given.* from json_array_elements(${array}) as element(value), ` +
      `jsonb_to_record(jsonb_build_object(${made}) || element.value::jsonb) as given(${typed})${limit})`
    );
  }

  insert(relation, { body, columns, rows, useDefaults, conflict, returning }) {
    let source = 'default values';
    if (rows === 0) {
      source = 'select where false';
    } else if (columns.length > 0) {
      source =
        `(${columns.map(quote).join(', ')}) select ${columns.map((name) => `${BODY}.${quote(name)}`).join(', ')} ` +
        `from ${this.#payload(body, relation, columns, { useDefaults })} as ${BODY}` +
        (conflict && !conflict.ignore ? ` where ${countInserted(1)}` : '');
    }
    return `insert into ${qualified(relation)} ${source} ${this.#onConflict(conflict, columns)} returning ${returning}`;
  }

  #onConflict(conflict, columns) {
    if (!conflict || conflict.on.length === 0) return '';
    const target = `on conflict (${conflict.on.map(quote).join(', ')})`;
    if (conflict.ignore || columns.length === 0) return `${target} do nothing`;
    const set = columns.map((name) => `${quote(name)} = excluded.${quote(name)}`).join(', ');
    return `${target} do update set ${set} where ${countInserted(-1)}`;
  }

  update(relation, node, { body, columns, useDefaults, returning }) {
    const set = columns.map((name) => `${quote(name)} = ${BODY}.${quote(name)}`).join(', ');
    const payload = this.#payload(body, relation, columns, { useDefaults, one: true });
    const where = this.conditions(node, relation, relation.name);
    return `update ${qualified(relation)} set ${set} from ${payload} as ${BODY} where ${where.join(' and ')} returning ${returning}`;
  }

  nothing(relation) {
    return `${qualified(relation)} where false`;
  }

  delete(relation, node, { returning }) {
    return `delete from ${qualified(relation)} where ${this.conditions(node, relation, relation.name).join(' and ')} returning ${returning}`;
  }

  /** What a writing statement must hand to the select around it: the columns asked for and those that join. */
  returning(node, relation) {
    const of = (name) => `${quote(relation.name)}.${quote(name)}`;
    if (node.select.some((item) => item.all)) return `${quote(relation.name)}.*`;
    const names = new Set();
    for (const item of node.select) {
      if (item.field) names.add(item.field.column);
      else this.#joining(relation, item).forEach((name) => names.add(name));
    }
    node.order.filter((term) => term.relation === null).forEach((term) => names.add(term.field.column));
    return [...names].map(of).join(', ') || '1';
  }

  #joining(relation, item) {
    const link = findLink(this.catalog, relation, item, this.schema);
    return link.junction ? link.junction.near.on.map(([, column]) => column) : link.on.map(([column]) => column);
  }

  /** `select * from f(…)` with its arguments taken from a JSON object, or one body handed over whole. */
  call(fn, { body, whole, names }) {
    const alias = quote(fn.name);
    const args = fn.parameters.filter(({ name }) => names?.has(name));
    let from = `${qualified(fn)}()`;
    if (whole) {
      from = `${qualified(fn)}(${this.value(body)}::${fn.parameters[0].type})`;
    } else if (args.length > 0) {
      const typed = args.map(({ name, type }) => `${quote(name)} ${type}`).join(', ');
      const handed = args.map(
        ({ name, variadic }) => `${variadic ? 'variadic ' : ''}${quote(name)} := ${BODY}.${quote(name)}`,
      );
      from = `json_to_record(${this.value(body)}::json) as ${BODY}(${typed}), lateral ${qualified(fn)}(${handed.join(', ')})`;
    }
    return fn.composite
      ? `select ${alias}.* from ${from} as ${alias}`
      : `select ${alias} as "scalar" from ${from} as ${alias}`;
  }
}

/** An upsert counts each row up as it is offered and down as it meets one that exists; what remains is new. */
function countInserted(step) {
  const sofar = "coalesce(nullif(current_setting('api.inserted', true), ''), '0')::int";
  return `set_config('api.inserted', (${sofar} + ${step})::text, true) is not null`;
}

/** Only names of types and their sizes get here (see the grammar); quoted, so that nothing else can. */
function typeName(cast) {
  const [, name, size = '', array = ''] = /^(.+?)(\(\d+(?:,\d+)?\))?((?:\[\])*)$/.exec(cast.trim());
  return `${KNOWN_TYPES.has(name.toLowerCase()) ? name : quote(name)}${size}${array}`;
}

const KNOWN_TYPES = new Set([
  'text',
  'int',
  'integer',
  'int2',
  'int4',
  'int8',
  'smallint',
  'bigint',
  'numeric',
  'decimal',
  'real',
  'float4',
  'float8',
  'double precision',
  'boolean',
  'bool',
  'date',
  'time',
  'timestamp',
  'timestamptz',
  'interval',
  'uuid',
  'json',
  'jsonb',
  'varchar',
  'char',
  'character varying',
  'bytea',
]);

const arrayOf = (values) => `{${values.map((each) => `"${each.replace(/(["\\])/g, '\\$1')}"`).join(',')}}`;
