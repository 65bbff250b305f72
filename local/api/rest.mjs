// The data API: /rest/v1/<relation> and /rest/v1/rpc/<function>, as PostgREST answers.
import { fromDatabase, fromToken, isDatabaseError, restError } from './errors.mjs';
import { readBody, send } from './http.mjs';
import { applyRange, listing, negotiate, responseHeaders, responseStatus, written } from './rest/answer.mjs';
import { chooseFunction } from './rest/functions.mjs';
import { openApi } from './rest/openapi.mjs';
import { readPayload } from './rest/payload.mjs';
import { Preferences } from './rest/preferences.mjs';
import { parseQuery } from './rest/query.mjs';
import { Statement, quote } from './rest/statement.mjs';
import { TokenError } from './tokens.mjs';

const READS = ['GET', 'HEAD'];
const WRITES = { POST: insert, PUT: replace, PATCH: update, DELETE: remove };

// The schema cache does not know it, or not as it is now; a new reading may.
const STALE = new Set(['PGRST200', 'PGRST202', 'PGRST204', 'PGRST205']);

export class Rest {
  constructor(database, catalog) {
    this.database = database;
    this.catalog = catalog;
  }

  async handle(request, response, url, caller) {
    const call = {
      request,
      url,
      caller,
      reads: READS.includes(request.method),
      path: decodeURIComponent(url.pathname.slice('/rest/v1'.length)) || '/',
      body: READS.includes(request.method) ? null : await readBody(request),
      preferences: new Preferences(request),
      format: negotiate(request.headers.accept),
    };
    const answer = await this.#answer({ ...call, catalog: await this.catalog.current() }).catch(async (error) => {
      if (!STALE.has(error.body?.code)) throw error;
      return this.#answer({ ...call, catalog: await this.catalog.read() });
    });
    send(response, answer.status, answer.body, answer.headers);
  }

  failure(error, caller) {
    if (error instanceof TokenError) return fromToken(error);
    return isDatabaseError(error) ? fromDatabase(error, (caller?.role ?? 'anon') !== 'anon') : error;
  }

  async #answer(call) {
    const schema = chosenSchema(call);
    const names = call.path.split('/').filter(Boolean);
    const made = { ...call, schema, statement: new Statement(call.catalog, schema) };
    if (names.length === 0) return describe(made);
    if (names.length === 1) return call.reads ? this.#read(made, names[0]) : this.#write(made, names[0]);
    if (names.length === 2 && names[0] === 'rpc') return this.#call(made, names[1]);
    throw restError(404, 'PGRST125', 'Invalid path specified in request URL');
  }

  async #read(call, name) {
    const { statement, catalog, preferences } = call;
    const relation = relationOf(call, name);
    const { tree } = parseQuery(call.url.searchParams);
    applyRange(call.request, tree);
    const counting = new Statement(catalog, call.schema);
    const result = await this.#run(call, {
      readOnly: true,
      source: statement.rows(tree, relation, { maxRows: catalog.maxRows }),
      total: counted(preferences, () => statement.count(tree, relation), catalog.maxRows),
      estimate: ['planned', 'estimated'].includes(preferences.count)
        ? { text: counting.count(tree, relation), values: counting.values }
        : null,
    });
    return listing({ ...call, tree }, result);
  }

  async #write(call, name) {
    const { statement, preferences } = call;
    const relation = relationOf(call, name);
    const write = WRITES[call.request.method];
    if (!write) throw unsupported(call.request.method);
    const { tree, ...asked } = parseQuery(call.url.searchParams);
    const shown = preferences.returning === 'representation';
    const located = preferences.returning === 'headers-only' && relation.key.length > 0;
    const returning = shown
      ? statement.returning(tree, relation)
      : statement.returning({ select: relation.key.map((column) => ({ field: { column } })), order: [] }, relation);
    const change = write(call, relation, { tree, ...asked, returning: shown || located ? returning : '1' });
    // The conditions chose what to change; what was changed need not fulfil them any more.
    const all = { ...tree, where: [], limit: null, offset: 0 };
    const result = await this.#run(call, {
      before: `"changed" as (${change.text})`,
      source: shown ? statement.rows(all, relation, { source: '"changed"' }) : 'select * from "changed"',
      silent: !shown,
      key: located ? relation.key : [],
    });
    const created =
      (call.request.method === 'POST' && !(change.upsert && result.inserted === 0)) ||
      (call.request.method === 'PUT' && result.inserted > 0);
    const location =
      located &&
      result.key &&
      `/${name}?${relation.key
        .map((column, index) => `${encodeURIComponent(column)}=eq.${encodeURIComponent(result.key[index])}`)
        .join('&')}`;
    return written(call, { ...result, created }, location);
  }

  async #call(call, name) {
    const { statement, catalog, preferences, request, reads, schema, body } = call;
    if (!reads && request.method !== 'POST') throw unsupported(request.method);
    const candidates = catalog.functionsNamed(schema, name);
    const asked = parseQuery(
      call.url.searchParams,
      (key) => reads && candidates.some(({ parameters }) => parameters.some((each) => each.name === key)),
    );
    const { fn, given } = chooseFunction({ candidates, schema, name, request, body, asked });
    applyRange(request, asked.tree);
    const relation = (fn.returns && catalog.relation(...fn.returns)) ?? { schema, name, columns: new Map() };
    const before = `"called" as materialized (${statement.call(fn, given)})`;
    const rows = { source: '"called"', alias: name, maxRows: fn.set ? catalog.maxRows : undefined };
    const result = await this.#run(call, {
      before,
      readOnly: reads || fn.volatility !== 'v',
      source: fn.composite ? statement.rows(asked.tree, relation, rows) : 'select * from "called"',
      total: counted(preferences, () =>
        fn.composite ? statement.count(asked.tree, relation, rows) : 'select 1 from "called"',
      ),
      scalar: !fn.composite,
      single: !fn.set,
      silent: fn.void,
    });
    if (fn.void) return { status: result.status ?? 204, body: null, headers: result.headers };
    return listing({ ...call, tree: asked.tree }, result);
  }

  /** One statement does the work, makes the JSON and counts; it runs as the caller, in a transaction of its own. */
  async #run({ request, path, caller, catalog, statement, preferences, format }, plan) {
    const told = {
      method: request.method,
      path,
      headers: request.headers,
      settings: { ...catalog.roleSettings[caller.role], ...preferences.settings },
      check: catalog.preRequest ? ` select ${catalog.preRequest.split('.').map(quote).join('.')}();` : '',
    };
    const text = finalSelect(plan, format);
    return this.database.asCaller(
      caller,
      told,
      async (query) => {
        const planned = plan.estimate ? await estimate(query, plan.estimate) : null;
        const [row] = await query(text, statement.values);
        const result = {
          ...row,
          count: Number(row.count),
          total: totalOf(row, planned, preferences, catalog.maxRows),
          inserted: row.inserted ? Number(row.inserted) : null,
          headers: responseHeaders(row.headers),
          status: responseStatus(row.status),
        };
        refuse(result, plan, preferences, format);
        return result;
      },
      { readOnly: plan.readOnly },
    );
  }
}

function describe({ request, caller, catalog, schema, url, reads }) {
  if (!reads) throw unsupported(request.method);
  if (caller.role !== 'service_role') {
    throw restError(403, 'PGRST125', 'The description of the API is for the secret key.');
  }
  const text = JSON.stringify(openApi(catalog, schema, url.origin));
  return { status: 200, body: text, headers: { 'content-type': 'application/openapi+json; charset=utf-8' } };
}

function chosenSchema({ request, reads, catalog: { schemas } }) {
  const asked = request.headers[reads ? 'accept-profile' : 'content-profile'] ?? schemas[0];
  if (schemas.includes(asked)) return asked;
  throw restError(
    406,
    'PGRST106',
    `Invalid schema: ${asked}`,
    null,
    `Only the following schemas are exposed: ${schemas.join(', ')}`,
  );
}

function relationOf({ catalog, schema }, name) {
  const relation = catalog.relation(schema, name);
  if (relation) return relation;
  const near = catalog
    .relationsOf(schema)
    .map((each) => each.name)
    .find((each) => each.startsWith(name) || name.startsWith(each));
  throw restError(
    404,
    'PGRST205',
    `Could not find the table '${schema}.${name}' in the schema cache`,
    null,
    near ? `Perhaps you meant the table '${schema}.${near}'` : null,
  );
}

const unsupported = (method) => restError(405, 'PGRST117', `Unsupported HTTP method: ${method}`);

function insert(
  { request, body, statement, preferences, catalog, schema },
  relation,
  { columns, onConflict, returning },
) {
  const payload = readPayload(request, body, columns);
  knownColumns(relation, [...payload.keys, ...(onConflict ?? [])]);
  const upsert = preferences.resolution !== null;
  const conflict = upsert && { on: onConflict ?? relation.key, ignore: preferences.resolution === 'ignore-duplicates' };
  const text = statement.insert(relation, {
    body: payload.text,
    columns: payload.keys,
    rows: payload.rows,
    useDefaults: preferences.useDefaults,
    conflict,
    returning,
  });
  return { text, upsert: upsert && !conflict.ignore };
}

/** PUT: one row, whole, under the key that the address names. */
function replace({ request, body, statement, preferences }, relation, { columns, tree, returning }) {
  const payload = readPayload(request, body, columns);
  const { where } = tree;
  const exact =
    where.length === relation.key.length &&
    where.every(
      ({ field, operator, negated, argument }) =>
        operator === 'eq' && !negated && argument === null && relation.key.includes(field?.column),
    );
  if (!exact || where.length === 0) {
    throw restError(405, 'PGRST105', "Filters must include all and only primary key columns with 'eq' operators");
  }
  if (tree.limit !== null || tree.offset > 0) {
    throw restError(400, 'PGRST114', 'limit/offset querystring parameters are not allowed for PUT');
  }
  const [object] = payload.objects;
  if (payload.rows !== 1 || !where.every(({ field, value }) => String(object[field.column]) === value)) {
    throw restError(400, 'PGRST115', 'Payload values do not match URL in primary key column(s)');
  }
  knownColumns(relation, payload.keys);
  const conflict = { on: relation.key, ignore: false };
  return {
    text: statement.insert(relation, {
      body: payload.text,
      columns: payload.keys,
      rows: 1,
      useDefaults: preferences.useDefaults,
      conflict,
      returning,
    }),
    upsert: true,
  };
}

function update({ request, body, statement, preferences }, relation, { columns, tree, returning }) {
  const payload = readPayload(request, body, columns);
  knownColumns(relation, payload.keys);
  if (payload.keys.length === 0 || payload.rows === 0)
    return { text: `select ${returning} from ${statement.nothing(relation)}` };
  narrowed(tree, 'UPDATE');
  return {
    text: statement.update(relation, tree, {
      body: payload.text,
      columns: payload.keys,
      useDefaults: preferences.useDefaults,
      returning,
    }),
  };
}

function remove({ statement }, relation, { tree, returning }) {
  narrowed(tree, 'DELETE');
  return { text: statement.delete(relation, tree, { returning }) };
}

/** Hosted projects refuse a change of every row that nobody asked for in so many words. */
function narrowed({ where }, verb) {
  if (where.length === 0) throw restError(400, '21000', `${verb} requires a WHERE clause`);
}

function knownColumns(relation, names) {
  const unknown = names.find((name) => !relation.columns.has(name));
  if (unknown === undefined) return;
  throw restError(400, 'PGRST204', `Could not find the '${unknown}' column of '${relation.name}' in the schema cache`);
}

/** An exact count, or for an estimate only as far as it decides whether to estimate. */
function counted({ count }, select, maxRows) {
  if (count === null || count === 'planned') return null;
  return count === 'estimated' && maxRows ? `${select()} limit ${maxRows + 1}` : select();
}

async function estimate(query, { text, values }) {
  const [row] = await query(`explain (format json) ${text}`, values);
  return row['QUERY PLAN'][0].Plan['Plan Rows'];
}

function totalOf(row, planned, { count }, maxRows) {
  if (planned !== null && (count === 'planned' || Number(row.total) > maxRows))
    return Math.max(planned, Number(row.total ?? 0));
  return row.total === null ? null : Number(row.total);
}

function finalSelect({ before, source, total, key = [], scalar, single, silent }, { shape, stripped }) {
  const each = scalar ? '"row"."scalar"' : stripped ? 'json_strip_nulls(row_to_json("row".*))' : '"row".*';
  const first = `coalesce((json_agg(${each}) -> 0)::text, 'null')`;
  const bodies = {
    array: single ? first : `coalesce(json_agg(${each}), '[]')::text`,
    object: first,
    csv: csv(),
  };
  const named = key.map((name) => `"row".${quote(name)}::text`).join(', ');
  return [
    `with ${before ? `${before}, ` : ''}"source" as (${source})`,
    `select ${silent ? 'null' : bodies[shape]} as body, count(*) as count,`,
    `${total ? `(select count(*) from (${total}) as "counted")` : 'null'} as total,`,
    `${named ? `(array_agg(json_build_array(${named})))[1]` : 'null'} as key,`,
    "current_setting('response.headers', true) as headers, current_setting('response.status', true) as status,",
    "nullif(current_setting('api.inserted', true), '') as inserted",
    'from (select * from "source") as "row"',
  ].join(' ');
}

/** A row's text form is CSV but for the brackets around it. */
function csv() {
  const header =
    `(select string_agg(name, ',') from (select json_object_keys(row_to_json("line".*)) as name ` +
    'from (select * from "source" limit 1) as "line") as names)';
  const lines = `string_agg(substring("row".*::text from 2 for length("row".*::text) - 2), e'\\n')`;
  return `coalesce(${header} || e'\\n' || ${lines}, '')`;
}

/** Thrown inside the transaction, so that a change which is refused did not happen. */
function refuse({ count }, { single }, { maxAffected }, { shape }) {
  if (shape === 'object' && !single && count !== 1) {
    throw restError(
      406,
      'PGRST116',
      'Cannot coerce the result to a single JSON object',
      `The result contains ${count} rows`,
    );
  }
  if (maxAffected !== null && count > maxAffected) {
    throw restError(
      400,
      'PGRST124',
      'Query result exceeds max-affected preference constraint',
      `The query affects ${count} rows`,
    );
  }
}
